"""Where stars come from. A `StarSource` collects repositories, in any order; which one is used is a setting.

Here: what all sources share, and the REST list of stargazers (GitHub: GET /repositories/{id}/stargazers).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import polars as pl

from gh_assets.collector.identities import identified, ids_of_logins
from gh_assets.collector.repositories import classify_refusal
from gh_assets.errors import GitHubError, ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.github.list_reading import are_null_entries_plausible, number_of
from gh_assets.github.outcomes import Outcome
from gh_assets.github.rate_limits import Resource
from gh_assets.github.responses import STAR_JSON, GitHubResponse
from gh_assets.github.times import parse_times
from gh_assets.local.concurrency import map_bounded
from gh_assets.schemas import STARGAZERS, UTC_TIME

PER_PAGE = 100

REST_PAGES = 400
"""GitHub's REST list of stargazers ends here, at 40,000 stars. GraphQL's does not."""


@dataclass(frozen=True)
class SourceKind:
    """What a source of stars can see, and what it spends.

    Attributes
    ----------
    resource : Resource or None
        The quota that it spends; None if it sends GitHub next to no requests.
    reads_own_lists : bool
        Whether it reads repositories' own lists, which hold every star, so that the number of stars can be compared
        with GitHub's count. Other sources see the stars of some users or hours.
    """

    resource: Resource | None
    reads_own_lists: bool


SOURCES: Mapping[str, SourceKind] = {
    "auto": SourceKind(Resource.GRAPHQL, reads_own_lists=False),
    "stargazers": SourceKind(Resource.REST, reads_own_lists=True),
    "graphql": SourceKind(Resource.GRAPHQL, reads_own_lists=True),
    "starred": SourceKind(Resource.GRAPHQL, reads_own_lists=False),
    "gharchive": SourceKind(None, reads_own_lists=False),
    "file": SourceKind(None, reads_own_lists=False),
}
"""The sources by name: `gh_assets.settings.StarSourceName` has the same names."""

OWN_LIST_SOURCES = frozenset(name for name, kind in SOURCES.items() if kind.reads_own_lists)


@dataclass(frozen=True)
class RepositoryRef:
    """A repository to collect, as the table of repositories knows it."""

    repo_id: int
    partition: str
    full_name: str
    stargazer_count: int | None
    outcome: Outcome
    node_id: str | None = None


@dataclass(frozen=True)
class Page:
    """A page of a list that was read.

    Attributes
    ----------
    etag : str or None
        Its ETag, by REST; the cursor of its end, by GraphQL.
    rows : int
        Rows of the table that came from it: fewer than entries, since stars of deleted accounts have no user.
    full : bool
        Whether it had as many entries as a page can have.
    entries : int or None
        How many it had; None on pages that an earlier version read.
    failed : int
        Of these, entries that GitHub failed on each time.
    """

    etag: str | None
    rows: int
    full: bool
    entries: int | None = None
    failed: int = 0

    @property
    def count(self) -> int:
        """Entries, as far as that is known."""
        if self.entries is not None:
            return self.entries
        return PER_PAGE if self.full else self.rows


@dataclass(frozen=True)
class PreviousStars:
    """What an earlier run collected: rows in the order of the pages that they came from.

    Attributes
    ----------
    table : polars.DataFrame
        Of schema `STARGAZERS`.
    pages : sequence of Page
    complete : bool
        Whether it holds all stars.
    max_pages : int
        How many pages were wanted then.
    source : str
        Which source collected it.
    proven : bool
        Whether it was proven to be all that was asked for; see `StarCollection`.
    entries, null_entries, failed_entries : int
        Entries of the list, and those that are not in the table; see `StarCollection`.
    """

    table: pl.DataFrame
    pages: Sequence[Page]
    complete: bool = False
    max_pages: int = 0
    source: str | None = None
    proven: bool = False
    entries: int = 0
    null_entries: int = 0
    failed_entries: int = 0


class StarRows:
    """Stars of a page, made into a table only when somebody wants one: most pages are wanted with others at once.

    Parameters
    ----------
    repo_id : int
    source : str
    users : sequence of tuple
        Id and login.
    times : sequence of str or None
        GitHub's texts.
    """

    def __init__(
        self, repo_id: int, source: str, users: Sequence[tuple[int, str]], times: Sequence[str | None]
    ) -> None:
        self.height = len(users)
        self._raw = (repo_id, source, users, times)
        self._table: pl.DataFrame | None = None

    @classmethod
    def of_table(cls, table: pl.DataFrame) -> StarRows:
        """Rows that are a table already."""
        rows = cls(0, "", [], [])
        rows.height, rows._table = table.height, table
        return rows

    def table(self) -> pl.DataFrame:
        """Of schema `STARGAZERS`."""
        if self._table is None:
            repo_id, source, users, times = self._raw
            self._table = stars_table(repo_id, users, times, source)
        return self._table

    @classmethod
    def together(cls, parts: Sequence[StarRows]) -> pl.DataFrame:
        """One table of several pages, in order."""
        tables: list[pl.DataFrame] = []
        users: list[tuple[int, str]] = []
        times: list[str | None] = []
        raw = ("", 0)

        def finish() -> None:
            if users:
                tables.append(stars_table(raw[1], users, times, raw[0]))
                users.clear()
                times.clear()

        for part in parts:
            if part._table is not None:
                finish()
                tables.append(part._table)
            else:
                raw = (part._raw[1], part._raw[0])
                users += part._raw[2]
                times += part._raw[3]
        finish()
        return pl.concat(tables) if tables else STARGAZERS.empty()


class Checkpoint(Protocol):
    """Keeps the pages of one repository that is being collected, so that a killed run goes on where it was."""

    def pages(self, source: str) -> list[tuple[Page, pl.DataFrame]]:
        """What an earlier run had read by the same source, from the first page on."""

    def add(self, source: str, number: int, page: Page, rows: StarRows) -> None:
        """Remember page `number` (from 1), as `source` reads them."""


class NoCheckpoint:
    """Remembers nothing."""

    def pages(self, source: str) -> list[tuple[Page, pl.DataFrame]]:
        return []

    def add(self, source: str, number: int, page: Page, rows: StarRows) -> None:
        pass


@dataclass(frozen=True)
class CollectionTask:
    """A repository to collect.

    Attributes
    ----------
    repository : RepositoryRef
    load_previous : callable
        Gives what an earlier run collected, from whichever source, if that is still whole.
    checkpoint : Checkpoint
    full : bool
        Read the whole list again, however much of it is known: unstars are noticed so.
    """

    repository: RepositoryRef
    load_previous: Callable[[], PreviousStars | None] = lambda: None
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)
    full: bool = False


@dataclass(frozen=True)
class StarCollection:
    """What a source found out about one repository.

    Attributes
    ----------
    repository : RepositoryRef
    outcome : Outcome
    table : polars.DataFrame or None
        Of schema `STARGAZERS`; None unless the outcome is ok.
    complete : bool
        Whether it holds all stars, not only those of the first pages.
    requests, not_modified : int
        Pages asked for, and how many of these answered 304.
    unchanged : bool
        The table is the one that was there.
    unstarred : polars.DataFrame or None
        Of schema `STARGAZERS`: stars that were there before and are no more.
    closed_at : datetime or None
        When the repository's own list was found closed, where the stars were learned in another way.
    source : str or None
        Which source the table is from, where it is not the one that was asked.
    proven : bool
        Whether the table was proven to hold all that was asked for: nothing failed in any answer, and where the list
        was read to its end it agrees with GitHub's count. What was not proven is asked for again.
    entries, null_entries, failed_entries : int
        Entries of the list, of these those without a user (deleted accounts), and those that GitHub failed on.
    """

    repository: RepositoryRef
    outcome: Outcome
    reason: str | None = None
    table: pl.DataFrame | None = None
    pages: Sequence[Page] = field(default_factory=list)
    complete: bool = False
    requests: int = 0
    not_modified: int = 0
    unchanged: bool = False
    unstarred: pl.DataFrame | None = None
    closed_at: dt.datetime | None = None
    source: str | None = None
    proven: bool = False
    entries: int = 0
    null_entries: int = 0
    failed_entries: int = 0


class StarSource(Protocol):
    """A way to learn who starred repositories.

    Attributes
    ----------
    name : str
        As settings and tables call it.
    """

    name: str

    def may_have_changed(self, *, closed: bool) -> bool:
        """Whether a repository may have news though GitHub's count of its stars is what it was.

        `closed`: its own list could not be read.
        """

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Collect repositories, taking them from `tasks` as it goes on, and yield each when it is done, in any order.

        What concerns one repository alone is an outcome, not an exception. After an exception (no quota left,
        cancelled) what had begun is still yielded, or kept in its checkpoint.
        """


