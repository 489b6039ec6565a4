"""Checks of models and of what they recommend."""

import dagster as dg
import polars as pl

from gh_assets.assets import champion, leaderboard, recommendations, recvae_model
from gh_assets.assets.leaderboard import USERS_HELD_OUT
from gh_assets.registry import CHAMPION, HYBRID, PURPOSE, RECVAE, SERVED, ModelRegistry
from gh_assets.resources import GcsResource, MongoResource
from gh_assets.storage.mongo import Collections


@dg.asset_check(
    asset=recvae_model,
    description="On held-out users the newest RecVAE beats popularity; a warning says that it learned little.",
)
def recvae_beats_popularity(mongo: MongoResource, gcs: GcsResource) -> dg.AssetCheckResult:
    """Compares the figures that were registered with the model."""
    with mongo.database() as database:
        model = ModelRegistry(gcs.model_store(), database[Collections.MODELS]).latest(RECVAE)
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
        passed=served[RECVAE] >= best,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"RecVAE {served[RECVAE]:.4f}, hybrid {served[HYBRID]:.4f}; best baseline: {baseline} {best:.4f}."
        ),
        metadata={**served, "best_baseline": baseline, "best_baseline_ndcg": best},
    )


@dg.asset_check(
    asset=champion,
    additional_ins={"leaderboard": dg.AssetIn("leaderboard")},
    description=(
        "No model on the leaderboard is clearly better than the champion: warns when the lower end of its interval "
        "lies above the upper end of the champion's. The gate should have promoted it, or somebody promoted another "
        "by hand."
    ),
)
def champion_is_not_left_behind(
    leaderboard: pl.DataFrame, mongo: MongoResource, gcs: GcsResource
) -> dg.AssetCheckResult:
    """The champion's kind of model against all others, on the same users."""
    with mongo.database() as database:
        holding = ModelRegistry(gcs.model_store(), database[Collections.MODELS]).aliases.current(PURPOSE, CHAMPION)
    board = leaderboard.filter(pl.col("split") == USERS_HELD_OUT)
    mine = board.filter(pl.col("model") == holding.name) if holding is not None else board.clear()
    if holding is None or not mine.height:
        return dg.AssetCheckResult(passed=True, description="The champion is not on the leaderboard.")
    better = board.filter(pl.col("ndcg_at_100_low") > mine["ndcg_at_100_high"][0]).sort("ndcg_at_100", descending=True)
    return dg.AssetCheckResult(
        passed=better.height == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{better['model'][0]} is better than the champion {holding.name}: gh-assets models promote."
            if better.height
            else f"None is clearly better than {holding.name} {holding.version}."
        ),
        metadata={"champion": holding.name, "ndcg_at_100": float(mine["ndcg_at_100"][0])},
    )


@dg.asset_check(
    asset=recommendations,
    additional_ins={"stargazers": dg.AssetIn("stargazers", metadata={"columns": ["repo_id", "user_id"]})},
    description="Nobody is recommended what the person starred already, nor the same repository twice.",
)
def nothing_known_is_recommended(recommendations: pl.DataFrame, stargazers: pl.DataFrame) -> dg.AssetCheckResult:
    """Pairs of user and repository, recommended and starred."""
    pairs = recommendations.select("user_id", "repo_id")
    known = pairs.join(stargazers, on=["user_id", "repo_id"], how="semi").height
    twice = pairs.height - pairs.unique().height
    return dg.AssetCheckResult(
        passed=known == 0 and twice == 0, metadata={"recommended": pairs.height, "known": known, "twice": twice}
    )
