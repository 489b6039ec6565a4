"""Stargazers by GraphQL: many repositories a query, newest first, so that a refresh reads only what is new.

Source: docs.github.com/graphql/reference/objects#repository (``stargazers``).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import polars as pl

from gh_assets.collector.client import GitHubClient
from gh_assets.collector.graphql_lists import STOPPING, BatchSize, GraphQLLists, Listing
from gh_assets.collector.outcomes import Outcome
from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.sources import (
    PER_PAGE,
    Page,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    StarRows,
    Work,
    missing_from,
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
        self.max_pages = max_pages
        self.tables: list[StarRows] = []
        self.cursor: str | None = None
        self.before = work.load_previous()
        self.previous = self._usable(self.before)
        self.known = frozenset[tuple[int, Any]]()
        if self.previous is not None:
            self.known = frozenset(self.previous.table.select("user_id", "starred_at").rows())
        for page, rows in work.checkpoint.pages(GraphQLStargazers.name)[:max_pages]:
            self.tables.append(StarRows.of_table(rows))
            self.cursor = page.etag

    def _usable(self, before: PreviousStars | None) -> PreviousStars | None:
        """What may be built upon: the table of a list that was read newest first, or whole."""
        if before is None or self.work.full:
            return None
        if not before.complete and (before.source != GraphQLStargazers.name or before.max_pages < self.max_pages):
            return None  # it ends where we have to go on
        return before

    def pages_left(self) -> int:
        pages = -(-(self.repository.stargazer_count or 0) // PER_PAGE)
        return min(self.max_pages, pages) - len(self.tables)

    def variables(self) -> Mapping[str, Any]:
        return {"i": node_id_of(self.repository), "c": self.cursor}

    def take(self, node: Mapping[str, Any]) -> StarCollection | None:
        stars = node["stargazers"]
        users: list[tuple[int, str]] = []
        times: list[str | None] = []
        for edge in stars.get("edges") or []:
            user = (edge or {}).get("node") or {}
            # Edges and nodes may be null, and so may be the id of a deleted account.
            if isinstance(user.get("databaseId"), int) and isinstance(user.get("login"), str):
                users.append((user["databaseId"], user["login"]))
                times.append(edge.get("starredAt"))
        rows = StarRows(self.repository.repo_id, GraphQLStargazers.name, users, times)
        self.tables.append(rows)
        self.cursor = stars["pageInfo"]["endCursor"]
        met = bool(self.known) and not self.known.isdisjoint(rows.table().select("user_id", "starred_at").rows())
        more = bool(stars["pageInfo"]["hasNextPage"]) and self.cursor is not None
        if more and not met and len(self.tables) < self.max_pages:
            full = len(stars.get("edges") or []) == PER_PAGE
            page = Page(self.cursor, rows.height, full)
            self.work.checkpoint.add(GraphQLStargazers.name, len(self.tables), page, rows)
            return None
        return self._done(met, more)

    def _done(self, met: bool, more: bool) -> StarCollection:
        repository = self.repository
        fresh = StarRows.together(self.tables).reverse()  # oldest first, as REST lists them
        previous = self.previous if met else None
        table = pl.concat([previous.table, fresh]) if previous is not None else fresh
        # Whoever starred again is listed with the newer time; pages that shift bring some stars twice.
        table = table.unique("user_id", keep="last", maintain_order=True)
        if table.is_empty() and (repository.stargazer_count or 0) > 0:
            reason = f"the list is empty, though GitHub counts {repository.stargazer_count} stars"
            return StarCollection(repository, Outcome.RESTRICTED, reason, requests=self.requests)
        complete = previous.complete if previous is not None else not more
        unchanged = self.before is not None and table.equals(self.before.table)
        # A list that was read to its end tells who is not in it any more.
        unstarred = missing_from(table, self.before) if not more and not met else None
        return StarCollection(
            repository, Outcome.OK, None, table, [], complete, self.requests, unchanged=unchanged, unstarred=unstarred
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
    """The query for a page of each of `size` repositories: variables ``i0…`` are their ids, ``c0…`` cursors."""
    declared = ", ".join(f"$i{n}: ID!, $c{n}: String" for n in range(size))
    asked = "\n".join(
        f"r{n}: node(id: $i{n}) {{ ... on Repository {{ "
        f"stargazers(first: {PER_PAGE}, after: $c{n}, orderBy: {{field: STARRED_AT, direction: DESC}}) {{ "
        "totalCount pageInfo { hasNextPage endCursor } edges { starredAt node { databaseId login } } } } }"
        for n in range(size)
    )
    return f"query({declared}) {{\n{asked}\nrateLimit {{ cost limit remaining resetAt }}\n}}"


def node_id_of(repository: RepositoryRef) -> str:
    """GitHub's global id; made from the database id, in GitHub's older form, where it is not known."""
    if repository.node_id is not None:
        return repository.node_id
    return base64.b64encode(f"010:Repository{repository.repo_id}".encode()).decode()
