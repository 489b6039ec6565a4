"""Search for RecVAE's hyperparameters within a time budget, on the validation users alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna

from gh_assets.errors import InvalidInteractionsError
from gh_assets.recommender.data.splits import StrongGeneralizationSplit
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC
from gh_assets.recommender.models.recvae import RecVAE, RecVAEConfig

STARTUP_TRIALS = 8
"""Random trials before the sampler and the median pruner begin."""


@dataclass(frozen=True)
class Trial:
    """A tried configuration.

    Attributes
    ----------
    number : int
        0 is the initial configuration.
    parameters : dict
        The searched hyperparameters.
    score : float or None
        Best validation NDCG@100; None if the trial was pruned or the time was over.
    epochs : int
        Number of trained epochs.
    seconds : float
    """

    number: int
    parameters: Mapping[str, Any]
    score: float | None
    epochs: int
    seconds: float


@dataclass(frozen=True)
class SearchResult:
    """The best configuration with its model, and all trials."""

    config: RecVAEConfig
    score: float
    model: RecVAE
    trials: Sequence[Trial]


def search(
    split: StrongGeneralizationSplit,
    base: RecVAEConfig,
    minutes: float,
    *,
    max_trials: int | None = None,
    on_trial: Callable[[Trial, float], None] | None = None,
) -> SearchResult:
    """Search by a tree-structured Parzen estimator with median pruning (Akiba et al., KDD 2019).

    The first trial is `base` itself and is finished whatever the budget, so that there is always a result.

    Parameters
    ----------
    split : StrongGeneralizationSplit
        Training and validation users; the test users are not used.
    base : RecVAEConfig
        Initial configuration, with values for the training users where it leaves them to the data, and the values that
        are not searched: epochs, patience, seed, device.
    minutes : float
        Budget. An epoch that has begun is finished.
    max_trials : int, optional
        Maximum number of trials.
    on_trial : callable, optional
        Called with each trial and the best score so far.

    Raises
    ------
    InvalidInteractionsError
        If no trial could be trained.
    """
    base = base.settled(split.train)
    deadline = time.monotonic() + 60 * minutes
    trials: list[Trial] = []
    best: SearchResult | None = None

    def attempt(trial: optuna.Trial) -> float:
        nonlocal best
        config = replace(base, **_suggested(trial, base))
        number, started, epochs = trial.number, time.monotonic(), 0
        highest = 0.0

        def report(row: dict[str, float]) -> None:
            nonlocal epochs, highest
            epochs, highest = epochs + 1, max(highest, row[MAIN_METRIC])
            trial.report(highest, epochs)
            if number > 0 and (time.monotonic() > deadline or trial.should_prune()):
                raise optuna.TrialPruned

        score: float | None = None
        try:
            model = RecVAE(config, on_epoch=report).fit(split.train, split.validation)
            score = highest
            if best is None or score > best.score:
                best = SearchResult(config, score, model, trials)
        except InvalidInteractionsError as error:  # the training diverged
            raise optuna.TrialPruned from error
        finally:
            trials.append(Trial(number, dict(trial.params), score, epochs, time.monotonic() - started))
            if on_trial is not None:
                on_trial(trials[-1], best.score if best is not None else 0.0)
        return score

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=base.seed, n_startup_trials=STARTUP_TRIALS),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=3),
        )
        study.enqueue_trial({name: getattr(base, name) for name in SEARCHED})
        while not trials or ((max_trials is None or len(trials) < max_trials) and time.monotonic() < deadline):
            study.optimize(attempt, n_trials=1)
    finally:
        optuna.logging.set_verbosity(verbosity)
    if best is None:
        raise InvalidInteractionsError("No configuration could be trained: all diverged.")
    return best


SEARCHED = ("gamma", "dropout", "learning_rate", "initial_scale", "latent_size", "batch_size")


def _suggested(trial: optuna.Trial, base: RecVAEConfig) -> dict[str, Any]:
    """Suggest values around the published ones, and around those that the data ask for."""
    assert base.gamma is not None
    assert base.batch_size is not None
    sizes = sorted({max(1, int(base.batch_size * factor)) for factor in (0.25, 0.5, 1, 2)})
    return {
        "gamma": trial.suggest_float("gamma", min(5e-4, base.gamma / 4), max(0.05, base.gamma), log=True),
        "dropout": trial.suggest_float("dropout", 0.3, 0.8),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        "initial_scale": trial.suggest_float("initial_scale", 0.1, 2.0, log=True),
        "latent_size": trial.suggest_categorical("latent_size", [64, 128, 200, 300]),
        "batch_size": trial.suggest_categorical("batch_size", sizes),
    }