class RestStargazers:
    """GitHub's list of stargazers, oldest first, 100 a page.

    Parameters
    ----------
    client : GitHubClient
    max_pages : int
        At most this many pages a repository.
    beyond : callable, optional
        Gives a source that can read so many pages of the newest stars: repositories with more than `REST_PAGES` pages
        are continued by it.
    """

    name = "stargazers"

    def __init__(self, client: GitHubClient, max_pages: int, beyond: Callable[[int], StarSource] | None = None) -> None:
        self.client = client
        self.max_pages = max_pages
        self.beyond = beyond

    def may_have_changed(self, *, closed: bool) -> bool:
        """Not when GitHub's count is what it was."""
        return False

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Several repositories at once, the pages of each one after another."""
        return map_bounded(self._collect, tasks, workers)

    def _collect(self, work: CollectionTask) -> StarCollection:
        """Page through the list; pages that did not change answer 304 and are taken from what is there."""
        repository, before = work.repository, work.load_previous()
        previous = before if before is not None and before.source == self.name else None
        # By id: a rename between two pages changes nothing.
        path = f"/repositories/{repository.repo_id}/stargazers"
        known = list(previous.pages) if previous is not None else []
        most = min(self.max_pages, REST_PAGES)
        resumed = work.checkpoint.pages(self.name)[:most]
        pages = [page for page, _ in resumed]
        tables = [StarRows.of_table(rows) for _, rows in resumed]
        offset = sum(page.rows for page in known[: len(pages)])
        requests = not_modified = 0
        contents: dict[int, bytes] = {}
        complete = False
        for number in range(len(pages) + 1, most + 1):
            old = known[number - 1] if number <= len(known) else None
            # A full last page may have got a successor without changing itself: it has to be asked outright.
            last = number == len(known) and number < REST_PAGES
            # Pages that an earlier version read have no count of their entries.
            reusable = old is not None and old.entries is not None and not (last and old.full)
            etag = old.etag if old is not None and reusable else None
            try:
                response = self._page(path, number, etag)
                if response.status == 404 and self._is_there(repository):
                    requests += 2  # once more: it may have been a bad moment
                    response = self._page(path, number, etag)
            except (ServiceUnavailableError, GitHubError) as error:
                return StarCollection(repository, Outcome.UNKNOWN, str(error), requests=requests + 1)
            requests += 1
            if response.status == 304 and old is not None and previous is not None:
                not_modified += 1
                page, rows = old, StarRows.of_table(previous.table.slice(offset, old.rows))
                offset += old.rows
                complete = number == len(known) and number < REST_PAGES
            elif response.status == 200 and isinstance(response.payload, list):
                try:
                    rows = _rows(response.payload, repository.repo_id, self.name)
                except ValueError as error:
                    return StarCollection(repository, Outcome.UNKNOWN, str(error), requests=requests)
                size = len(response.payload)
                page = Page(response.etag, rows.height, size == PER_PAGE, size)
                if response.etag is None:
                    contents[number] = response.content
                offset += old.rows if old is not None else 0
                # An empty page is the end, whatever its Link header says.
                complete = not response.has_next_page or not response.payload
                if complete and page.full and (repository.stargazer_count or 0) > number * PER_PAGE:
                    complete = False  # GitHub counts more: the header is wrong
            else:
                return self._refused(repository, response.status, classify_refusal(response), requests)
            if rows.height or page.full or number == 1:
                pages.append(page)
                tables.append(rows)
            if complete:
                break
            work.checkpoint.add(self.name, number, page, rows)
        table = StarRows.together(tables).unique("user_id", keep="first", maintain_order=True)
        entries, rows_read = sum(page.count for page in pages), sum(page.rows for page in pages)
        nulls = entries - rows_read
        count = table.height + nulls
        if table.height < rows_read:
            # Stars that shifted while we paged came twice: without its rows in place no page can be reused.
            reusable_pages: list[Page] = []
        else:
            reusable_pages = pages
        if table.is_empty() and not nulls and (repository.stargazer_count or 0) > 0:
            reason = f"the list is empty, though GitHub counts {repository.stargazer_count} stars"
            return StarCollection(repository, Outcome.RESTRICTED, reason, requests=requests)
        total, to_the_end, problem = repository.stargazer_count, True, None
        proven = are_null_entries_plausible(nulls, count, before.null_entries if before is not None else 0)
        if not complete and self.beyond is not None and self.max_pages > REST_PAGES and len(tables) >= REST_PAGES:
            newest = self._newest(work, table, count, nulls, previous, self.beyond(self.max_pages - REST_PAGES))
            requests += newest.requests
            if newest.table is None:
                return replace(newest, requests=requests)
            table, count, nulls = newest.table, newest.entries, newest.null_entries
            proven, complete, to_the_end = proven and newest.proven, newest.complete, False
        elif not complete:
            proven = proven and count == entries
        elif proven:
            if resumed or before is None or count != total or missing_from(table, before) is not None:
                # A star that was taken back while we paged moves the first of each later page out of sight.
                proven = not self._have_moved(path, pages, contents)
                problem = None if proven else "the list changed while it was read"
            if proven and count != total:
                # The list may have moved since its metadata were read: between the two counts nothing is missing.
                now, requests = self._count_now(repository), requests + 1
                counts = [number for number in (total, now) if number is not None]
                proven = now is not None and min(counts) <= count <= max(counts)
                total = now if now is not None else total
        reading = ListReading(complete, proven, count, total, nulls, to_the_end=to_the_end, problem=problem)
        return collected_list(
            repository, table, before, reading, pages=reusable_pages, requests=requests, not_modified=not_modified
        )

    def _have_moved(self, path: str, pages: Sequence[Page], contents: Mapping[int, bytes]) -> bool:
        """Whether a page before the last is not what it was when it was read; asking costs no quota if not."""
        for number, page in enumerate(pages[:-1], start=1):
            try:
                response = self._page(path, number, page.etag)
            except (ServiceUnavailableError, GitHubError):
                return True
            # Servers without ETags send the page once more.
            if response.status != 304 and (response.status != 200 or response.content != contents.get(number)):
                return True
        return False

    def _page(self, path: str, number: int, etag: str | None) -> GitHubResponse:
        parameters: dict[str, str | int] = {"per_page": PER_PAGE, "page": number}
        return self.client.get(path, parameters=parameters, accept=STAR_JSON, etag=etag)

    def _is_there(self, repository: RepositoryRef) -> bool:
        return self.client.get(f"/repositories/{repository.repo_id}").status == 200

    def _count_now(self, repository: RepositoryRef) -> int | None:
        """GitHub's count of the stars at this moment; None if it does not say."""
        try:
            response = self.client.get(f"/repositories/{repository.repo_id}")
        except (ServiceUnavailableError, GitHubError):
            return None
        count = response.payload.get("stargazers_count") if isinstance(response.payload, dict) else None
        return count if response.status == 200 and isinstance(count, int) else None

    def _newest(
        self, work: CollectionTask, oldest: pl.DataFrame, count: int, nulls: int, previous: PreviousStars | None,
        source: StarSource,
    ) -> StarCollection:  # fmt: skip
        """What comes after the last page that REST gives: read from the newest until it meets what is known."""
        known = oldest
        if previous is not None and previous.complete:
            later = previous.table.slice(sum(page.rows for page in previous.pages))
            known = pl.concat([oldest, later.join(oldest, on="user_id", how="anti")])
            count, nulls = count + known.height - oldest.height, previous.null_entries
        beyond = PreviousStars(
            known, [], complete=True, source=self.name, proven=True, entries=count, null_entries=nulls
        )
        rest = CollectionTask(work.repository, lambda: beyond, _Beyond(work.checkpoint, REST_PAGES))
        (collected,) = source.collect([rest], 1)
        if collected.table is None:
            return collected
        return replace(collected, table=collected.table.with_columns(pl.lit(self.name).alias("source")))

    def _refused(
        self, repository: RepositoryRef, status: int, verdict: tuple[Outcome, str], requests: int
    ) -> StarCollection:
        outcome, reason = verdict
        if outcome is Outcome.GONE:
            # A closed list may look like a missing repository: its metadata tell them apart.
            try:
                response = self.client.get(f"/repositories/{repository.repo_id}")
            except (ServiceUnavailableError, GitHubError) as error:
                return StarCollection(repository, Outcome.UNKNOWN, str(error), requests=requests + 1)
            requests += 1
            if response.status == 200:
                outcome = Outcome.RESTRICTED
        elif status == 422:
            outcome = Outcome.UNKNOWN
        return StarCollection(repository, outcome, reason, requests=requests)


