"""`leaderboard`: every recommender on the same held-out users."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import polars as pl

from gh_assets.assets.definition import AssetConfig, recommender_asset, when_upstream_updated
from gh_assets.assets.hybrid_model import hybrid_model
from gh_assets.assets.metadata import figure_metadata, markdown_table, measure_seconds
from gh_assets.assets.progress import asset_progress
from gh_assets.assets.reuse import newest_model
from gh_assets.errors import InvalidInteractionsError
from gh_assets.local.progress import repeated
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC
from gh_assets.registry import HYBRID, RECVAE, SERVED, ModelRegistry
from gh_assets.registry.training import matrix_lineage, register
from gh_assets.resources import GcsResource, RegistryResource
from gh_assets.schemas import LEADERBOARD
from gh_assets.serving.current_model import model_cache
from gh_assets.serving.leaderboard import KNOWN_STARS, USERS_HELD_OUT, Standing, standings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gh_assets.recommender.data.splits import StrongGeneralizationSplit
    from gh_assets.recommender.evaluation.evaluation import Evaluation
    from gh_assets.recommender.models.base import Recommender
    from gh_assets.recommender.models.hybrid import Hybrid
    from gh_assets.recommender.training.training import StepListener


STARS_HELD_OUT = "later stars held out"
"""Value of the column ``split`` for the split by time."""

HELD_OUT_PERCENT = 60
"""Share of the work that the comparison on held-out users is, if that in time follows."""


class LeaderboardConfig(AssetConfig):
    """What is compared."""

    seed: int = 0
    """Seed of the split: that of the RecVAE."""

    tag: str = ""
    """Tag of the models that are compared."""

    in_time: bool = True
    """Where stars have times, also train on the earlier ones and test on the later ones."""


@recommender_asset(
    schema=LEADERBOARD,
    deps=[hybrid_model],
    automation_condition=when_upstream_updated(),
    kinds={"pytorch", "scipy", "polars", "parquet"},
)
def leaderboard(
    context: dg.AssetExecutionContext,
    config: LeaderboardConfig,
    user_item_matrix: UserItemMatrix,
    gcs: GcsResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Metrics of all recommenders, best first.

    One row is one recommender on one kind of split: held-out users, and, where stars have times, held-out later stars.
    RecVAE and the hybrid are the registered models; popularity, item neighbours, EASE, graph filters, SVD-AE, iALS and
    Mult-VAE are trained and tuned on the same users. With confidence intervals, coverage and popularity bias, with the
    users' histories cut to 1, 2, 3, 5 and 10 known stars, and for people who really have few.
    """
    from gh_assets.recommender.models.hybrid import Hybrid
    from gh_assets.recommender.training.training import best_on_validation, compare, split_of
    from gh_assets.serving.promotion import own_test_start

    with registry.open() as models, measure_seconds() as timing, repeated(asset_progress(context).report) as report:
        cache = model_cache(registry.settings())
        newest = newest_model(models, cache, HYBRID, config.tag, user_item_matrix)
        hybrid, test_start = newest.trained.model, own_test_start(newest)
        unseen = newest.trained.data.get("test_users")
        assert isinstance(hybrid, Hybrid)
        first_part = HELD_OUT_PERCENT if config.in_time else 100

        def between(first: int, last: int, what: str = "") -> "StepListener":
            """Return a listener for a part of the work, from one percentage to another."""
            return lambda done, steps, text: report(
                "leaderboard", first + (last - first) * done // steps, 100, what + text
            )

        rows, compared = compare(
            user_item_matrix,
            [hybrid],
            split_seed=config.seed,
            test_start=test_start,
            unseen=unseen,
            on_step=between(0, first_part),
        )
        # The test users decide whether a candidate becomes champion, so they must not choose it.
        split = split_of(user_item_matrix, config.seed, test_start, unseen)
        leader = best_on_validation(compared.values(), split, preferred=SERVED)
        if leader.name not in SERVED:
            # A baseline that is certainly better is a candidate for champion, so it has to be in the registry.
            _register_baseline(context, config, user_item_matrix, split, leader, gcs, models)
        tables = [_table(USERS_HELD_OUT, rows)]
        by_known_stars = standings(tables[0])
        metadata: dict[str, Any] = {
            "leaderboard": _markdown(rows, MAIN_METRIC),
            "known_stars": known_stars_table(by_known_stars),
            "people": people_table(by_known_stars),
            "plot": figure_metadata(leaderboard_figure(rows, by_known_stars, MAIN_METRIC), "Leaderboard"),
        }
        if config.in_time:
            table, shown = _compare_in_time(
                context, user_item_matrix, hybrid, between(first_part, 100, "before and after a date: ")
            )
            tables += table
            metadata |= shown
        report("leaderboard", 100, 100, f"best: {rows[0].name}")
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


