"""`repos`: the repositories that the awesome lists name. Adds the partitions of `stargazers`."""

import dagster as dg
import polars as pl
from pydantic import Field

from gh_assets.assets.definition import (
    GITHUB_POOL,
    LISTS_FRESH,
    REPO_PARTITIONS,
    AssetConfig,
    collection_asset,
    tag_run,
)
from gh_assets.assets.metadata import markdown_table, measure_seconds, preview
from gh_assets.assets.progress import asset_progress
from gh_assets.collector.repositories import CollectedRepositories, KnownRepositories, collect_repositories
from gh_assets.collector.star_sources.gharchive import read_star_events, repositories_of_events
from gh_assets.github.client import GitHubClient
from gh_assets.github.transport import Usage
from gh_assets.local import progress
from gh_assets.resources import GcsResource, GitHubResource, MongoResource, PolicyResource
from gh_assets.schemas import REPOS
from gh_assets.storage.documents import sync_documents
from gh_assets.storage.mongo import Collections


class ReposConfig(AssetConfig):
    """Which lists `repos` reads."""

    awesome: list[str] = Field([])
    """Awesome lists, each owner/name, owner/name/path, an address on GitHub, or a file. Empty: those of the
    settings."""

    max_requests: int | None = Field(None, ge=1)
    """Maximum number of requests; the next run asks for what is left."""

    retire: bool | None = None
    """Remove the partitions of repositories that are in no list any more. Their data are kept and used again when they
    are listed again. Unset: the value of GH_ASSETS_RETIRE."""


@collection_asset(
    schema=REPOS, pool=GITHUB_POOL, freshness_policy=LISTS_FRESH, kinds={"github", "polars", "parquet", "mongodb"}
)
def repos(
    context: dg.AssetExecutionContext,
    config: ReposConfig,
    github: GitHubResource,
    mongo: MongoResource,
    gcs: GcsResource,
    policy: PolicyResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """One row is one repository that an awesome list names, with GitHub's current metadata.

    Rows are merged by GitHub's database id; `outcome` says whether it is there, was renamed, deleted or blocked. Each
    repository that can be reached becomes a partition of `stargazers`. A home that has GH Archive only gets the
    repositories of its events.
    """
    notes: list[str] = []
    with (
        measure_seconds() as timing,
        mongo.database() as database,
        github.client_if_any(database, max_requests=config.max_requests) as client,
    ):
        github.claim_world(database)
        documents = {document["_id"]: document for document in database[Collections.REPOS].find()}
        known = KnownRepositories(documents)
        if client is None:
            lists = ["GH Archive"]
            collected = repositories_of_events(read_star_events(gcs.asset_store()), known)
        else:
            lists = config.awesome or github.awesome_lists(client)
            collected, notes = _read_lists(context, client, lists, known, policy.workers)
        named = {document["_id"] for document in collected.documents}
        unlisted = [document | {"lists": []} for key, document in documents.items() if key not in named]
        counts = sync_documents(database[Collections.REPOS], [*collected.documents, *unlisted], documents)
        usage = client.usage if client is not None else Usage()
    listed = collected.table["partition"].drop_nulls().to_list()
    context.instance.add_dynamic_partitions(str(REPO_PARTITIONS.name), listed)
    retired = _retire_partitions(context, set(listed), policy.retire if config.retire is None else config.retire)
    tag_run(context, {"requests": usage.requests, "graphql_points": usage.graphql_points})
    outcomes = collected.table["outcome"].value_counts(sort=True)
    return dg.MaterializeResult(
        value=collected.table,
        metadata={
            "dagster/row_count": collected.table.height,
            "preview": preview(collected.table.drop("topics", "reason")),
            "outcomes": markdown_table(outcomes.columns, outcomes.rows()),
            "lists": lists,
            "notes": notes,
            "new_partitions": len(collected.new_partitions),
            **retired,
            "requests": usage.requests,
            "graphql_points": usage.graphql_points,
            "documents_inserted": counts.inserted,
            "documents_changed": counts.replaced,
            **timing,
        },
    )


def _read_lists(
    context: dg.AssetExecutionContext, client: GitHubClient, lists: list[str], known: KnownRepositories, workers: int
) -> tuple[CollectedRepositories, list[str]]:
    """Read the lists and GitHub's metadata; what the user should know is logged and returned, too."""
    reported = asset_progress(context)
    notes: list[str] = []

    def note(text: str) -> None:
        progress.notify(text)
        context.log.warning(text)
        notes.append(text)

    def progressed(done: int, total: int) -> None:
        reported.report("repos", done, total, "repositories")

    return collect_repositories(client, lists, known, workers=workers, progress=progressed, notify=note), notes


def _retire_partitions(context: dg.AssetExecutionContext, listed: set[str], remove: bool) -> dict[str, int]:
    """Count the partitions of repositories that are in no list, and remove them if `remove`."""
    name = str(REPO_PARTITIONS.name)
    unlisted = [key for key in context.instance.get_dynamic_partitions(name) if key not in listed]
    if not remove:
        return {"partitions_in_no_list": len(unlisted)}
    for key in unlisted:
        context.instance.delete_dynamic_partition(name, key)
    if unlisted:
        context.log.info(f"Removed {len(unlisted)} partitions, kept their data: {', '.join(unlisted[:5])}")
    return {"partitions_in_no_list": 0, "partitions_retired": len(unlisted)}
