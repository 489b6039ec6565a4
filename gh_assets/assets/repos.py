"""`repos`: the repositories that the awesome lists name. Adds the partitions of everything that follows."""

import dagster as dg
import polars as pl
from pydantic import Field

from gh_assets.assets.conditions import LISTS_FRESH
from gh_assets.assets.metadata import (
    COLLECTION,
    OWNERS,
    REPO_PARTITIONS,
    markdown_table,
    measure_seconds,
    preview,
    table_metadata,
    throttled,
)
from gh_assets.assets.retries import GITHUB_POOL, retry_transient, tag_run
from gh_assets.collector.collection import read_star_events
from gh_assets.collector.repositories import KnownRepositories, collect_repositories
from gh_assets.collector.star_sources.gharchive import repositories_of_events
from gh_assets.github.transport import Usage
from gh_assets.local import progress
from gh_assets.resources import GcsResource, GitHubResource, MongoResource
from gh_assets.schemas import REPOS
from gh_assets.settings import load_settings
from gh_assets.storage.documents import sync_documents
from gh_assets.storage.mongo import Collections


class ReposConfig(dg.Config):
    """What `repos` reads."""

    awesome: list[str] = Field(
        default=[],
        description="Awesome lists, each owner/name, owner/name/path or an address on GitHub, or a file. "
        "Empty: those of the settings.",
    )
    max_requests: int | None = Field(
        default=None,
        ge=1,
        description="Stop cleanly when so many requests were sent; those not asked are asked next time.",
    )
    retire: bool | None = Field(
        default=None,
        description="Remove the partitions of repositories that left all lists; their data are kept, and when they are "
        "listed again it goes on from there. Unset: as GH_ASSETS_RETIRE says.",
    )


@dg.asset(
    pool=GITHUB_POOL,
    freshness_policy=LISTS_FRESH,
    group_name=COLLECTION,
    kinds={"github", "polars", "parquet", "mongodb"},
    owners=OWNERS,
    metadata=table_metadata(REPOS),
    description=(
        "One row is one repository that an awesome list names, with its metadata as GitHub tells them now, merged by "
        "GitHub's database id; `outcome` says whether it is there, was renamed, deleted or blocked. "
        "Each repository that can be reached becomes a partition of `stargazers`. "
        "Where there is no GitHub to ask, those that GH Archive tells of."
    ),
)
@retry_transient
def repos(
    context: dg.AssetExecutionContext,
    config: ReposConfig,
    github: GitHubResource,
    mongo: MongoResource,
    gcs: GcsResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """One row a repository that an awesome list names."""
    log = throttled(context.log.info)

    def tell(done: int, total: int) -> None:
        progress.report("repos", done, total)
        log(f"{done} of {total} repositories asked")

    notes: list[str] = []

    def note(words: str) -> None:
        progress.notify(words)
        context.log.warning(words)
        notes.append(words)

    with (
        measure_seconds() as timing,
        mongo.database(claim=True) as database,
        github.client_if_any(database, max_requests=config.max_requests) as client,
    ):
        documents = {document["_id"]: document for document in database[Collections.REPOS].find()}
        known = KnownRepositories(documents)
        if client is None:
            lists = ["GH Archive"]
            collected = repositories_of_events(read_star_events(gcs.asset_store()), known)
        else:
            lists = config.awesome or github.awesome_lists(client)
            collected = collect_repositories(
                client, lists, known, workers=load_settings().workers, progress=tell, notify=note
            )
        named = {document["_id"] for document in collected.documents}
        left = [document | {"lists": []} for key, document in documents.items() if key not in named]
        counts = sync_documents(database[Collections.REPOS], [*collected.documents, *left], documents)
        usage = client.usage if client is not None else Usage()
    listed = collected.table["partition"].drop_nulls().to_list()
    context.instance.add_dynamic_partitions(str(REPO_PARTITIONS.name), listed)
    settings = load_settings()
    retired = _retired(context, set(listed), settings.retire if config.retire is None else config.retire)
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


def _retired(context: dg.AssetExecutionContext, listed: set[str], remove: bool) -> dict[str, int]:
    """Partitions of repositories that no list names any more: how many there are, and removed if that is wanted."""
    name = str(REPO_PARTITIONS.name)
    left = [key for key in context.instance.get_dynamic_partitions(name) if key not in listed]
    if not remove:
        return {"partitions_in_no_list": len(left)}
    for key in left:
        context.instance.delete_dynamic_partition(name, key)
    if left:
        context.log.info(f"{len(left)} partitions were removed, their data are kept: {', '.join(left[:5])}")
    return {"partitions_in_no_list": 0, "partitions_retired": len(left)}
