"""`recommendations`: for every user the best repositories that the user has not starred, with reasons."""

from dataclasses import dataclass, field

import dagster as dg
import polars as pl
from pydantic import Field

from gh_assets.assets.champion import champion
from gh_assets.assets.definition import AssetConfig, recommender_asset, when_upstream_updated
from gh_assets.assets.metadata import measure_seconds, preview
from gh_assets.local import progress
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import CHAMPION, PURPOSE
from gh_assets.resources import GcsResource, RegistryResource
from gh_assets.schemas import RECOMMENDATIONS
from gh_assets.serving.requests import DEFAULT_COUNT, MAX_COUNT, Filters
from gh_assets.storage.asset_store import TableParts


class RecommendationsConfig(AssetConfig):
    """What is recommended, and by which model."""

    n: int = Field(DEFAULT_COUNT, ge=1, le=MAX_COUNT)
    """Repositories a user."""

    reasons: int = Field(3, ge=0, le=20)
    """Maximum number of own stars that explain each; 0: none."""

    own: bool = False
    """Recommend users their own repositories, too."""

    forks: bool = False
    """Recommend forks of starred repositories, and their origins, too."""

    archived: bool = False
    """Recommend archived repositories, too."""

    model: str = ""
    """Use the best model of this name. Empty: the champion."""

    tag: str = ""
    """Use the best model with this tag. Empty: any, or the champion."""


@dataclass
class _Table:
    """The parts of the table, and what the metadata say of them."""

    parts: TableParts = field(default_factory=lambda: TableParts(RECOMMENDATIONS.name))
    users: int = 0
    repositories: set[int] = field(default_factory=set)
    first: pl.DataFrame | None = None

    def add(self, part: pl.DataFrame) -> None:
        """Add recommendations of further users."""
        self.parts.add(part)
        self.first = part if self.first is None else self.first
        self.users += part["user_id"].n_unique()
        self.repositories.update(part["repo_id"].unique())


@recommender_asset(
    schema=RECOMMENDATIONS,
    deps=[champion],
    automation_condition=when_upstream_updated("repos", "champion"),
    kinds={"pytorch", "polars", "parquet"},
)
def recommendations(
    context: dg.AssetExecutionContext,
    config: RecommendationsConfig,
    user_item_matrix: UserItemMatrix,
    repos: pl.DataFrame,
    registry: RegistryResource,
    gcs: GcsResource,
) -> dg.MaterializeResult[TableParts]:
    """One row is one repository that the champion recommends to one user.

    Each has the user's own stars that explain it most. By default without repositories that the user starred or owns,
    their forks, and archived ones.
    """
    from gh_assets.serving.catalogue import Catalogue
    from gh_assets.serving.current_model import load_first_usable, model_cache, serving_candidates
    from gh_assets.serving.embeddings import read_embeddings
    from gh_assets.serving.ranking import Ranker

    with measure_seconds() as timing:
        with registry.open() as models:
            move = next(models.aliases.holding(PURPOSE, CHAMPION), None)
            candidates = serving_candidates(models, name=config.model, tag=config.tag)
            loaded = load_first_usable(models, candidates, model_cache(registry.settings()))
        for warning in loaded.warnings:
            context.log.warning(warning)
        table = _Table()
        ranker = Ranker(loaded.trained, Catalogue(repos, read_embeddings(gcs.asset_store())))
        filters = Filters(own=config.own, forks=config.forks, archived="yes" if config.archived else "no")
        for part in ranker.recommend_all(user_item_matrix, config.n, reasons=config.reasons, filters=filters):
            table.add(part)
            progress.report("recommendations", table.users, user_item_matrix.stars.shape[0])
    assert table.first is not None, "a matrix has users"
    model = loaded.registered
    is_champion = move is not None and move.key == model.key
    return dg.MaterializeResult(
        value=table.parts,
        metadata={
            "dagster/row_count": table.parts.rows,
            "users": table.users,
            "repositories_recommended": len(table.repositories),
            "model": model.title,
            **({"skipped": list(loaded.warnings)} if loaded.warnings else {}),
            **({"champion_revision": move.revision} if move is not None and is_champion else {}),
            "model_uri": dg.MetadataValue.path(model.uri),
            "model_score": float(model.score or 0.0),
            "preview": preview(table.first.select("login", "rank", "full_name", "score", "because")),
            **timing,
        },
    )
