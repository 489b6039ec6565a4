"""`champion`: the model that serves people, replaced only by one that is proven better for the same people."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from gh_assets.assets.conditions import CHAIN_FRESH, when_upstream_updated
from gh_assets.assets.hybrid_model import hybrid_model
from gh_assets.assets.leaderboard import leaderboard
from gh_assets.assets.metadata import OWNERS, RECOMMENDER, figure_metadata, markdown_table, measure_seconds
from gh_assets.assets.recvae_model import recvae_model
from gh_assets.assets.retries import retry_transient
from gh_assets.local import progress
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import CHAMPION, PURPOSE, ModelRegistry, Move, RegisteredModel
from gh_assets.resources import GcsResource, MongoResource
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import Collections

SHOWN = 20
"""Moves of the alias that the metadata list."""


class ChampionConfig(dg.Config):
    """Who competes."""

    seed: int = Field(default=0, description="Seed of the split that the models were trained on.")
    tag: str = Field(default="", description="Only models with this tag. Empty: of any.")


@dg.asset(
    deps=[recvae_model, hybrid_model, leaderboard],
    automation_condition=when_upstream_updated(),
    freshness_policy=CHAIN_FRESH,
    group_name=RECOMMENDER,
    kinds={"pytorch", "mongodb"},
    owners=OWNERS,
    description=(
        "The model that serves people. The newest RecVAE, hybrid and (if one is the best) baseline compete: the best "
        "on the validation users is put against the champion on test users whom neither has seen, and replaces it if "
        "the 95 % interval of the difference lies above zero, its weights are finite, it takes not many times the "
        "champion's processor time and knows its repositories. What cannot be loaded is skipped and named. "
        "By hand, with a reason: gh-assets models promote; back in one step: rollback."
    ),
)
@retry_transient
def champion(
    context: dg.AssetExecutionContext,
    config: ChampionConfig,
    user_item_matrix: UserItemMatrix,
    gcs: GcsResource,
    mongo: MongoResource,
) -> dg.MaterializeResult[None]:
    """The champion, and why."""
    from gh_assets.serving.current_model import load_first_usable, model_cache, serving_candidates
    from gh_assets.serving.promotion import promote_if_better

    with mongo.database() as database, measure_seconds() as timing:
        registry, cache = ModelRegistry(gcs.model_store(), database[Collections.MODELS]), model_cache(load_settings())
        verdict, move = promote_if_better(
            registry,
            cache,
            user_item_matrix,
            tag=config.tag,
            seed=config.seed,
            by=f"run {context.run.run_id}",
        )
        serves = load_first_usable(registry, serving_candidates(registry), cache)
        moves, models = registry.aliases.history(PURPOSE, CHAMPION), registry.list()
    now = serves.registered
    progress.report("champion", 1, 1, now.title)
    context.log.info(verdict.words)
    unloadable = list(dict.fromkeys([*verdict.skipped.values(), *serves.warnings]))
    for words in unloadable:
        context.log.warning(words)
    metadata: dict[str, Any] = {
        "champion": now.title,
        "promoted": move is not None,
        "decision": verdict.words,
        "outcome": verdict.outcome,
        "score": float(now.score or 0.0),
        "uri": dg.MetadataValue.path(now.uri),
        "history": _history(moves),
        "scores": score_history(models, moves),
        "checks": markdown_table(
            ["check", "passed", "finding"],
            [(name, "yes" if check.passed else "no", check.words) for name, check in verdict.checks.items()],
        ),
    }
    if unloadable:
        metadata["skipped"] = unloadable
    if verdict.difference is not None:
        metadata |= {
            "difference": verdict.difference.mean,
            "difference_low": verdict.difference.low,
            "difference_high": verdict.difference.high,
            "users_compared_on": verdict.users,
        }
    return dg.MaterializeResult(metadata={**metadata, **timing})


def _history(moves: Sequence[Move]) -> dg.MarkdownMetadataValue:
    rows = [
        (move.revision, f"{move.name} {move.version}", move.action, f"{move.time:%Y-%m-%d %H:%M}", move.by, move.why)
        for move in moves[:SHOWN]
    ]
    return markdown_table(["#", "model", "action", "when (UTC)", "by", "why"], rows)


def score_history(models: Sequence[RegisteredModel], moves: Sequence[Move]) -> dg.MarkdownMetadataValue:
    """Scores of all models in the order of their registration, with their intervals; promotions marked.

    Parameters
    ----------
    models : sequence of RegisteredModel
        The newest first.
    moves : sequence of Move
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    metric = next((model.metric for model in models if model.score is not None), "score")
    order = {(model.name, model.version): place for place, model in enumerate(reversed(models), start=1)}
    places: dict[tuple[str, int], tuple[int, float]] = {}
    for name in sorted({model.name for model in models}):
        scored = [m for m in reversed(models) if m.name == name and m.score is not None and m.metric == metric]
        if not scored:
            continue
        scores = [float(model.score or 0.0) for model in scored]
        ends = [model.intervals.get(metric, (score, score)) for model, score in zip(scored, scores, strict=True)]
        errors = [
            [max(score - low, 0.0) for score, (low, _) in zip(scores, ends, strict=True)],
            [max(high - score, 0.0) for score, (_, high) in zip(scores, ends, strict=True)],
        ]
        numbers = [order[m.name, m.version] for m in scored]
        axes.errorbar(numbers, scores, yerr=errors, marker="o", capsize=3, label=name)
        places |= {(m.name, m.version): (at, score) for m, at, score in zip(scored, numbers, scores, strict=True)}
    for move in moves:
        place = places.get((move.name, move.version))
        if place is not None:
            axes.plot(*place, marker="*", markersize=14, color="tab:orange", linestyle="none")
    axes.set_ylabel(f"{metric}, held-out users")
    axes.set_xlabel("models in the order of their registration")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title="★ was champion", loc="best")
    return figure_metadata(figure, "Score history")
