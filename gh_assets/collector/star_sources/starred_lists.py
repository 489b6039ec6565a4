"""Read users' own lists of starred repositories, which are public even where lists of stargazers are closed.

Lists are read newest first, up to the first star that is known.

Source: docs.github.com/rest/activity/starring (``GET /users/{username}/starred``);
docs.github.com/graphql/reference/objects#user (``starredRepositories``).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any

import polars as pl

from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.star_sources.newest_first import PAGE_VARIABLES, NewestFirstListing, connection_field
from gh_assets.collector.star_sources.rest_pages import RestPages, subject_and_time
from gh_assets.collector.star_sources.starred_state import SeedUser
from gh_assets.errors import BudgetSpentError, GitHubError, RateLimitedError, ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.github.graphql import GraphQLLists, QuerySize, batched_query
from gh_assets.github.limits import PAGE_SIZE
from gh_assets.github.list_reading import NOTHING_KNOWN, Coverage, Progress, by_position, coverage_fields, number_of
from gh_assets.github.outcomes import Outcome
from gh_assets.github.responses import GitHubResponse
from gh_assets.github.times import parse_times
from gh_assets.local.concurrency import map_bounded

MAX_RESTARTS = 2
"""Maximum number of times that a list is read again because its login moved to another user."""


@dataclass(frozen=True)
class StarredListTask:
    """A user's list to read.

    Attributes
    ----------
    seed : SeedUser
    known : polars.DataFrame or None
        Its stars when it was last read, of schema `STARRED`.
    etag : str or None
        ETag of its first page then.
    coverage : Coverage
        What was known of the list then.
    refresh : bool
        Whether reading may end at the first known star; otherwise the list is read from its beginning to its end.
    """

    seed: SeedUser
    known: pl.DataFrame | None = None
    etag: str | None = None
    coverage: Coverage = NOTHING_KNOWN
    refresh: bool = True


@dataclass(frozen=True)
class UserList(Coverage):
    """Result of reading one user's list.

    Attributes
    ----------
    seed : SeedUser
    outcome : Outcome
    reason : str or None
        Why the outcome is not ok, or the list is not proven.
    user_id, login
        The user's id, if it is known, and login.
    rows : polars.DataFrame or None
        All stars that are known now, newest first, of schema `STARRED`; None unless the outcome is ok.
    unchanged : bool
        Whether it equals the known list.
    etag : str or None
        ETag of the first page.
    requests : int
    """

    seed: SeedUser
    outcome: Outcome
    reason: str | None = None
    user_id: int | None = None
    login: str = ""
    rows: pl.DataFrame | None = None
    unchanged: bool = False
    etag: str | None = None
    requests: int = 0


class _PartialList:
    """The pages of a user's list that were read so far."""

    def __init__(self, task: StarredListTask, max_pages: int) -> None:
        self.task = task
        self.stars: list[tuple[Any, Any, Any]] = []
        known = frozenset[tuple[int, Any]]()
        if task.known is not None and task.refresh:
            known = frozenset(task.known.select("repo_id", "starred_at").rows())
        self.progress = Progress(max_pages * PAGE_SIZE, known, task.coverage)

    def add(
        self, stars: Sequence[tuple[Any, Any, Any]], *, total: int | None = None, failed: Collection[int] = ()
    ) -> bool:
        """Add a page, and return whether the list need not be read further.

        Parameters
        ----------
        stars : sequence of tuple
            Repository id, name and time of each entry; those without an id or name have no visible repository.
        total : int, optional
            GitHub's count of the whole list.
        failed : collection of int
            Positions of entries that GitHub could not return.
        """
        positions = [
            position for position, (repo_id, name, _) in enumerate(stars)
            if number_of(repo_id) is not None and isinstance(name, str)
        ]  # fmt: skip
        visible = [stars[position] for position in positions]
        self.stars += visible
        # Times are only parsed where they are compared with known stars.
        times = parse_times([time for *_, time in visible]).to_list() if self.progress.known else repeat(None)
        identities = [(repo_id, time) for (repo_id, *_), time in zip(visible, times, strict=False)]
        self.progress.add(by_position(identities, positions, len(stars)), total=total, failed=failed)
        return self.progress.ended

    def _table(self, user_id: int, login: str) -> pl.DataFrame:
        """Return what was read as a table of schema `STARRED`."""
        size = len(self.stars)
        return pl.DataFrame(
            [
                pl.Series("user_id", [user_id] * size, pl.Int64),
                pl.Series("login", [login] * size, pl.String),
                pl.Series("repo_id", [repo_id for repo_id, _, _ in self.stars], pl.Int64),
                pl.Series("full_name", [name for _, name, _ in self.stars], pl.String),
                parse_times([time for *_, time in self.stars]).alias("starred_at"),
            ]
        )

    def result(
        self, user_id: int, login: str, *, has_more: bool, requests: int, etag: str | None = None,
        problem: str | None = None,
    ) -> UserList:  # fmt: skip
        """Combine what was read with the known list.

        Parameters
        ----------
        user_id, login
            Owner of the list.
        has_more : bool
            Whether the list has pages that were not read.
        problem : str, optional
            Why the list could not be read further, or is not trustworthy.
        """
        known, progress = self.task.known, self.progress
        rows = self._table(user_id, login)
        if progress.met and known is not None:
            rows = pl.concat([rows, known])
        if rows.height > len(progress.ids):
            rows = rows.unique("repo_id", keep="first", maintain_order=True)
        ended = self.task.coverage.complete if progress.met else not has_more
        read = progress.coverage(to_its_end=ended, problem=problem)
        complete = ended and read.proven
        if known is not None and not (complete and not read.null_entries and not read.failed_entries):
            # A known star that is missing may be in the part that was not read.
            missing = known.join(rows, on="repo_id", how="anti")
            if missing.height:
                rows = pl.concat([rows, missing])
                rows = rows.sort("starred_at", descending=True, maintain_order=True, nulls_last=True)
        if known is not None:
            rows = rows.with_columns(pl.lit(user_id, pl.Int64).alias("user_id"), pl.lit(login).alias("login"))
        return UserList(
            self.task.seed,
            Outcome.OK,
            problem,
            user_id,
            login,
            rows,
            unchanged=known is not None and rows.equals(known),
            etag=etag if read.proven else None,
            requests=requests,
            **coverage_fields(read) | {"complete": complete},
        )


