"""`recommendations`: for every user the best repositories that the user has not starred, with reasons."""

from dataclasses import dataclass, field

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from gh_assets.assets.champion import champion
from gh_assets.assets.definition import AssetConfig, recommender_asset, when_upstream_updated
from gh_assets.assets.metadata import measure_seconds, preview
from gh_assets.errors import StoredDataError
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

    all: bool = False
    """Make the lists of all users again, also those that would not change."""


@dataclass
class _Table:
    """The parts of the table, and what the metadata say of them."""

    parts: TableParts = field(default_factory=lambda: TableParts(RECOMMENDATIONS.name))
    kept: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    made: int = 0
    repositories: set[int] = field(default_factory=set)
    first: pl.DataFrame | None = None

    @property
    def users(self) -> int:
        return len(self.kept) + self.made

    def keep(self, stored: pl.LazyFrame, user_ids: NDArray[np.int64], fingerprints: NDArray[np.int64]) -> None:
        """Keep those stored lists that were made from what they would be made from now."""
        now = pl.LazyFrame({"user_id": user_ids, "made_from": fingerprints})
        kept = self.parts.add_lazily(stored.join(now, on=["user_id", "made_from"], how="semi"))
        self.kept = kept.select(pl.col("user_id").unique()).collect()["user_id"].to_numpy()
        self.repositories.update(kept.select(pl.col("repo_id").unique()).collect()["repo_id"])
        if len(self.kept):
            self.first = kept.head(1000).collect()

    def add(self, part: pl.DataFrame) -> None:
        """Add recommendations of further users."""
        self.parts.add(part)
        self.first = part if self.first is None else self.first
        self.made += part["user_id"].n_unique()
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
    their forks, and archived ones. Lists are made again only for users whose stars changed, or if the model did.
    """
    from gh_assets.serving.catalogue import Catalogue
    from gh_assets.serving.current_model import load_first_usable, model_cache, serving_candidates
    from gh_assets.serving.embeddings import read_embeddings
    from gh_assets.serving.ranking import AllLists, Ranker

    with measure_seconds() as timing:
        with registry.open() as models:
            move = next(models.aliases.holding(PURPOSE, CHAMPION), None)
            candidates = serving_candidates(models, name=config.model, tag=config.tag)
            loaded = load_first_usable(models, candidates, model_cache(registry.settings()))
        for warning in loaded.warnings:
            context.log.warning(warning)
        model, matrix, store = loaded.registered, user_item_matrix, gcs.asset_store()
        ranker = Ranker(loaded.trained, Catalogue(repos, read_embeddings(store)))
        filters = Filters(own=config.own, forks=config.forks, archived="yes" if config.archived else "no")
        wanted = AllLists(config.n, config.reasons, filters, made_by=f"{model.uri} {model.sha256}")
        table = _Table()
        try:
            stored = None if config.all else store.scan_table(RECOMMENDATIONS.name, table.parts.folder)
            if stored is not None:
                table.keep(stored, matrix.user_ids, ranker.fingerprints(matrix, wanted))
        except StoredDataError as error:
            context.log.warning(f"{error} All lists are made again.")
        changed = matrix.rows(~np.isin(matrix.user_ids, table.kept))
        for part in ranker.recommend_all(changed, wanted):
            table.add(part)
            progress.report("recommendations", table.users, matrix.stars.shape[0])
    assert table.first is not None, "a matrix has users"
    is_champion = move is not None and move.key == model.key
    return dg.MaterializeResult(
        value=table.parts,
        metadata={
            "dagster/row_count": table.parts.rows,
            "users": table.users,
            "users_made_again": table.made,
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
