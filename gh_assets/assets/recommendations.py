"""`recommendations`: for every user the best repositories that the user has not starred, with reasons."""

from collections.abc import Iterable

import dagster as dg
import polars as pl
from pydantic import Field

from gh_assets.assets.champion import champion
from gh_assets.assets.conditions import CHAIN_FRESH, when_upstream_updated
from gh_assets.assets.metadata import OWNERS, RECOMMENDER, measure_seconds, preview, table_metadata
from gh_assets.assets.retries import retry_transient
from gh_assets.local import progress
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import CHAMPION, PURPOSE, SERVED, ModelRegistry, Move, RegisteredModel
from gh_assets.resources import GcsResource, MongoResource
from gh_assets.schemas import RECOMMENDATIONS
from gh_assets.serving.requests import DEFAULT_COUNT, MAX_COUNT, Filters
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import TableParts
from gh_assets.storage.mongo import Collections


class RecommendationsConfig(dg.Config):
    """What is recommended."""

    n: int = Field(default=DEFAULT_COUNT, ge=1, le=MAX_COUNT, description="Repositories a user.")
    reasons: int = Field(default=3, ge=0, le=20, description="Own stars at most that explain each; 0 is fastest.")
    own: bool = Field(default=False, description="Recommend people what they own themselves, too.")
    forks: bool = Field(default=False, description="Recommend forks of what somebody starred, and their origins, too.")
    archived: bool = Field(default=False, description="Recommend archived repositories, too.")
    model: str = Field(default="", description="Take the best model of this name. Empty: the champion.")
    tag: str = Field(default="", description="Take the best model of this tag. Empty: of any, or the champion.")


@dg.asset(
    deps=[champion],
    automation_condition=when_upstream_updated("repos", "champion"),
    freshness_policy=CHAIN_FRESH,
    group_name=RECOMMENDER,
    kinds={"pytorch", "polars", "parquet"},
    owners=OWNERS,
    metadata=table_metadata(RECOMMENDATIONS),
    description=(
        "One row is one repository recommended to one user, by the champion, with the user's own stars "
        "that explain it most. Nothing that the user already starred or owns, no forks of it, nothing archived, unless "
        "configured."
    ),
)
@retry_transient
def recommendations(
    context: dg.AssetExecutionContext,
    config: RecommendationsConfig,
    user_item_matrix: UserItemMatrix,
    repos: pl.DataFrame,
    gcs: GcsResource,
    mongo: MongoResource,
) -> dg.MaterializeResult[TableParts]:
    """One row a user and recommended repository."""
    from gh_assets.serving.catalogue import Catalogue
    from gh_assets.serving.current_model import load_first_usable, model_cache, rank_models, serving_candidates
    from gh_assets.serving.ranking import Ranker

    with measure_seconds() as timing:
        with mongo.database() as database:
            registry = ModelRegistry(gcs.model_store(), database[Collections.MODELS])
            if config.model or config.tag:
                wanted: Iterable[RegisteredModel] = rank_models(
                    registry, (config.model,) if config.model else SERVED, config.tag
                )
            else:
                wanted = serving_candidates(registry)
            holding = next(registry.aliases.holding(PURPOSE, CHAMPION), None)
            serves = load_first_usable(registry, wanted, model_cache(load_settings()))
        registered, trained = serves.registered, serves.trained
        for warning in serves.warnings:
            context.log.warning(warning)
        total = user_item_matrix.stars.shape[0]
        parts = TableParts(RECOMMENDATIONS.name)
        first: pl.DataFrame | None = None
        users, recommended = 0, set[int]()
        ranker = Ranker(trained, Catalogue(repos))
        filters = Filters(own=config.own, forks=config.forks, archived="yes" if config.archived else "no")
        for part in ranker.recommend_all(user_item_matrix, config.n, reasons=config.reasons, filters=filters):
            parts.add(part)
            first = part if first is None else first
            users += part["user_id"].n_unique()
            recommended.update(part["repo_id"].unique())
            progress.report("recommendations", users, total)
    assert first is not None, "a matrix has users"
    return dg.MaterializeResult(
        value=parts,
        metadata={
            "dagster/row_count": parts.rows,
            "users": users,
            "repositories_recommended": len(recommended),
            "model": registered.title,
            **({"skipped": list(serves.warnings)} if serves.warnings else {}),
            **({} if holding is None or not _holds(holding, registered) else {"champion_revision": holding.revision}),
            "model_uri": dg.MetadataValue.path(registered.uri),
            "model_score": float(registered.score or 0.0),
            "preview": preview(first.select("login", "rank", "full_name", "score", "because")),
            **timing,
        },
    )


def _holds(move: Move, model: RegisteredModel) -> bool:
    return (move.name, move.version) == (model.name, model.version)
