"""`champion`: the model that serves, replaced only by one that is proven better on the same held-out users."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import numpy as np

from gh_assets.assets.definition import AssetConfig, recommender_asset, when_upstream_updated
from gh_assets.assets.hybrid_model import hybrid_model
from gh_assets.assets.leaderboard import leaderboard
from gh_assets.assets.metadata import figure_metadata, markdown_table, measure_seconds
from gh_assets.assets.recvae_model import recvae_model
from gh_assets.local import progress
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import CHAMPION, PURPOSE, Move, RegisteredModel
from gh_assets.resources import RegistryResource

LISTED_MOVES = 20
"""Moves of the alias in the metadata."""


class ChampionConfig(AssetConfig):
    """Which models are candidates."""

    seed: int = 0
    """Seed of the split that the models were trained on."""

    tag: str = ""
    """Only models with this tag. Empty: with any."""


@recommender_asset(
    deps=[recvae_model, hybrid_model, leaderboard],
    automation_condition=when_upstream_updated(),
    kinds={"pytorch", "mongodb"},
)
def champion(
    context: dg.AssetExecutionContext,
    config: ChampionConfig,
    user_item_matrix: UserItemMatrix,
    registry: RegistryResource,
) -> dg.MaterializeResult[None]:
    """The model that serves.

    Candidates are the newest RecVAE, hybrid and (if one is certainly better) baseline. The one that is best on the
    validation users is compared with the champion on test users that were held out of both trainings, with as many
    known stars as people have. It becomes champion if the 95 % interval of the difference lies above zero, it is not
    certainly worse than popularity with 1, 2, 3, 5, 10 or all known stars, its weights are finite, it takes not many
    times the champion's processor time and knows its repositories. Without a champion it has to be better than
    popularity. Models that cannot be loaded are skipped and named. By hand: gh-assets models promote, undone by
    gh-assets models rollback.
    """
    from gh_assets.serving.current_model import load_first_usable, model_cache, serving_candidates
    from gh_assets.serving.promotion import PromotionGate

    with registry.open() as models, measure_seconds() as timing:
        cache = model_cache(registry.settings())
        gate = PromotionGate(models, cache, user_item_matrix, tag=config.tag, seed=config.seed)
        comparison, move = gate.decide(f"run {context.run.run_id}")
        serving = load_first_usable(models, serving_candidates(models), cache)
        moves, registered = models.aliases.history(PURPOSE, CHAMPION), models.list()
    model = serving.registered
    progress.report("champion", 1, 1, model.title)
    context.log.info(comparison.summary)
    unloadable = list(dict.fromkeys([*comparison.skipped.values(), *serving.warnings]))
    for problem in unloadable:
        context.log.warning(problem)
    metadata: dict[str, Any] = {
        "champion": model.title,
        "promoted": move is not None,
        "decision": comparison.summary,
        "outcome": comparison.outcome,
        "score": float(model.score or 0.0),
        "uri": dg.MetadataValue.path(model.uri),
        "history": _history(moves),
        "scores": score_history(registered, moves),
        "checks": markdown_table(
            ["check", "passed", "finding"],
            [(name, "yes" if check.passed else "no", check.finding) for name, check in comparison.checks.items()],
        ),
    }
    if unloadable:
        metadata["skipped"] = unloadable
    if comparison.difference is not None:
        metadata |= {
            "difference": comparison.difference.mean,
            "difference_low": comparison.difference.low,
            "difference_high": comparison.difference.high,
            "users_compared_on": comparison.users,
        }
    return dg.MaterializeResult(metadata={**metadata, **timing})


def _history(moves: Sequence[Move]) -> dg.MarkdownMetadataValue:
    rows = [
        (move.revision, move.title, move.action, f"{move.time:%Y-%m-%d %H:%M}", move.by, move.why)
        for move in moves[:LISTED_MOVES]
    ]
    return markdown_table(["#", "model", "action", "when (UTC)", "by", "reason"], rows)


def score_history(models: Sequence[RegisteredModel], moves: Sequence[Move]) -> dg.MarkdownMetadataValue:
    """Return a plot of all models' scores in the order of registration, with intervals, and champions marked.

    Parameters
    ----------
    models : sequence of RegisteredModel
        Newest first.
    moves : sequence of Move
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    metric = next((model.metric for model in models if model.score is not None), "score")
    order = {model.key: place for place, model in enumerate(reversed(models), start=1)}
    places: dict[tuple[str, int], tuple[float, float]] = {}
    for name in sorted({model.name for model in models}):
        scored = {m.key: (m, m.score) for m in models if m.name == name and m.metric == metric and m.score is not None}
        if not scored:
            continue
        points = [(order[key], score, *m.intervals.get(metric, (score, score))) for key, (m, score) in scored.items()]
        numbers, scores, low, high = np.array(points[::-1]).T
        errors = np.maximum([scores - low, high - scores], 0.0)
        axes.errorbar(numbers, scores, yerr=errors, marker="o", capsize=3, label=name)
        places |= {key: (order[key], score) for key, (_, score) in scored.items()}
    for move in moves:
        if move.key in places:
            axes.plot(*places[move.key], marker="*", markersize=14, color="tab:orange", linestyle="none")
    axes.set_ylabel(f"{metric}, held-out users")
    axes.set_xlabel("models in the order of their registration")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title="★ was champion", loc="best")
    return figure_metadata(figure, "Score history")
