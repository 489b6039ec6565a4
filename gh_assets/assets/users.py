"""`users`: everybody who starred a collected repository."""

import datetime as dt

import dagster as dg
import polars as pl

from gh_assets.assets.collection_plan import STARS_COLLECTED
from gh_assets.assets.conditions import CHAIN_FRESH
from gh_assets.assets.metadata import COLLECTION, OWNERS, length_histogram, measure_seconds, preview, table_metadata
from gh_assets.assets.retries import retry_transient
from gh_assets.collector.pipeline import CollectionState
from gh_assets.collector.users import merge_users, user_messages
from gh_assets.local import progress
from gh_assets.resources import MongoResource
from gh_assets.schemas import USERS
from gh_assets.storage.consumer import Consumer
from gh_assets.storage.mongo import Collections


@dg.asset(
    freshness_policy=CHAIN_FRESH,
    group_name=COLLECTION,
    kinds={"polars", "parquet", "mongodb"},
    owners=OWNERS,
    metadata=table_metadata(USERS),
    description=(
        "One row is one GitHub user who starred at least one collected repository, merged by GitHub's database id "
        "over all repositories: a user who was renamed is still one user, with the login read last."
    ),
)
@retry_transient
def users(
    context: dg.AssetExecutionContext, stargazers: pl.DataFrame, mongo: MongoResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """One row a user."""
    progress.report("users", 0, 1, f"merging {stargazers.height:,} stars")
    with measure_seconds() as timing, mongo.database(claim=True) as database:
        states = CollectionState(database).load()
        table = merge_users(stargazers, {key: state.collected_at for key, state in states.items()})
        present = {document["_id"]: document for document in database[Collections.USERS].find()}
        applied = Consumer(database).apply(user_messages(table, present, dt.datetime.now(dt.UTC)))
    progress.report("users", 1, 1, f"{table.height:,} users")
    return dg.MaterializeResult(
        value=table,
        metadata={
            "dagster/row_count": table.height,
            "preview": preview(table.sort("stars", descending=True)),
            "stars": stargazers.height,
            "history_lengths": length_histogram(
                table["stars"].to_numpy(), "stars a user", "Lengths of users' histories"
            ),
            STARS_COLLECTED: sum(state.stars or 0 for state in states.values()),
            "documents_inserted": applied.inserted,
            "documents_changed": applied.changed,
            **timing,
        },
    )
