"""`gh-assets tune`: a search for RecVAE's hyper-parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gh_assets.cli.output import json_option, print_json, stderr, stdout
from gh_assets.settings import load_settings

if TYPE_CHECKING:
    from gh_assets.recommender.training.search import Trial


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
    from gh_assets.cli.search import search_and_register

    on_trial = None if as_json else _print_trial
    registered, result = search_and_register(load_settings(), minutes, epochs=epochs, seed=seed, on_trial=on_trial)
    if as_json:
        print_json(model_json(registered, {}))
        return
    stdout().print(
        f"{len(result.trials)} trials. Best score on the validation users: {result.score:.4f}; on the test users: "
        f"{registered.score or 0.0:.4f}. The model is registered as {registered.name} with tag {registered.tag!r}; the "
        "next run trains with its hyper-parameters."
    )


def _print_trial(trial: Trial, best: float) -> None:
    score = f"{trial.score:.4f}" if trial.score is not None else "ended early"
    parameters = ", ".join(f"{name} {value:.4g}" for name, value in trial.parameters.items())
    stderr.print(
        f"trial {trial.number}: {score} (best {best:.4f}) {trial.epochs} epochs, {trial.seconds:.0f} s; {parameters}"
    )
