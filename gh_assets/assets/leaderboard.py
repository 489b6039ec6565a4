"""`leaderboard`: every recommender on the same held-out users."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
from pydantic import Field

from gh_assets.assets.conditions import CHAIN_FRESH, when_upstream_updated
from gh_assets.assets.hybrid_model import hybrid_model
from gh_assets.assets.metadata import (
    OWNERS,
    RECOMMENDER,
    figure_metadata,
    markdown_table,
    measure_seconds,
    table_metadata,
)
from gh_assets.assets.recvae_model import matrix_lineage, register
from gh_assets.assets.retries import retry_transient
from gh_assets.errors import InvalidInteractionsError, ModelNotFoundError
from gh_assets.local import progress
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC
from gh_assets.registry import HYBRID, RECVAE, SERVED, ModelRegistry
from gh_assets.resources import GcsResource, MongoResource
from gh_assets.schemas import LEADERBOARD
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import Collections

if TYPE_CHECKING:
    from gh_assets.recommender.evaluation.evaluation import Evaluation
    from gh_assets.recommender.models.base import Recommender


USERS_HELD_OUT = "users held out"


class LeaderboardConfig(dg.Config):
    """What is compared."""

    seed: int = Field(default=0, description="Seed of the split: that of the RecVAE.")
    tag: str = Field(default="", description="Tag of the models that are compared.")
    in_time: bool = Field(
        default=True,
        description="Where stars have times, also train on the earlier ones and test on the later ones.",
    )


@dg.asset(
    deps=[hybrid_model],
    automation_condition=when_upstream_updated(),
    freshness_policy=CHAIN_FRESH,
    group_name=RECOMMENDER,
    kinds={"pytorch", "scipy", "polars", "parquet"},
    owners=OWNERS,
    metadata=table_metadata(LEADERBOARD),
    description=(
        "One row is one recommender on one kind of split: users held out whole, and, where stars have times, the "
        "later stars held out. RecVAE and the hybrid as they are registered; popularity, item neighbours, EASE, iALS "
        "and Mult-VAE trained and tuned on the same users. With confidence intervals, coverage and popularity bias."
    ),
)
@retry_transient
def leaderboard(
    context: dg.AssetExecutionContext,
    config: LeaderboardConfig,
    user_item_matrix: UserItemMatrix,
    gcs: GcsResource,
    mongo: MongoResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Metrics of all recommenders, best first."""
    from gh_assets.recommender.models.hybrid import Hybrid
    from gh_assets.recommender.models.recvae import RecVAE
    from gh_assets.recommender.training.training import compare, compare_in_time
    from gh_assets.serving.current_model import load_model, model_cache

    with measure_seconds() as timing:
        with mongo.database() as database:
            registry = ModelRegistry(gcs.model_store(), database[Collections.MODELS])
            hybrid = load_model(registry, registry.latest(HYBRID, config.tag), model_cache(load_settings()))
        if hybrid.data.get("matrix_sha256") != user_item_matrix.fingerprint:
            raise ModelNotFoundError(
                f"The newest {HYBRID} was trained on another user-item matrix: materialize hybrid_model first."
            )
        assert isinstance(hybrid.model, Hybrid)
        trained = 0

        def tell(name: str) -> None:
            nonlocal trained
            progress.report("leaderboard", trained, 5, name)
            trained += 1

        rows, models = compare(user_item_matrix, [hybrid.model], split_seed=config.seed, on_model=tell)
        leader = models[rows[0].name]
        if leader.name not in SERVED:
            # A baseline that is the best is a candidate like any other: then it must be there to be promoted.
            _register_baseline(context, config, user_item_matrix, leader, gcs, mongo)
        tables = [_table(USERS_HELD_OUT, rows)]
        metadata: dict[str, Any] = {
            "leaderboard": _markdown(rows, MAIN_METRIC),
            "plot": _plot(rows, MAIN_METRIC),
        }
        later, recvae = None, hybrid.model.first
        assert isinstance(recvae, RecVAE)
        if config.in_time:
            progress.report("leaderboard", trained, 5, "before and after a date")
            try:
                later = compare_in_time(user_item_matrix, recvae.config, split_seed=config.seed)
            except InvalidInteractionsError as error:
                context.log.info(f"There is no split by time: {error}")
        if later is not None:
            tables.append(_table("later stars held out", later[0]))
            metadata |= {"in_time": _markdown(later[0], MAIN_METRIC), "in_time_from": str(later[1])}
        progress.report("leaderboard", 5, 5, f"best: {rows[0].name}")
    scores = {row.name: row.means[MAIN_METRIC] for row in rows}
    return dg.MaterializeResult(
        value=pl.concat(tables),
        metadata={
            "best": rows[0].name,
            "recvae": scores.get(RECVAE, 0.0),
            "best_baseline": max(value for name, value in scores.items() if name not in SERVED),
            **metadata,
            **timing,
        },
    )


def _register_baseline(
    context: dg.AssetExecutionContext,
    config: LeaderboardConfig,
    matrix: UserItemMatrix,
    model: "Recommender",
    gcs: GcsResource,
    mongo: MongoResource,
) -> None:
    from gh_assets.recommender.training.training import result_of, split_of

    fingerprint = f"{model.name} of {matrix.fingerprint}, split {config.seed}"
    with mongo.database() as database:
        registry = ModelRegistry(gcs.model_store(), database[Collections.MODELS])
        if registry.find(model.name, fingerprint) is not None:
            return
        registered = register(
            registry,
            result_of(matrix, split_of(matrix, config.seed), model, {}),
            tag=config.tag,
            config=model._config(),
            run_id=context.run.run_id,
            fingerprint=fingerprint,
            lineage=matrix_lineage(gcs.asset_store()),
        )
    context.log.info(f"{model.name} is the best: registered as {registered.title}, to compete for champion.")


def _table(split: str, rows: "Sequence[Evaluation]") -> pl.DataFrame:
    described = [{"split": split, "model": row.name, "users": len(row.histories), **row.summary()} for row in rows]
    return pl.DataFrame(described, schema=LEADERBOARD.dtypes)


def _markdown(rows: "Sequence[Evaluation]", metric: str) -> dg.MarkdownMetadataValue:
    """Metrics with the interval of the main one, and how far each is from the best on the same users."""
    best = rows[0]
    others = [name for name in best.means if name != metric]
    header = ["model", f"{metric} [95 %]", "to the best [95 %]", *others, "coverage@20", "novelty@20"]
    body: list[Sequence[Any]] = [
        (
            row.name,
            str(row.interval(metric)),
            "" if row is best else str(row.against(best, metric)),
            *(row.means[name] for name in others),
            row.coverage,
            row.novelty,
        )
        for row in rows
    ]
    return markdown_table(header, body)


def _plot(rows: "Sequence[Evaluation]", metric: str) -> dg.MarkdownMetadataValue:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 + 0.4 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = [row.name for row in reversed(rows)]
    intervals = [row.interval(metric) for row in reversed(rows)]
    means = [interval.mean for interval in intervals]
    errors = [
        [interval.mean - interval.low for interval in intervals],
        [interval.high - interval.mean for interval in intervals],
    ]
    colors = ["tab:blue" if name in SERVED else "tab:gray" for name in names]
    axes.barh(names, means, xerr=errors, color=colors, ecolor="black", capsize=3)
    axes.set_xlabel(f"{metric} on held-out users, 95 % intervals")
    return figure_metadata(figure, "Leaderboard")
