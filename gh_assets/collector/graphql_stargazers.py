"""Stargazers by GraphQL: many repositories a query, newest first, so that a refresh reads only what is new.

Source: docs.github.com/graphql/reference/objects#repository (``stargazers``).
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import polars as pl

from gh_assets.collector.client import GitHubClient
from gh_assets.collector.graphql_lists import (
    FAILED,
    LIGHT_PAGE,
    STOPPING,
    BatchSize,
    GraphQLLists,
    Listing,
    is_page,
    page_without,
)
from gh_assets.collector.outcomes import Outcome
from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.sources import (
    PER_PAGE,
    ListReading,
    Page,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    StarRows,
    Work,
    collected_list,
)
from gh_assets.errors import GitHubError, ServiceUnavailableError


class GraphQLStargazers:
    """GitHub's list of stargazers by GraphQL.

    Parameters
    ----------
    client : GitHubClient
    max_pages : int
        At most this many pages of 100 a repository, the newest.
    batch : BatchSize, optional
        What is known of the size of queries that GitHub bears.
    in_flight : int
        Queries at once.
    """

    name = "graphql"
    sees_all = True

    def __init__(
        self, client: GitHubClient, max_pages: int, *, batch: BatchSize | None = None, in_flight: int = 4
    ) -> None:
        self.client = client
        self.max_pages = max_pages
        self._lists: GraphQLLists[StarCollection] = GraphQLLists(
            client, stargazers_query, batch=batch, in_flight=in_flight
        )

    def may_have_news(self, *, closed: bool) -> bool:
        """Not when GitHub's count is what it was."""
        return False

    def collect(self, works: Iterable[Work], workers: int) -> Iterator[StarCollection]:
        """Fill queries with the next pages of several repositories, those with the most pages left first."""
        return self._lists.read((_Stargazers(self.client, work, self.max_pages) for work in works), workers)


