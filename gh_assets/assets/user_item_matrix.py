"""`user_item_matrix`: who starred what, as a sparse matrix."""

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from gh_assets.assets.definition import AssetConfig, recommender_asset, when_upstream_updated
from gh_assets.assets.metadata import length_histogram, markdown_table, measure_seconds
from gh_assets.local import progress
from gh_assets.recommender.data.interactions import UserItemMatrix, build_user_item_matrix

PREVIEWED = 8
"""Repositories in the preview."""


class MatrixConfig(AssetConfig):
    """Which users and repositories are in the matrix."""

    min_user_stars: int = Field(1, ge=1)
    """Leave out users with fewer stars."""

    min_repo_stars: int = Field(1, ge=1)
    """Leave out repositories with fewer stars."""


@recommender_asset(
    ins={"stargazers": dg.AssetIn(metadata={"columns": ["user_id", "repo_id", "starred_at"]})},
    automation_condition=when_upstream_updated("stargazers", "repos"),
    kinds={"scipy", "numpy", "gcs"},
)
def user_item_matrix(
    context: dg.AssetExecutionContext,
    config: MatrixConfig,
    stargazers: pl.DataFrame,
    users: pl.DataFrame,
    repos: pl.DataFrame,
) -> dg.MaterializeResult[UserItemMatrix]:
    """Users × repositories, binary, sparse.

    One row is one user, one column one repository, and a one means that the user starred it: binary CSR, float32, with
    the ids and names of its rows and columns. Every user has at least one star.
    """
    with measure_seconds() as timing:
        matrix = build_user_item_matrix(
            stargazers, users, repos, min_user_stars=config.min_user_stars, min_repo_stars=config.min_repo_stars
        )
    rows, columns = matrix.stars.shape
    progress.report("user_item_matrix", 1, 1, f"{rows:,} × {columns:,} with {matrix.stars.nnz:,} ones")
    history_lengths = np.diff(matrix.stars.indptr)
    stargazer_counts = np.bincount(matrix.stars.indices, minlength=columns)
    top = np.argsort(-stargazer_counts, kind="stable")[:PREVIEWED]
    return dg.MaterializeResult(
        value=matrix,
        metadata={
            "dagster/row_count": rows,
            "repositories": columns,
            "stars": int(matrix.stars.nnz),
            "density": float(matrix.stars.nnz / (rows * columns)),
            "median_stars_a_user": float(np.median(history_lengths)),
            "sha256": matrix.fingerprint,
            "stars_a_repository": length_histogram(stargazer_counts, "stars a repository", "Stars a repository"),
            "preview": markdown_table(
                ["repository", "users"], [(str(matrix.full_names[item]), int(stargazer_counts[item])) for item in top]
            ),
            **timing,
        },
    )