class _Beyond:
    """The part of a REST checkpoint that follows the first pages, whoever reads it."""

    def __init__(self, checkpoint: Checkpoint, first: int) -> None:
        self._checkpoint = checkpoint
        self._first = first

    def pages(self, source: str) -> list[tuple[Page, pl.DataFrame]]:
        return self._checkpoint.pages(RestStargazers.name)[self._first :]

    def add(self, source: str, number: int, page: Page, rows: StarRows) -> None:
        self._checkpoint.add(RestStargazers.name, self._first + number, page, rows)


@dataclass(frozen=True)
class ListReading:
    """How a repository's own list was read.

    Attributes
    ----------
    ended : bool
        Whether it was read to its end, now or (as far as the rest goes) by an earlier run.
    proven : bool
        Whether nothing failed, and the count agrees where the list ended.
    count, total : int
        Entries that are known, and how many GitHub counts.
    null_entries, failed_entries : int
        See `StarCollection`.
    to_the_end : bool
        Whether all of it was read now: then who is not in it any more took the star back.
    problem : str or None
        Why it is not proven, where that is not its count.
    """

    ended: bool
    proven: bool
    count: int
    total: int | None
    null_entries: int = 0
    failed_entries: int = 0
    to_the_end: bool = True
    problem: str | None = None


