"""`user_item_matrix`: who starred what, as a sparse matrix."""

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from gh_assets.assets.conditions import CHAIN_FRESH, when_upstream_updated
from gh_assets.assets.metadata import OWNERS, RECOMMENDER, length_histogram, markdown_table, measure_seconds
from gh_assets.assets.retries import retry_transient
from gh_assets.local import progress
from gh_assets.recommender.data.interactions import UserItemMatrix, build_user_item_matrix


class MatrixConfig(dg.Config):
    """What goes into the matrix."""

    min_user_stars: int = Field(default=1, ge=1, description="Leave users with fewer stars out.")
    min_repo_stars: int = Field(default=1, ge=1, description="Leave repositories with fewer stars out.")


@dg.asset(
    automation_condition=when_upstream_updated("stargazers", "repos"),
    freshness_policy=CHAIN_FRESH,
    group_name=RECOMMENDER,
    kinds={"scipy", "numpy", "gcs"},
    owners=OWNERS,
    description=(
        "One row is one user, one column one repository, and a one says that the user starred it: binary CSR, "
        "float32, with the ids and names of its rows and columns. Every user has at least one star in it."
    ),
)
@retry_transient
def user_item_matrix(
    context: dg.AssetExecutionContext,
    config: MatrixConfig,
    stargazers: pl.DataFrame,
    users: pl.DataFrame,
    repos: pl.DataFrame,
) -> dg.MaterializeResult[UserItemMatrix]:
    """Users × repositories, binary, sparse."""
    with measure_seconds() as timing:
        matrix = build_user_item_matrix(
            stargazers,
            users,
            repos,
            min_user_stars=config.min_user_stars,
            min_repo_stars=config.min_repo_stars,
        )
    rows, columns = matrix.stars.shape
    progress.report("user_item_matrix", 1, 1, f"{rows:,} × {columns:,} with {matrix.stars.nnz:,} ones")
    a_user = np.diff(matrix.stars.indptr)
    popular = np.bincount(matrix.stars.indices, minlength=columns)
    top = np.argsort(-popular, kind="stable")[:8]
    return dg.MaterializeResult(
        value=matrix,
        metadata={
            "dagster/row_count": rows,
            "repositories": columns,
            "stars": int(matrix.stars.nnz),
            "density": float(matrix.stars.nnz / (rows * columns)),
            "median_stars_a_user": float(np.median(a_user)),
            "sha256": matrix.fingerprint,
            "stars_a_repository": length_histogram(popular, "stars a repository", "Stars a repository"),
            "preview": markdown_table(
                ["repository", "users"], [(str(matrix.full_names[item]), int(popular[item])) for item in top]
            ),
            **timing,
        },
    )
