"""`gh-assets tune`: a search for RecVAE's hyper-parameters, whose best model is registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gh_assets.cli.output import json_option, report, stderr
from gh_assets.errors import InputError
from gh_assets.settings import load_settings

if TYPE_CHECKING:
    from gh_assets.recommender.training.search import SearchResult, Trial
    from gh_assets.registry import RegisteredModel


@click.command()
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Time budget of the search.",
)
@click.option("--epochs", type=click.IntRange(1), help="Maximum number of epochs per trial.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the search, the training and the split.")
@json_option
def tune(minutes: float, epochs: int | None, seed: int, as_json: bool) -> None:
    """Search for RecVAE's hyper-parameters on the current data.

    Later runs train with the best ones found.
    """
    from gh_assets.cli.documents import model_json

    registered, result = _search_and_register(minutes, epochs, seed, None if as_json else _print_trial)
    text = (
        f"{len(result.trials)} trials. Best score on the validation users: {result.score:.4f}; on the test users: "
        f"{registered.score or 0.0:.4f}. The model is registered as {registered.name} with tag {registered.tag!r}; the "
        "next run trains with its hyper-parameters."
    )
    report(model_json(registered, {}), text, as_json)


def _search_and_register(
    minutes: float, epochs: int | None, seed: int, on_trial: Callable[[Trial, float], None] | None
) -> tuple[RegisteredModel, SearchResult]:
    """Search, and register the best model with the tag ``tuned`` and its trials.

    From then on, the asset `recvae_model` trains with its hyper-parameters.

    Raises
    ------
    InputError
        If there is no user-item matrix yet.
    """
    from gh_assets.recommender.models.recvae import RecVAEConfig
    from gh_assets.recommender.training.search import search
    from gh_assets.recommender.training.training import result_of, split_of
    from gh_assets.registry import open_registry
    from gh_assets.registry.training import TUNED, register
    from gh_assets.services.connections import asset_store
    from gh_assets.serving.current_model import model_cache
    from gh_assets.serving.promotion import next_test_start

    settings = load_settings()
    store = asset_store(settings)
    if store.describe("user_item_matrix", "npz") is None:
        raise InputError("There is no user-item matrix to search on yet: make one with gh-assets run.")
    matrix = store.read_matrix("user_item_matrix")
    with open_registry(settings) as registry:
        split = split_of(matrix, seed, next_test_start(registry, model_cache(settings), matrix))
    base = RecVAEConfig(seed=seed) if epochs is None else RecVAEConfig(seed=seed, epochs=epochs)
    found = search(split, base, minutes, on_trial=on_trial)
    trained = result_of(matrix, split, found.model, {})
    summary = {"minutes": minutes, "score": found.score, "trials": [asdict(trial) for trial in found.trials]}
    with open_registry(settings) as registry:
        return register(registry, trained, tag=TUNED, search=summary), found


def _print_trial(trial: Trial, best: float) -> None:
    score = f"{trial.score:.4f}" if trial.score is not None else "ended early"
    parameters = ", ".join(f"{name} {value:.4g}" for name, value in trial.parameters.items())
    stderr.print(
        f"trial {trial.number}: {score} (best {best:.4f}) {trial.epochs} epochs, {trial.seconds:.0f} s; {parameters}"
    )
