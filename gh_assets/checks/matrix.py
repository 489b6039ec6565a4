"""Checks of the matrix. They are blocking: no model is trained on a matrix that does not pass."""

import dagster as dg
import numpy as np
import polars as pl

from gh_assets.assets import user_item_matrix
from gh_assets.assets.definition import AssetConfig
from gh_assets.recommender.data.interactions import UserItemMatrix, positions_of
from gh_assets.registry import SERVED
from gh_assets.resources import RegistryResource

MIN_MATRIX_SHARE = 0.5
"""Share of the last matrix's users, repositories or stars below which the check fails."""

DRIFT = 0.2
"""Relative change of the density, or of the stars a user, above which the check warns."""


@dg.asset_check(asset=user_item_matrix, blocking=True)
def every_user_has_a_star(user_item_matrix: UserItemMatrix) -> dg.AssetCheckResult:
    """Every row of the matrix has at least one star, and every star is a one."""
    empty = int((np.diff(user_item_matrix.stars.indptr) == 0).sum())
    ones = bool((user_item_matrix.stars.data == 1).all())
    return dg.AssetCheckResult(
        passed=empty == 0 and ones and user_item_matrix.stars.nnz > 0,
        description=(
            f"{user_item_matrix.stars.nnz:,} stars of {len(user_item_matrix.user_ids):,} users; {empty:,} users have "
            "none. Each row must have a star, and each star must be a one: materialize users and user_item_matrix "
            "again. If there are no stars at all, see the outcomes of stargazers (gh-assets status)."
        ),
        metadata={"users_without_stars": empty, "stars": int(user_item_matrix.stars.nnz), "all_ones": ones},
    )


@dg.asset_check(
    asset=user_item_matrix,
    blocking=True,
    additional_ins={"stargazers": dg.AssetIn("stargazers", metadata={"columns": ["user_id", "repo_id"]})},
)
def matrix_has_exactly_the_collected_pairs(
    user_item_matrix: UserItemMatrix, stargazers: pl.DataFrame
) -> dg.AssetCheckResult:
    """The matrix has exactly the pairs of user and repository that were collected.

    Pairs with fewer stars than the configured minimum are left out.
    """
    matrix = user_item_matrix
    rows = positions_of(stargazers["user_id"].to_numpy(), matrix.user_ids)
    columns = positions_of(stargazers["repo_id"].to_numpy(), matrix.repo_ids)
    # One number a pair, by its place in the matrix: joins of millions of pairs would take gigabytes.
    inside = (rows >= 0) & (columns >= 0)
    collected = np.unique(rows[inside] * matrix.stars.shape[1] + columns[inside])
    outside = stargazers.select("user_id", "repo_id").filter(~inside).unique().height
    in_matrix = matrix.stars.tocoo()
    places = in_matrix.row.astype(np.int64) * matrix.stars.shape[1] + in_matrix.col
    distinct = np.unique(places)
    found = np.intersect1d(distinct, collected, assume_unique=True).size
    invented, twice = distinct.size - found, places.size - distinct.size
    # A pair may be missing only because its user or its repository is left out as a whole.
    lost_inside = collected.size - found
    lost = lost_inside + outside
    unfiltered = user_item_matrix.min_user_stars == user_item_matrix.min_repo_stars == 1
    return dg.AssetCheckResult(
        passed=invented == 0 and twice == 0 and lost_inside == 0 and (lost == 0 or not unfiltered),
        description=(
            f"{collected.size + outside:,} pairs were collected and {places.size:,} are in the matrix: {invented:,} of "
            f"these were not collected, {twice:,} are repeated, {lost:,} are missing. If they differ, stars "
            "were collected while the matrix was built: materialize users and user_item_matrix again."
        ),
        metadata={
            "pairs_in_matrix": places.size,
            "pairs_collected": collected.size + outside,
            "pairs_left_out_by_minimum": lost,
            "pairs_not_collected": invented,
        },
    )


class LikenessConfig(AssetConfig):
    """Whether a different matrix is intended."""

    accept: bool = False
    """Accept the matrix, however different, for example after a list was removed."""


@dg.asset_check(asset=user_item_matrix, blocking=True)
def matrix_is_like_the_last(
    config: LikenessConfig, user_item_matrix: UserItemMatrix, registry: RegistryResource
) -> dg.AssetCheckResult:
    """The matrix is similar to the one that the newest model was trained on.

    Fails, so that nothing is trained, when users, repositories or stars are fewer than half (lists could not be read,
    or data are missing); warns when density or stars a user changed by more than a fifth. The config accept: true
    accepts any matrix.
    """
    with registry.open() as opened:
        models = [model for model in opened.list() if model.name in SERVED and model.data]
    rows, columns = user_item_matrix.stars.shape
    now = {"users": rows, "repositories": columns, "stars": int(user_item_matrix.stars.nnz)}
    if not models:
        return dg.AssetCheckResult(passed=True, description="There is no earlier matrix.", metadata=now)
    newest = models[0]
    then = {name: int(newest.data.get(name) or 0) for name in now}
    if not all(then.values()):
        return dg.AssetCheckResult(passed=True, description=f"{newest.title} does not record its matrix.", metadata=now)
    shares = {name: now[name] / then[name] for name in now}
    lost = min(shares, key=lambda name: shares[name])
    density = shares["stars"] / (shares["users"] * shares["repositories"])
    history = shares["stars"] / shares["users"]
    metadata = {
        **now,
        "compared_with": newest.title,
        **{f"{name}_share": share for name, share in shares.items()},
        "density_share": density,
        "stars_a_user_share": history,
    }
    if shares[lost] < MIN_MATRIX_SHARE and not config.accept:
        return dg.AssetCheckResult(
            passed=False,
            severity=dg.AssetCheckSeverity.ERROR,
            description=(
                f"There are only {now[lost]:,} {lost}, but {newest.title} was trained on {then[lost]:,}. Check repos "
                "and stargazers: were all lists read? If that is intended, run gh-assets run --accept-matrix, or "
                "launch the check with the config accept: true."
            ),
            metadata=metadata,
        )
    drifted = max(abs(np.log(density)), abs(np.log(history))) > np.log(1 + DRIFT)
    return dg.AssetCheckResult(
        passed=config.accept or not drifted,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Density × {density:.2f}, stars a user × {history:.2f} since {newest.title}.",
        metadata=metadata,
    )
