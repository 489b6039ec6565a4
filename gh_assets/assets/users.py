"""`users`: all users who starred a collected repository."""

import datetime as dt

import dagster as dg
import polars as pl

from gh_assets.assets.collection_plan import STARS_COLLECTED
from gh_assets.assets.definition import CHAIN_FRESH, collection_asset
from gh_assets.assets.metadata import length_histogram, measure_seconds, preview
from gh_assets.collector.state import CollectionState
from gh_assets.collector.users import changed_users, merge_users, stored_users, user_messages
from gh_assets.local import progress
from gh_assets.resources import GitHubResource, MongoResource
from gh_assets.schemas import USERS
from gh_assets.storage.consumer import Consumer, ConsumerResult


@collection_asset(
    schema=USERS,
    ins={"stargazers": dg.AssetIn(metadata={"columns": ["user_id", "repo_id", "login"]})},
    freshness_policy=CHAIN_FRESH,
    kinds={"polars", "parquet", "mongodb"},
)
def users(
    context: dg.AssetExecutionContext, stargazers: pl.DataFrame, mongo: MongoResource, github: GitHubResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """One row is one GitHub user who starred at least one collected repository.

    Rows are merged by GitHub's database id over all repositories: a user who was renamed is one user, with the login
    that was read last.
    """
    progress.report("users", 0, 1, f"merging {stargazers.height:,} stars")
    with measure_seconds() as timing, mongo.database() as database:
        github.claim_world(database)
        states = CollectionState(database).load()
        table = merge_users(stargazers, {key: state.collected_at for key, state in states.items()})
        changed = changed_users(table, stored_users(database))
        applied = ConsumerResult()
        for done in Consumer(database).batches(user_messages(changed, dt.datetime.now(dt.UTC)), applied):
            progress.report("users", done, len(changed), "users that are new or changed")
    progress.report("users", 1, 1, f"{table.height:,} users")
    lengths = length_histogram(table["stars"].to_numpy(), "stars a user", "Lengths of users' histories")
    return dg.MaterializeResult(
        value=table,
        metadata={
            "dagster/row_count": table.height,
            "preview": preview(table.sort("stars", descending=True)),
            "stars": stargazers.height,
            "history_lengths": lengths,
            STARS_COLLECTED: sum(state.stars or 0 for state in states.values()),
            "documents_inserted": applied.inserted,
            "documents_changed": applied.changed,
            **timing,
        },
    )
