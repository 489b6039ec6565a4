"""Checks of models and recommendations."""

import dagster as dg
import polars as pl

from gh_assets.assets import champion, recommendations, recvae_model
from gh_assets.registry import CHAMPION, PURPOSE, RECVAE
from gh_assets.resources import GcsResource, RegistryResource
from gh_assets.serving.leaderboard import USERS_HELD_OUT
from gh_assets.storage.asset_store import TableView


@dg.asset_check(asset=recvae_model)
def recvae_beats_popularity(registry: RegistryResource) -> dg.AssetCheckResult:
    """The newest RecVAE is better than popularity on held-out users. Warns if not: it learned too little."""
    with registry.open() as models:
        model = models.latest(RECVAE)
    popularity = model.metrics.get(f"popularity {model.metric}")
    score = model.score
    return dg.AssetCheckResult(
        passed=score is not None and popularity is not None and score > popularity,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"recvae": float(score or 0.0), "popularity": float(popularity or 0.0), "metric": model.metric},
    )


@dg.asset_check(asset=champion, additional_ins={"leaderboard": dg.AssetIn("leaderboard")})
def champion_beats_baselines(leaderboard: pl.DataFrame, registry: RegistryResource) -> dg.AssetCheckResult:
    """No model on the leaderboard is clearly better than the champion, with as many known stars as people have.

    Warns when the lower end of a model's interval lies above the upper end of the champion's: the gate refused it, or
    another was promoted by hand.
    """
    with registry.open() as models:
        move = models.aliases.current(PURPOSE, CHAMPION)
    board = leaderboard.filter(pl.col("split") == USERS_HELD_OUT)
    own = board.filter(pl.col("model") == move.name) if move is not None else board.clear()
    if move is None or not own.height:
        return dg.AssetCheckResult(passed=True, description="The champion is not on the leaderboard.")
    metric = "ndcg_at_100_as_people_have"
    if board[f"{metric}_low"].null_count():
        metric = "ndcg_at_100"  # a leaderboard of an earlier version has intervals of whole histories alone
    better = board.filter(pl.col(f"{metric}_low") > own[f"{metric}_high"][0]).sort(metric, descending=True)
    return dg.AssetCheckResult(
        passed=better.height == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{better['model'][0]} is better than the champion {move.name}: gh-assets models promote."
            if better.height
            else f"No model is clearly better than {move.title}."
        ),
        metadata={"champion": move.name, metric: float(own[metric][0])},
    )


@dg.asset_check(
    asset=recommendations,
    additional_ins={"stargazers": dg.AssetIn("stargazers", metadata={"columns": ["repo_id", "user_id"]})},
)
def nothing_known_is_recommended(stargazers: pl.DataFrame, gcs: GcsResource) -> dg.AssetCheckResult:
    """No user is recommended a repository that the user starred, or the same one twice."""
    # Of the table, which may not fit into memory, these columns alone.
    pairs = gcs.asset_store().read_table("recommendations", view=TableView(("user_id", "repo_id")))
    known = pairs.join(stargazers, on=["user_id", "repo_id"], how="semi").height
    twice = pairs.height - pairs.unique().height
    return dg.AssetCheckResult(
        passed=known == 0 and twice == 0, metadata={"recommended": pairs.height, "known": known, "twice": twice}
    )