class _Stargazers(Listing[StarCollection]):
    """The stars of one repository, newest first, until one is met that is known."""

    def __init__(self, client: GitHubClient, work: Work, max_pages: int) -> None:
        super().__init__(work.repository.repo_id)
        self.client = client
        self.work = work
        self.repository = work.repository
        self.limit = max_pages * PER_PAGE
        self.size = PER_PAGE
        self.pages: list[Page] = []
        self.tables: list[StarRows] = []
        self.totals: list[int] = []
        self.counted_before = 0
        self.cursor: str | None = None
        self.before = work.load_previous()
        self.previous = self._usable(self.before)
        self.known = frozenset[tuple[int, Any]]()
        if self.previous is not None:
            self.known = frozenset(self.previous.table.select("user_id", "starred_at").rows())
        for page, rows in work.checkpoint.pages(GraphQLStargazers.name):
            if self.entries + page.count >= self.limit:
                break
            self._keep(page, StarRows.of_table(rows))

    def _usable(self, before: PreviousStars | None) -> PreviousStars | None:
        """What may be built upon: the proven table of a list that was read newest first, or whole."""
        if before is None or self.work.full or not before.proven:
            return None
        if not before.complete and (
            before.source != GraphQLStargazers.name or before.max_pages * PER_PAGE < self.limit
        ):
            return None  # it ends where we have to go on
        return before

    @property
    def entries(self) -> int:
        """Entries of the list that were read, those without a user included."""
        return sum(page.count for page in self.pages)

    def pages_left(self) -> int:
        return -(-(min(self.limit, self.repository.stargazer_count or 0) - self.entries) // PER_PAGE)

    def variables(self) -> Mapping[str, Any]:
        size = max(1, min(self.size, self.limit - self.entries))
        return {"i": node_id_of(self.repository), "c": self.cursor, "f": size}

    def lighten(self) -> bool:
        lighter, self.size = self.size > LIGHT_PAGE, min(self.size, LIGHT_PAGE)
        return lighter

    def is_whole(self, node: Any) -> bool:
        return is_page(node, "stargazers", self.cursor)

    def without(self, node: Any, failed: Collection[int]) -> Any | None:
        return page_without(node, "stargazers", failed, self.cursor)

    def take(self, node: Any) -> StarCollection | None:
        stars = node["stargazers"]
        users: list[tuple[int, str]] = []
        times: list[str | None] = []
        places: list[int] = []
        for place, edge in enumerate(stars["edges"]):
            user = (edge or {}).get("node") or {}
            # Edges and nodes may be null, and so may be the id of a deleted account.
            if isinstance(user.get("databaseId"), int) and isinstance(user.get("login"), str):
                users.append((user["databaseId"], user["login"]))
                times.append(edge.get("starredAt"))
                places.append(place)
        rows = StarRows(self.repository.repo_id, GraphQLStargazers.name, users, times)
        size, info = len(stars["edges"]), stars["pageInfo"]
        self.totals.append(stars["totalCount"])
        self._keep(Page(info["endCursor"], rows.height, size == PER_PAGE, size, node.get(FAILED, 0)), rows)
        met = False
        if self.known:
            found = rows.table().select("user_id", "starred_at").rows()
            row = next((row for row, star in enumerate(found) if star in self.known), None)
            if row is not None:
                met = True
                # Entries without a user that follow what is known were counted when that was read.
                self.counted_before = (size - places[row]) - (rows.height - row)
        if info["hasNextPage"] and not met and self.entries < self.limit:
            self.work.checkpoint.add(GraphQLStargazers.name, len(self.pages), self.pages[-1], rows)
            return None
        return self._done(met, more=bool(info["hasNextPage"]))

    def _keep(self, page: Page, rows: StarRows) -> None:
        self.pages.append(page)
        self.tables.append(rows)
        self.cursor = page.etag

    def _done(self, met: bool, *, more: bool) -> StarCollection:
        repository, before = self.repository, self.before
        fresh = StarRows.together(self.tables).reverse()  # oldest first, as REST lists them
        failed = sum(page.failed for page in self.pages)
        nulls = self.entries - fresh.height - failed
        previous = self.previous if met else None
        if previous is not None:
            fresh = pl.concat([previous.table, fresh])
            nulls += previous.null_entries - self.counted_before
            failed += previous.failed_entries
        # Whoever starred again is listed with the newer time; pages that shift bring some stars twice.
        table = fresh.unique("user_id", keep="last", maintain_order=True)
        counted = max(self.totals[-1], repository.stargazer_count or 0)
        if not self.entries and counted > 0:
            reason = f"the list is empty, though GitHub counts {counted} stars"
            return StarCollection(repository, Outcome.RESTRICTED, reason, requests=self.requests)
        ended = previous.complete if previous is not None else not more
        # The count may move while the list is read; between its bounds nothing is missing.
        count = table.height + nulls + failed
        agrees = min(self.totals) <= count <= max(self.totals)
        return collected_list(
            repository,
            table,
            before,
            ListReading(
                ended=ended,
                proven=agrees if ended else True,
                count=count,
                total=self.totals[-1],
                null_entries=nulls,
                failed_entries=failed,
                to_the_end=previous is None,
            ),
            requests=self.requests,
        )

    def refuse(self, kind: str, message: str) -> StarCollection | None:
        if kind == "FORBIDDEN":
            return StarCollection(self.repository, Outcome.RESTRICTED, message, requests=self.requests)
        return self._told_apart(message) if kind == "NOT_FOUND" else None

    def _told_apart(self, message: str) -> StarCollection:
        """Gone, blocked, or only not for us: its metadata tell, by REST."""
        repository, requests = self.repository, self.requests + 1
        try:
            answer = self.client.get(f"/repositories/{repository.repo_id}")
        except (ServiceUnavailableError, GitHubError, *STOPPING) as error:
            # It is asked again next time; the others of its query are not to suffer.
            return StarCollection(repository, Outcome.UNKNOWN, str(error), requests=requests)
        if answer.status == 200:
            return StarCollection(repository, Outcome.RESTRICTED, message, requests=requests)
        outcome, reason = classify_refusal(answer)
        return StarCollection(repository, outcome, reason, requests=requests)

    def give_up(self, reason: str) -> StarCollection:
        return StarCollection(self.repository, Outcome.UNKNOWN, reason, requests=self.requests)


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