def _compare_in_time(
    context: dg.AssetExecutionContext, matrix: UserItemMatrix, hybrid: "Hybrid", on_step: "StepListener"
) -> tuple[list[pl.DataFrame], dict[str, Any]]:
    """Return the rows and metadata of the split by time; none if there is no such split."""
    from gh_assets.recommender.models.recvae import RecVAE
    from gh_assets.recommender.training.training import compare_in_time

    recvae = hybrid.parts[0]
    assert isinstance(recvae, RecVAE)
    try:
        rows, date = compare_in_time(matrix, recvae.config, on_step=on_step)
    except InvalidInteractionsError as error:
        context.log.info(f"There is no split by time: {error}")
        return [], {}
    return [_table(STARS_HELD_OUT, rows)], {"in_time": _markdown(rows, MAIN_METRIC), "in_time_from": str(date)}


def _register_baseline(
    context: dg.AssetExecutionContext,
    config: LeaderboardConfig,
    matrix: UserItemMatrix,
    split: "StrongGeneralizationSplit",
    model: "Recommender",
    gcs: GcsResource,
    models: ModelRegistry,
) -> None:
    from gh_assets.recommender.training.training import result_of

    fingerprint = f"{model.name} of {matrix.fingerprint}, split {config.seed} from {split.test_start}, by known stars"
    if models.find(model.name, fingerprint) is not None:
        return
    result, lineage = result_of(matrix, split, model, {}), matrix_lineage(gcs.asset_store())
    registered = register(
        models, result, tag=config.tag, run_id=context.run.run_id, fingerprint=fingerprint, lineage=lineage
    )
    context.log.info(f"{model.name} is certainly the best: registered as {registered.title}, a candidate for champion.")


def _table(split: str, rows: "Sequence[Evaluation]") -> pl.DataFrame:
    records = [{"split": split, "model": row.name, "users": len(row.histories), **row.summary()} for row in rows]
    return pl.DataFrame(records, schema=LEADERBOARD.dtypes)


def _markdown(rows: "Sequence[Evaluation]", metric: str) -> dg.MarkdownMetadataValue:
    """Return the metrics, with the interval of the main one, and the difference from the best on the same users."""
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


def known_stars_table(rows: Sequence[Standing]) -> dg.MarkdownMetadataValue:
    """Return the main metric of the same users with their histories cut."""
    header = ["model", *KNOWN_STARS, "mean"]
    return markdown_table(header, [(row.model, *row.cut.values(), row.as_people_have) for row in rows])


def people_table(rows: Sequence[Standing]) -> dg.MarkdownMetadataValue:
    """Return the main metric of people by the number of known stars that they really have, and their numbers."""
    header = ["model", *(f"{group} ({users:,} users)" for group, (_, users) in rows[0].people.items())]
    return markdown_table(header, [(row.model, *(score for score, _ in row.people.values())) for row in rows])


def leaderboard_figure(rows: "Sequence[Evaluation]", by_known_stars: Sequence[Standing], metric: str) -> "Figure":
    """Return a plot of whole histories with intervals, and one of all lengths."""
    from matplotlib.figure import Figure

    from gh_assets.recommender.models.baselines import Popularity

    figure = Figure(figsize=(11, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes, lines = figure.subplots(1, 2)
    names = [row.name for row in reversed(rows)]
    intervals = [row.interval(metric) for row in reversed(rows)]
    means, low, high = np.array([(interval.mean, interval.low, interval.high) for interval in intervals]).T
    colors = ["tab:blue" if name in SERVED else "tab:gray" for name in names]
    axes.barh(names, means, xerr=[means - low, high - means], color=colors, ecolor="black", capsize=3)
    axes.set_xlabel(f"{metric} on held-out users, 95 % intervals")
    for row in by_known_stars:
        style = "--" if row.model == Popularity.name else "-"
        lines.plot(list(row.cut), list(row.cut.values()), style, label=row.model, marker=".")
    lines.set_xlabel("known stars of the same users")
    lines.set_ylabel(metric)
    lines.set_ylim(bottom=0)
    lines.legend(fontsize="small")
    return figure