def collected_list(
    repository: RepositoryRef,
    table: pl.DataFrame,
    before: PreviousStars | None,
    reading: ListReading,
    *,
    pages: Sequence[Page] = (),
    requests: int = 0,
    not_modified: int = 0,
) -> StarCollection:
    """What the reading of a repository's own list has brought.

    Only a list that was read whole replaces what was known, and says who took a star back: else the stars that were
    known and not met stay, since they may be in what was not read, or be entries without a user.

    Parameters
    ----------
    table : polars.DataFrame
        Of schema `STARGAZERS`, a row a user.
    before : PreviousStars or None
    pages : sequence of Page
        Those whose rows stand in the table one after another, if the next reading may take them from there.
    """
    whole = reading.ended and reading.proven
    unstarred = None
    if whole and reading.to_the_end and not reading.null_entries and not reading.failed_entries:
        unstarred = missing_from(table, before)
    elif before is not None:
        known = identified(before.table, ids_of_logins(table)).unique("user_id", maintain_order=True)
        unmet = known.join(table, on="user_id", how="anti")
        if unmet.height:
            table, pages = pl.concat([unmet, table]).sort("starred_at", maintain_order=True, nulls_last=False), ()
    said = []
    if reading.problem is not None:
        said.append(reading.problem)
    elif not reading.proven and reading.count == reading.total:
        said.append(f"{reading.null_entries:,} of its {reading.count:,} entries came without a user")
    elif not reading.proven:
        said.append(f"{reading.count:,} entries were read, and GitHub counts {reading.total or 0:,}")
    if reading.failed_entries:
        said.append(f"GitHub failed on {reading.failed_entries:,} entries each time")
    return StarCollection(
        repository,
        Outcome.OK,
        "; ".join(said) or None,
        table,
        pages,
        complete=whole,
        requests=requests,
        not_modified=not_modified,
        unchanged=before is not None and table.equals(before.table),
        unstarred=unstarred,
        proven=reading.proven,
        entries=reading.count,
        null_entries=reading.null_entries,
        failed_entries=reading.failed_entries,
    )