# -- by REST -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RestStarred:
    """Reads users' lists by REST: ``GET /user/{id}/starred``, 100 stars a page.

    Parameters
    ----------
    client : GitHubClient
    max_pages : int
        Maximum number of pages per user, the newest.
    on_page : callable, optional
        Called after each page with the number of the user's pages and stars that were read.
    prove : bool
        Request the pages once more at the end, to make sure that the list did not change while it was read.
    """

    client: GitHubClient
    max_pages: int
    on_page: Callable[[int, int], None] = lambda number, stars: None
    prove: bool = True

    def read(self, tasks: Iterable[StarredListTask], workers: int) -> Iterator[UserList]:
        """Read the lists of several users concurrently."""
        return map_bounded(self._read, tasks, workers)

    def _read(self, task: StarredListTask) -> UserList:
        seed = task.seed
        partial = _PartialList(task, self.max_pages)
        responses: list[GitHubResponse] = []
        requests = last_page = 0
        try:
            user = self._identify(seed)
            if isinstance(user, UserList):
                return user
            user_id, login = user
            pages = RestPages(self.client, f"/user/{user_id}/starred")
            for number in range(1, self.max_pages + 1):
                response = pages.get(number, task.etag if number == 1 and task.refresh else None)
                requests += 1
                if response.status == 304 and task.known is not None:
                    known = coverage_fields(task.coverage) | {"proven": True}
                    return UserList(
                        seed, Outcome.OK, None, user_id, login, task.known, True, task.etag, requests, **known
                    )
                if response.status != 200 or not isinstance(response.payload, list):
                    outcome, reason = classify_refusal(response)
                    return UserList(seed, outcome, reason, seed.user_id, seed.login, requests=requests)
                responses.append(response)
                last_page = max(last_page, response.last_page or number)
                ended = partial.add([_parse_entry(entry) for entry in response.payload])
                has_more = response.has_next_page and bool(response.payload)
                self.on_page(number, len(partial.stars))
                if ended or not has_more:
                    break
            problem = None
            if not has_more and number < last_page and not ended:
                problem = f"the list ended on page {number}, of {last_page}"
            # A star that is taken back between two pages moves the first star of each later page out of sight.
            for number, read in enumerate(responses[:-1] if self.prove and problem is None else (), start=1):
                requests += 1
                if pages.has_changed(number, read.etag, read.content):
                    problem = "the list changed while it was read"
                    break
        except (ServiceUnavailableError, GitHubError) as error:
            return UserList(seed, Outcome.UNKNOWN, str(error), seed.user_id, seed.login, requests=requests)
        return partial.result(
            user_id, login, has_more=has_more, requests=requests, etag=responses[0].etag, problem=problem
        )

    def _identify(self, seed: SeedUser) -> tuple[int, str] | UserList:
        """Return the user's id and login, by a request if only the login is known; the list's result if that fails."""
        if seed.user_id is not None:
            return seed.user_id, seed.login
        response = self.client.get(f"/users/{seed.login}")
        user_id, login = number_of(response.document.get("id")), response.document.get("login")
        if response.status == 200 and user_id is not None and isinstance(login, str):
            return user_id, login
        outcome, reason = classify_refusal(response)
        return UserList(seed, outcome, reason, None, seed.login, requests=1)


