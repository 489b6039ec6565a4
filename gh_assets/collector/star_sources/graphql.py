"""The GraphQL list of stargazers: many repositories per query, newest first, so that a refresh reads only new stars.

Source: docs.github.com/graphql/reference/objects#repository (``stargazers``).
"""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl

from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.star_sources.base import (
    CollectionTask,
    Page,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    StarRows,
    StarSource,
)
from gh_assets.collector.star_sources.merging import ListReading, collection_from_list
from gh_assets.collector.star_sources.newest_first import PAGE_VARIABLES, NewestFirstListing, connection_field
from gh_assets.errors import GitHubError, ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.github.graphql import FATAL_ERRORS, GraphQLLists, QuerySize, batched_query
from gh_assets.github.limits import PAGE_SIZE
from gh_assets.github.list_reading import Progress, by_position, coverage_fields
from gh_assets.github.outcomes import Outcome


class GraphQLStargazers:
    """Source of stars that reads repositories' own lists by GraphQL.

    Parameters
    ----------
    client : GitHubClient
    max_pages : int
        Maximum number of pages of 100 per repository, the newest.
    batch : QuerySize, optional
        The size of queries that GitHub accepts.
    by_rest : StarSource, optional
        Reads the lists where the server or the token has no GraphQL.
    """

    name = "graphql"

    def __init__(
        self, client: GitHubClient, max_pages: int, batch: QuerySize | None = None, by_rest: StarSource | None = None
    ) -> None:
        self.by_rest = by_rest
        self._lists = GraphQLLists(client, stargazers_query, partial(_Stargazers, client, max_pages), batch)

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Fill each query with the next pages of several repositories, those with the most pages left first."""
        by_rest = None if self.by_rest is None else partial(_collect_instead, self.by_rest, workers)
        return self._lists.read(tasks, workers, by_rest)


def _collect_instead(source: StarSource, workers: int, tasks: Iterable[CollectionTask]) -> Iterator[StarCollection]:
    for collected in source.collect(tasks, workers):
        yield replace(collected, source=collected.source or source.name)


class _Stargazers(NewestFirstListing[CollectionTask, StarCollection]):
    """The stars of one repository."""

    connection = "stargazers"
    name_field = "login"

    def __init__(self, client: GitHubClient, max_pages: int, key: int, task: CollectionTask) -> None:
        self.repository = task.repository
        super().__init__(key, task, max_pages * PAGE_SIZE, self.repository.stargazer_count or 0)
        self.client = client
        self.confirmations = 0
        self.before = task.load_previous()
        self._begin(self.before if self.before is not None and self._is_usable(self.before) else None)
        for page, rows in task.checkpoint.pages(GraphQLStargazers.name):
            if self.progress.entries + page.count >= self.limit:
                break
            users = rows.select("user_id", "starred_at").rows()
            identities = by_position(users, range(len(users)), page.count)
            self.progress.add(identities, failed=range(page.count - page.failed, page.count))
            self._keep(page, StarRows.of_table(rows))
        self.is_resumed = bool(self.pages)

    def _begin(self, previous: PreviousStars | None) -> None:
        """Read from the newest star to the first that `previous` has."""
        self.previous = previous
        self.pages: list[Page] = []
        self.rows: list[StarRows] = []
        if previous is None:
            self.restart(Progress(self.limit))
        else:
            known = frozenset(previous.table.select("user_id", "starred_at").rows())
            self.restart(Progress(self.limit, known, previous))

    def _is_usable(self, before: PreviousStars) -> bool:
        """Return whether reading may end at a known star: they are proven, and were read newest first or completely."""
        # A list that was cut after fewer pages ends where this one has to continue.
        reaches_limit = before.source == GraphQLStargazers.name and before.max_pages * PAGE_SIZE >= self.limit
        return before.proven and (before.complete or reaches_limit) and not self.task.full

    def subject(self) -> str:
        return node_id_of(self.repository)

    def parse_page(self, node: Any) -> StarCollection | None:
        page = self.page_of(node)
        users: list[tuple[int, str]] = []
        times: list[str | None] = []
        positions: list[int] = []
        for position, (user, starred_at) in enumerate(page.entries):
            # The id of a deleted account may be null, too.
            if user.get("databaseId") is not None and user.get("login") is not None:
                users.append((user["databaseId"], user["login"]))
                times.append(starred_at)
                positions.append(position)
        rows = StarRows(self.repository.repo_id, GraphQLStargazers.name, users, times)
        size = len(page.entries)
        # Times are only parsed where they are compared with known stars.
        identities = (
            rows.table().select("user_id", "starred_at").rows()
            if self.progress.known
            else [(user_id, None) for user_id, _ in users]
        )
        self.progress.add(by_position(identities, positions, size), total=page.total, failed=page.failed)
        self._keep(Page(page.end_cursor, rows.height, size == PAGE_SIZE, size, len(page.failed)), rows)
        if page.has_more and not self.progress.ended:
            self.task.checkpoint.add(GraphQLStargazers.name, len(self.pages), self.pages[-1], rows)
            return None
        if self.is_resumed and not self.progress.met and not page.has_more and self.progress.ids:
            # The first pages are from an earlier run: stars that were given since come before them.
            self.is_resumed = False
            self._begin(self._read_so_far())
            return None
        return self._result(has_more=page.has_more)

    def _keep(self, page: Page, rows: StarRows) -> None:
        self.pages.append(page)
        self.rows.append(rows)
        if page.etag is not None:
            self.cursors.append(page.etag)

    def _read_so_far(self) -> PreviousStars:
        known = coverage_fields(self.progress.coverage(to_its_end=True)) | {"proven": True}
        return PreviousStars(self._table(None), [], self.limit // PAGE_SIZE, GraphQLStargazers.name, **known)

    def _table(self, previous: PreviousStars | None) -> pl.DataFrame:
        table = StarRows.concat(self.rows).reverse()  # oldest first, as in the REST list
        if previous is not None:
            table = pl.concat([previous.table, table])
        # The list has a user who starred again with the newer time; pages that shift repeat some stars.
        return table.unique("user_id", keep="last", maintain_order=True)

    def _result(self, *, has_more: bool) -> StarCollection:
        progress, total = self.progress, self.progress.totals[-1]
        if not progress.entries and total > 0:
            reason = f"the list is empty, though GitHub counts {total} stars"
            return StarCollection(self.repository, Outcome.RESTRICTED, reason, requests=self.requests)
        previous = self.previous if progress.met else None
        ended = previous.complete if previous is not None else not has_more
        problem = None
        if not progress.entries and self.repository.stargazer_count:
            problem = f"the list is empty, though its metadata count {self.repository.stargazer_count:,} stars"
        known = coverage_fields(progress.coverage(to_its_end=ended, problem=problem))
        reading = ListReading(total=total, to_the_end=previous is None, problem=problem, **known)
        return collection_from_list(
            self.repository, self._table(previous), self.before, reading, requests=self.requests
        )

    def parse_refusal(self, kind: str, message: str) -> StarCollection | None:
        if kind == "FORBIDDEN":
            return StarCollection(self.repository, Outcome.RESTRICTED, message, requests=self.requests)
        return self._classify_missing(message) if kind == "NOT_FOUND" else None

    def _classify_missing(self, message: str) -> StarCollection | None:
        """Find out from the metadata by REST whether the repository is gone, blocked or restricted."""
        repository, requests = self.repository, self.requests + 1
        try:
            response = self.client.get(f"/repositories/{repository.repo_id}")
        except (ServiceUnavailableError, GitHubError, *FATAL_ERRORS) as error:
            # It is collected again by the next run; the other lists of the query are not affected.
            return StarCollection(repository, Outcome.UNKNOWN, str(error), requests=requests)
        if response.status == 200:
            self.confirmations += 1
            if self.confirmations < 2:
                return None  # the repository exists, so its list is requested once more
            return StarCollection(repository, Outcome.RESTRICTED, message, requests=requests)
        outcome, reason = classify_refusal(response)
        return StarCollection(repository, outcome, reason, requests=requests)

    def give_up(self, reason: str) -> StarCollection:
        if not self.progress.entries:
            return StarCollection(self.repository, Outcome.UNKNOWN, reason, requests=self.requests)
        # The entries that were read are kept, though nothing about them is proven.
        problem = f"the list could not be read to its end: {reason}"
        known = self.progress.coverage(to_its_end=False, problem=problem)
        reading = ListReading(total=None, entries=known.entries, to_the_end=False, problem=problem)
        return collection_from_list(
            self.repository, self._table(self.previous), self.before, reading, requests=self.requests
        )


def stargazers_query(size: int) -> str:
    """Return the query for a page of stars of each of `size` repositories."""
    field = f"node(id: $i) {{ ... on Repository {{ {connection_field('stargazers', 'login')} }} }}"
    return batched_query(size, {"i": "ID!", **PAGE_VARIABLES}, field)


def node_id_of(repository: RepositoryRef) -> str:
    """Return GitHub's global id; if it is unknown, its older form, which is made from the database id."""
    if repository.node_id is not None:
        return repository.node_id
    return base64.b64encode(f"010:Repository{repository.repo_id}".encode()).decode()