def missing_from(table: pl.DataFrame, before: PreviousStars | None) -> pl.DataFrame | None:
    """The stars of before whose users are not in a list that was read whole: they were taken back."""
    if before is None:
        return None
    # Users of old events have no id of GitHub's: who they are in the list is not known.
    gone = before.table.filter(pl.col("user_id") > 0).join(table, on="user_id", how="anti")
    return None if gone.is_empty() else gone


def merge_stars(
    rows: pl.DataFrame, before: PreviousStars | None, read_whole: Mapping[int, dt.datetime] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Stars that some users or hours told of, added to those that are known already.

    Parameters
    ----------
    rows : polars.DataFrame
        Of schema `STARGAZERS`.
    before : PreviousStars or None
    read_whole : mapping of int to datetime, optional
        Users all of whose stars were read, and when: if a star that they had given before is not in `rows`, they took
        it back.

    Returns
    -------
    table : polars.DataFrame
        One row a user, oldest star first; of several times of one user the latest.
    unstarred : polars.DataFrame or None
    """
    gone = None
    parts = [rows]
    if before is not None:
        known = identified(before.table, ids_of_logins(rows)).unique("user_id", keep="last", maintain_order=True)
        others = known.join(rows, on="user_id", how="anti")
        if read_whole:
            read = pl.DataFrame(
                {"user_id": list(read_whole), "read_at": list(read_whole.values())},
                schema={"user_id": pl.Int64, "read_at": UTC_TIME},
            )
            told = others.join(read, on="user_id", how="left", maintain_order="left")
            taken_back = (told["starred_at"] < told["read_at"]).fill_null(value=False)
            gone, others = others.filter(taken_back), others.filter(~taken_back)
        # A row that says nothing new stays as it was: what it was learned from need not change.
        same = known.join(rows, on=["user_id", "starred_at"], how="semi", nulls_equal=True)
        parts = [rows.join(same, on="user_id", how="anti"), same, others]
    table = (
        pl.concat(parts)
        .sort("starred_at", "user_id", nulls_last=False)
        .unique("user_id", keep="last", maintain_order=True)
    )
    return table, None if gone is None or gone.is_empty() else gone


def _rows(entries: Sequence[Any], repo_id: int, source: str) -> StarRows:
    """Rows of a page. A star whose user is null (a deleted account) belongs to nobody and is left out.

    Raises
    ------
    ValueError
        If an entry is no star.
    """
    users: list[tuple[int, str]] = []
    times: list[str | None] = []
    for entry in entries:
        # Servers that ignore the media type answer with bare users, without the time.
        starred = isinstance(entry, dict) and "user" in entry
        user = entry["user"] if starred else entry
        if user is None:
            continue
        user_id = number_of(user.get("id")) if isinstance(user, dict) else None
        if user_id is None or not isinstance(user.get("login"), str):
            raise ValueError("GitHub's list has an entry that is no star")
        users.append((user_id, user["login"]))
        times.append(entry.get("starred_at") if starred else None)
    return StarRows(repo_id, source, users, times)


def stars_table(
    repo_id: int, users: Sequence[tuple[int, str]], times: Sequence[str | None], source: str
) -> pl.DataFrame:
    """Rows of schema `STARGAZERS` from users (id, login) and GitHub's times."""
    return pl.DataFrame(
        {
            "repo_id": pl.Series([repo_id] * len(users), dtype=pl.Int64),
            "user_id": pl.Series([user_id for user_id, _ in users], dtype=pl.Int64),
            "login": pl.Series([login for _, login in users], dtype=pl.String),
            "starred_at": parse_times(times),
            "source": pl.Series([source] * len(users), dtype=pl.String),
        },
        schema=STARGAZERS.dtypes,
    )
