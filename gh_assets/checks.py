"""Asset checks: what must hold of the data, told beside the assets. Red means: act."""

from collections import Counter

import dagster as dg
import numpy as np
import polars as pl

from gh_assets.assets import leaderboard, recvae_model, stargazers, user_item_matrix
from gh_assets.assets.common import markdown_table
from gh_assets.assets.hybrid_model import HYBRID_NAME
from gh_assets.assets.leaderboard import USERS_HELD_OUT
from gh_assets.assets.recvae_model import MODEL_NAME
from gh_assets.collector.outcomes import Outcome
from gh_assets.collector.stargazers import CollectionState
from gh_assets.recommender.interactions import UserItemMatrix
from gh_assets.registry import SERVED, ModelRegistry
from gh_assets.resources import GcsResource, MongoResource

RESTRICTED_SHARE = 0.25
"""Above this share of repositories whose stars may not be listed, the data are no longer what they seem."""

UNKNOWN_SHARE = 0.05
"""Above this share of repositories that could not be asked, something is wrong: the network, the quota, a cap."""


@dg.asset_check(
    asset=stargazers,
    description=(
        "Few repositories may be without stars because their lists are closed or they could not be reached: fails with "
        "a warning when more than a quarter are restricted, or more than a twentieth unknown. Closed lists whose stars "
        "were learned in another way do not count."
    ),
)
def stargazers_could_be_listed(mongo: MongoResource) -> dg.AssetCheckResult:
    """Outcomes over all collected repositories."""
    with mongo.database() as database:
        states = list(CollectionState(database).load().values())
    outcomes = Counter(state.outcome.value for state in states)
    sources = Counter(state.source for state in states if state.source is not None)
    total = sum(outcomes.values())
    restricted = outcomes[Outcome.RESTRICTED.value]
    unknown = outcomes[Outcome.UNKNOWN.value]
    return dg.AssetCheckResult(
        passed=total > 0 and restricted <= RESTRICTED_SHARE * total and unknown <= UNKNOWN_SHARE * total,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "outcomes": markdown_table(["outcome", "repositories"], sorted(outcomes.items())),
            "sources": markdown_table(["stars from", "repositories"], sorted(sources.items())),
            "lists_closed": sum(state.closed_at is not None for state in states),
            "restricted_share": restricted / total if total else 0.0,
            "unknown": unknown,
        },
    )


@dg.asset_check(
    asset=user_item_matrix,
    blocking=True,
    description="Every row of the matrix has at least one star, and every star is a one.",
)
def every_user_has_a_star(user_item_matrix: UserItemMatrix) -> dg.AssetCheckResult:
    """No empty rows, only ones."""
    empty = int((np.diff(user_item_matrix.stars.indptr) == 0).sum())
    ones = bool((user_item_matrix.stars.data == 1).all())
    return dg.AssetCheckResult(
        passed=empty == 0 and ones and user_item_matrix.stars.nnz > 0, metadata={"users_without_stars": empty}
    )


@dg.asset_check(
    asset=user_item_matrix,
    blocking=True,
    additional_ins={"stargazers": dg.AssetIn("stargazers")},
    description=(
        "The matrix has exactly the pairs of user and repository that were collected, but for those with fewer "
        "stars than the configured minimum."
    ),
)
def matrix_has_exactly_the_collected_pairs(
    user_item_matrix: UserItemMatrix, stargazers: pl.DataFrame
) -> dg.AssetCheckResult:
    """Compares the stored matrix with the stored stars, pair by pair."""
    coordinates = user_item_matrix.stars.tocoo()
    in_matrix = pl.DataFrame(
        {
            "user_id": user_item_matrix.user_ids[coordinates.row],
            "repo_id": user_item_matrix.repo_ids[coordinates.col],
        }
    )
    collected = stargazers.select("user_id", "repo_id").unique()
    invented = in_matrix.join(collected, on=["user_id", "repo_id"], how="anti").height
    twice = in_matrix.height - in_matrix.unique().height
    lost = collected.join(in_matrix, on=["user_id", "repo_id"], how="anti")
    # A pair may be missing only because its user or its repository is left out as a whole.
    lost_inside = lost.filter(
        pl.col("user_id").is_in(user_item_matrix.user_ids) & pl.col("repo_id").is_in(user_item_matrix.repo_ids)
    ).height
    unfiltered = user_item_matrix.min_user_stars == user_item_matrix.min_repo_stars == 1
    return dg.AssetCheckResult(
        passed=invented == 0 and twice == 0 and lost_inside == 0 and (lost.height == 0 or not unfiltered),
        metadata={
            "pairs_in_matrix": in_matrix.height,
            "pairs_collected": collected.height,
            "pairs_left_out_by_minimum": lost.height,
            "pairs_not_collected": invented,
        },
    )


@dg.asset_check(
    asset=recvae_model,
    description="On held-out users the newest RecVAE beats popularity; a warning says that it learned little.",
)
def recvae_beats_popularity(mongo: MongoResource, gcs: GcsResource) -> dg.AssetCheckResult:
    """Compares the figures that were registered with the model."""
    with mongo.database() as database:
        model = ModelRegistry(gcs.model_store(), database["models"]).latest(MODEL_NAME)
    popularity = model.metrics.get(f"popularity {model.metric}")
    score = model.score
    return dg.AssetCheckResult(
        passed=score is not None and popularity is not None and score > popularity,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "recvae": float(score or 0.0),
            "popularity": float(popularity or 0.0),
            "metric": model.metric,
        },
    )


@dg.asset_check(
    asset=leaderboard,
    description=(
        "On users held out whole, RecVAE is at least as good as every baseline; a warning says which one is better: "
        "it is time to search hyper-parameters, gh-assets tune."
    ),
)
def recvae_is_the_best(leaderboard: pl.DataFrame) -> dg.AssetCheckResult:
    """Compares NDCG@100 within the leaderboard."""
    board = leaderboard.filter(leaderboard["split"] == USERS_HELD_OUT).sort("ndcg_at_100", descending=True)
    scores = dict(zip(board["model"].to_list(), board["ndcg_at_100"].to_list(), strict=True))
    others = [(value, name) for name, value in scores.items() if name not in SERVED]
    best, baseline = max(others)
    served = {name: scores.get(name, 0.0) for name in SERVED}
    return dg.AssetCheckResult(
        passed=served[MODEL_NAME] >= best,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"RecVAE {served[MODEL_NAME]:.4f}, hybrid {served[HYBRID_NAME]:.4f}; best baseline: {baseline} {best:.4f}."
        ),
        metadata={**served, "best_baseline": baseline, "best_baseline_ndcg": best},
    )


ALL_CHECKS = [
    stargazers_could_be_listed,
    every_user_has_a_star,
    matrix_has_exactly_the_collected_pairs,
    recvae_beats_popularity,
    recvae_is_the_best,
]
