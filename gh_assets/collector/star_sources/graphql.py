"""Stargazers by GraphQL: many repositories a query, newest first, so that a refresh reads only what is new.

Source: docs.github.com/graphql/reference/objects#repository (``stargazers``).
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import polars as pl

from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.star_sources.base import (
    PER_PAGE,
    CollectionTask,
    ListReading,
    Page,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    StarRows,
    collected_list,
)
from gh_assets.errors import GitHubError, ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.github.graphql import (
    FAILED,
    FATAL_ERRORS,
    LIGHT_PAGE,
    GraphQLLists,
    Listing,
    QuerySize,
    is_page,
    page_without,
)
from gh_assets.github.list_reading import Progress, by_position
from gh_assets.github.outcomes import Outcome


class GraphQLStargazers:
    """GitHub's list of stargazers by GraphQL.

    Parameters
    ----------
    client : GitHubClient
    max_pages : int
        At most this many pages of 100 a repository, the newest.
    batch : QuerySize, optional
        What is known of the size of queries that GitHub bears.
    in_flight : int
        Queries at once.
    """

    name = "graphql"

    def __init__(
        self, client: GitHubClient, max_pages: int, *, batch: QuerySize | None = None, in_flight: int = 4
    ) -> None:
        self.client = client
        self.max_pages = max_pages
        self._lists: GraphQLLists[StarCollection] = GraphQLLists(
            client, stargazers_query, batch=batch, in_flight=in_flight
        )

    def may_have_changed(self, *, closed: bool) -> bool:
        """Not when GitHub's count is what it was."""
        return False

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Fill queries with the next pages of several repositories, those with the most pages left first."""
        return self._lists.read((_Stargazers(self.client, work, self.max_pages) for work in tasks), workers)


class _Stargazers(Listing[StarCollection]):
    """The stars of one repository, newest first, until one is met that is known."""

    def __init__(self, client: GitHubClient, work: CollectionTask, max_pages: int) -> None:
        super().__init__(work.repository.repo_id)
        self.client = client
        self.work = work
        self.repository = work.repository
        self.limit = max_pages * PER_PAGE
        self.size = PER_PAGE
        self.refusals = 0
        self.before = work.load_previous()
        self._begin(self._usable(self.before))
        for page, rows in work.checkpoint.pages(GraphQLStargazers.name):
            if self.progress.entries + page.count >= self.limit:
                break
            users = rows.select("user_id", "starred_at").rows()
            identities = by_position(users, range(len(users)), page.count)
            self.progress.add(identities, failed=range(page.count - page.failed, page.count))
            self._keep(page, StarRows.of_table(rows))
        self.resumed = bool(self.pages)

    def _begin(self, previous: PreviousStars | None) -> None:
        """Read from the newest star on, until one is met that `previous` has."""
        self.previous = previous
        self.pages: list[Page] = []
        self.tables: list[StarRows] = []
        self.cursor: str | None = None
        self.progress = Progress(self.limit)
        if previous is not None:
            known = frozenset(previous.table.select("user_id", "starred_at").rows())
            counts = previous.entries, previous.null_entries, previous.failed_entries
            self.progress = Progress(self.limit, known, *counts)

    def _usable(self, before: PreviousStars | None) -> PreviousStars | None:
        """What may be built upon: the proven table of a list that was read newest first, or whole."""
        if before is None or self.work.full or not before.proven:
            return None
        if not before.complete and (
            before.source != GraphQLStargazers.name or before.max_pages * PER_PAGE < self.limit
        ):
            return None  # it ends where we have to go on
        return before

    def pages_left(self) -> int:
        return -(-(min(self.limit, self.repository.stargazer_count or 0) - self.progress.entries) // PER_PAGE)

    def variables(self) -> Mapping[str, Any]:
        size = max(1, min(self.size, self.limit - self.progress.entries))
        return {"i": node_id_of(self.repository), "c": self.cursor, "f": size}

    def shrink_page(self) -> bool:
        lighter, self.size = self.size > LIGHT_PAGE, min(self.size, LIGHT_PAGE)
        return lighter

    def _cursors(self) -> set[str]:
        return {page.etag for page in self.pages if page.etag is not None}

    def is_whole(self, node: Any) -> bool:
        return is_page(node, "stargazers", "login", self._cursors())

    def without(self, node: Any, failed: Collection[int]) -> Any | None:
        return page_without(node, "stargazers", "login", failed, self._cursors())

    def parse_page(self, node: Any) -> StarCollection | None:
        stars = node["stargazers"]
        users: list[tuple[int, str]] = []
        times: list[str | None] = []
        places: list[int] = []
        for place, edge in enumerate(stars["edges"]):
            user = (edge or {}).get("node") or {}
            # Edges and nodes may be null, and so may be the id of a deleted account.
            if user.get("databaseId") is not None and user.get("login") is not None:
                users.append((user["databaseId"], user["login"]))
                times.append(edge.get("starredAt"))
                places.append(place)
        rows = StarRows(self.repository.repo_id, GraphQLStargazers.name, users, times)
        size, info, failed = len(stars["edges"]), stars["pageInfo"], node.get(FAILED, ())
        # Their times are only wanted where something may be met.
        found = (
            rows.table().select("user_id", "starred_at").rows()
            if self.progress.known
            else [(n, None) for n, _ in users]
        )
        self.progress.add(by_position(found, places, size), total=stars["totalCount"], failed=failed)
        self._keep(Page(info.get("endCursor"), rows.height, size == PER_PAGE, size, len(failed)), rows)
        more = bool(info["hasNextPage"])
        if more and not self.progress.ended:
            self.work.checkpoint.add(GraphQLStargazers.name, len(self.pages), self.pages[-1], rows)
            return None
        if self.resumed and not self.progress.met and not more and self.progress.ids:
            # Its first pages are of an earlier run: what has come since stands before them.
            self.resumed = False
            self._begin(self._read_so_far())
            return None
        return self._done(more=more)

    def _read_so_far(self) -> PreviousStars:
        table = self._table(None)
        progress = self.progress
        return PreviousStars(
            table, [], complete=True, max_pages=self.limit // PER_PAGE, source=GraphQLStargazers.name, proven=True,
            entries=progress.count, null_entries=progress.null_entries, failed_entries=progress.failed_entries,
        )  # fmt: skip

    def _table(self, previous: PreviousStars | None) -> pl.DataFrame:
        fresh = StarRows.together(self.tables).reverse()  # oldest first, as REST lists them
        if previous is not None:
            fresh = pl.concat([previous.table, fresh])
        # Whoever starred again is listed with the newer time; pages that shift bring some stars twice.
        return fresh.unique("user_id", keep="last", maintain_order=True)

    def _keep(self, page: Page, rows: StarRows) -> None:
        self.pages.append(page)
        self.tables.append(rows)
        self.cursor = page.etag

    def _done(self, *, more: bool) -> StarCollection:
        progress, total = self.progress, self.progress.totals[-1]
        if not progress.entries and total > 0:
            reason = f"the list is empty, though GitHub counts {total} stars"
            return StarCollection(self.repository, Outcome.RESTRICTED, reason, requests=self.requests)
        previous = self.previous if progress.met else None
        ended = previous.complete if previous is not None else not more
        problem = None
        if not progress.entries and self.repository.stargazer_count:
            problem = f"the list is empty, though its metadata count {self.repository.stargazer_count:,} stars"
        reading = ListReading(
            ended=ended,
            proven=progress.is_proven(to_its_end=ended) and problem is None,
            count=progress.count,
            total=total,
            null_entries=progress.null_entries,
            failed_entries=progress.failed_entries,
            to_the_end=previous is None,
            problem=problem,
        )
        return collected_list(self.repository, self._table(previous), self.before, reading, requests=self.requests)

    def parse_refusal(self, kind: str, message: str) -> StarCollection | None:
        if kind == "FORBIDDEN":
            return StarCollection(self.repository, Outcome.RESTRICTED, message, requests=self.requests)
        return self._classify_missing(message) if kind == "NOT_FOUND" else None

    def _classify_missing(self, message: str) -> StarCollection | None:
        """Gone, blocked, or only not for us: its metadata tell, by REST."""
        repository, requests = self.repository, self.requests + 1
        try:
            response = self.client.get(f"/repositories/{repository.repo_id}")
        except (ServiceUnavailableError, GitHubError, *FATAL_ERRORS) as error:
            # It is asked again next time; the others of its query are not to suffer.
            return StarCollection(repository, Outcome.UNKNOWN, str(error), requests=requests)
        if response.status == 200:
            self.refusals += 1
            if self.refusals < 2:
                return None  # the repository is there: its list is asked for once more
            return StarCollection(repository, Outcome.RESTRICTED, message, requests=requests)
        outcome, reason = classify_refusal(response)
        return StarCollection(repository, outcome, reason, requests=requests)

    def give_up(self, reason: str) -> StarCollection:
        if not self.progress.entries:
            return StarCollection(self.repository, Outcome.UNKNOWN, reason, requests=self.requests)
        # What was read before is kept, though nothing is proven of it.
        problem = f"the list could not be read to its end: {reason}"
        reading = ListReading(False, False, self.progress.count, None, to_the_end=False, problem=problem)
        return collected_list(self.repository, self._table(self.previous), self.before, reading, requests=self.requests)


def stargazers_query(size: int) -> str:
    """The query for a page of each of `size` repositories: ``i0…`` are their ids, ``c0…`` cursors, ``f0…`` sizes."""
    declared = ", ".join(f"$i{n}: ID!, $c{n}: String, $f{n}: Int!" for n in range(size))
    asked = "\n".join(
        f"r{n}: node(id: $i{n}) {{ ... on Repository {{ "
        f"stargazers(first: $f{n}, after: $c{n}, orderBy: {{field: STARRED_AT, direction: DESC}}) {{ "
        "totalCount pageInfo { hasNextPage endCursor } edges { starredAt node { databaseId login } } } } }"
        for n in range(size)
    )
    return f"query({declared}) {{\n{asked}\nrateLimit {{ cost limit remaining resetAt }}\n}}"


def node_id_of(repository: RepositoryRef) -> str:
    """GitHub's global id; made from the database id, in GitHub's older form, where it is not known."""
    if repository.node_id is not None:
        return repository.node_id
    return base64.b64encode(f"010:Repository{repository.repo_id}".encode()).decode()