def _parse_entry(entry: Any) -> tuple[Any, Any, Any]:
    repository, starred_at = subject_and_time(entry, "repo")
    if not isinstance(repository, dict):
        return None, None, None
    return repository.get("id"), repository.get("full_name"), starred_at


# -- by GraphQL --------------------------------------------------------------------------------------------------------


class GraphQLStarred:
    """Reads users' lists by GraphQL, many users per query, and by REST where the server or the token has no GraphQL.

    Parameters
    ----------
    client : GitHubClient
    max_pages : int
        Maximum number of pages per user, the newest.
    batch : QuerySize, optional
        The size of queries that GitHub accepts.
    """

    def __init__(self, client: GitHubClient, max_pages: int, batch: QuerySize | None = None) -> None:
        self._lists = GraphQLLists(client, starred_query, partial(_Starred, client, max_pages), batch)
        self._by_rest = RestStarred(client, max_pages)

    def read(self, tasks: Iterable[StarredListTask], workers: int) -> Iterator[UserList]:
        """Fill each query with the next pages of several users."""
        return self._lists.read(tasks, workers, lambda left: self._by_rest.read(left, workers))


class _Starred(NewestFirstListing[StarredListTask, UserList]):
    """The list of one user."""

    connection = "starredRepositories"
    name_field = "nameWithOwner"

    def __init__(self, client: GitHubClient, max_pages: int, key: int, task: StarredListTask) -> None:
        super().__init__(key, task, max_pages * PAGE_SIZE, expected=1)
        self.client = client
        self.seed = task.seed
        self.max_pages = max_pages
        self.login = task.seed.login
        self.has_moved = False
        self.restarts = 0
        self._begin()

    def _begin(self) -> None:
        """Read from the newest star on."""
        self.partial = _PartialList(self.task, self.max_pages)
        self.restart(self.partial.progress)
        self.expected = 1
        self.user_id = self.seed.user_id

    def subject(self) -> str:
        return self.login

    def is_whole(self, node: Any) -> bool:
        has_owner = isinstance(node, Mapping) and number_of(node.get("databaseId")) is not None
        return has_owner and super().is_whole(node)

    def parse_page(self, node: Any) -> UserList | None:
        user_id, login = int(node["databaseId"]), str(node.get("login"))
        if self.seed.user_id is not None and user_id != self.seed.user_id:
            return self._follow_rename("another user has this login now")
        if self.user_id is not None and user_id != self.user_id:
            # The login moved to another user between two pages.
            self.restarts += 1
            if self.restarts > MAX_RESTARTS:
                return self.give_up("its login moved to another user while it was read")
            self._begin()
            return None
        self.user_id = user_id
        page = self.page_of(node)
        ended = self.partial.add(
            [(repo.get("databaseId"), repo.get("nameWithOwner"), starred_at) for repo, starred_at in page.entries],
            total=page.total,
            failed=page.failed,
        )
        self.expected = page.total
        if page.has_more and page.end_cursor is not None:
            self.cursors.append(page.end_cursor)
        if page.has_more and not ended:
            return None
        # GitHub cuts very long lists, which it reports as over the limit.
        has_more = page.has_more or bool(node[self.connection].get("isOverLimit"))
        return self.partial.result(user_id, login, has_more=has_more, requests=self.requests)

    def parse_refusal(self, kind: str, message: str) -> UserList | None:
        if kind == "NOT_FOUND":
            return self._follow_rename(message)
        if kind == "FORBIDDEN":
            return UserList(self.seed, Outcome.RESTRICTED, message, self.seed.user_id, self.login)
        return None

    def _follow_rename(self, message: str) -> UserList | None:
        """Look up the present login by the user's id, and return None to read its list, or the result without one."""
        gone = UserList(self.seed, Outcome.GONE, message, self.seed.user_id, self.login, requests=self.requests)
        if self.seed.user_id is None or self.has_moved:
            return gone
        try:
            response = self.client.get(f"/user/{self.seed.user_id}")
        except (ServiceUnavailableError, GitHubError, BudgetSpentError, RateLimitedError) as error:
            return replace(gone, outcome=Outcome.UNKNOWN, reason=str(error))
        login = response.document.get("login")
        if response.status != 200 or not isinstance(login, str):
            outcome, reason = classify_refusal(response)
            return replace(gone, outcome=outcome, reason=reason)
        # The list is read from its beginning, so that no star of the former login counts twice.
        self.login, self.has_moved = login, True
        self._begin()
        return None

    def give_up(self, reason: str) -> UserList:
        return UserList(self.seed, Outcome.UNKNOWN, reason, self.seed.user_id, self.login, requests=self.requests)


def starred_query(size: int) -> str:
    """Return the query for a page of starred repositories of each of `size` users."""
    stars = connection_field("starredRepositories", "nameWithOwner", more="isOverLimit ")
    return batched_query(size, {"i": "String!", **PAGE_VARIABLES}, f"user(login: $i) {{ databaseId login {stars} }}")
