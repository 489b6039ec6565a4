"""The interface of all sources of stars: tasks, results, and what each source sees and spends.

`gh_assets.collector.star_sources.merging` combines new stars with known ones.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Protocol

import polars as pl

from gh_assets.collector.feeds import FeedState, Gap
from gh_assets.github.limits import PAGE_SIZE
from gh_assets.github.list_reading import Coverage
from gh_assets.github.outcomes import Outcome
from gh_assets.github.rate_limits import Resource
from gh_assets.github.times import parse_times
from gh_assets.schemas import STARGAZERS


@dataclass(frozen=True)
class SourceKind:
    """What a source of stars can see, and what it spends.

    Attributes
    ----------
    resource : Resource or None
        The quota that it spends; None if it sends GitHub next to no requests.
    reads_own_lists : bool
        Whether it reads repositories' own lists, which hold every star, so that the number of stars can be compared
        with GitHub's count. Other sources see the stars of some users or hours, of which more may be known each time.
    """

    resource: Resource | None
    reads_own_lists: bool


SOURCES: Mapping[str, SourceKind] = {
    "auto": SourceKind(Resource.GRAPHQL, reads_own_lists=False),
    "stargazers": SourceKind(Resource.REST, reads_own_lists=True),
    "graphql": SourceKind(Resource.GRAPHQL, reads_own_lists=True),
    "starred": SourceKind(Resource.GRAPHQL, reads_own_lists=False),
    "events": SourceKind(Resource.REST, reads_own_lists=False),
    "gharchive": SourceKind(None, reads_own_lists=False),
    "file": SourceKind(None, reads_own_lists=False),
}
"""The sources by name: `gh_assets.settings.StarSourceName` has the same names."""

OWN_LIST_SOURCES = frozenset(name for name, kind in SOURCES.items() if kind.reads_own_lists)


@dataclass(frozen=True)
class CollectionOptions:
    """Options of a collection.

    Attributes
    ----------
    source : str
        One of `gh_assets.settings.StarSourceName`.
    max_pages : int
        Maximum number of pages of 100 stars per repository or user. A repository collected with another maximum is
        collected again.
    stars_file : Path or None
        For the source ``file``.
    seed_users : Path or None
        Users whose lists are read first.
    max_users : int
        Maximum number of users whose lists are read, including known ones.
    target_share : float
        No further users are sought once this share of the stars that GitHub counts is known.
    full : bool
        Read every list again, also where GitHub's count of the stars is the same, to its end, which detects stars that
        were taken back.
    listed : collection of int
        Ids of all listed repositories, of which a run may collect but a part: users are judged by their stars on all.
        Empty: those that are collected.
    workers : int
        Number of concurrent requests, and of concurrent repositories.
    force : collection of int
        Ids of repositories to collect even if nothing seems to have changed, or their lists were found closed lately;
        only new entries are read.
    quota_reserve : float
        Share of the REST quota that ``auto`` leaves when it looks at event feeds (0 to 1).
    """

    source: str
    max_pages: int = 10
    stars_file: Path | None = None
    seed_users: Path | None = None
    max_users: int = 5000
    target_share: float = 1.0
    full: bool = False
    workers: int = 8
    force: Collection[int] = frozenset()
    listed: Collection[int] = frozenset()
    quota_reserve: float = 0.0


@dataclass(frozen=True)
class RepositoryRef:
    """A repository to collect, from the table of repositories."""

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
        Its ETag from REST, or its end cursor from GraphQL.
    rows : int
        Rows of the table. There may be fewer rows than entries: stars of deleted accounts have no user.
    full : bool
        Whether it has the maximum number of entries.
    entries : int or None
        Number of entries; None for pages stored by an earlier version.
    failed : int
        Number of entries that GitHub could not return in any attempt.
    """

    etag: str | None
    rows: int
    full: bool
    entries: int | None = None
    failed: int = 0

    @property
    def count(self) -> int:
        """Number of entries, estimated where it is unknown."""
        if self.entries is not None:
            return self.entries
        return PAGE_SIZE if self.full else self.rows


@dataclass(frozen=True)
class PreviousStars(Coverage):
    """Stars that an earlier run collected, in the order of their pages.

    Attributes
    ----------
    table : polars.DataFrame
        Of schema `STARGAZERS`.
    pages : sequence of Page
    max_pages : int
        Maximum number of pages of that run.
    source : str or None
        Name of the source; None if the state of these stars was lost.
    """

    table: pl.DataFrame
    pages: Sequence[Page]
    max_pages: int = 0
    source: str | None = None


@dataclass
class StarRows:
    """Stars of a page, converted to a table only when needed: most pages are first concatenated with others.

    Parameters
    ----------
    repo_id : int
    source : str
    users : sequence of tuple
        Id and login.
    times : sequence of str or None
        Times as GitHub writes them.
    """

    repo_id: int
    source: str
    users: Sequence[tuple[int, str]]
    times: Sequence[str | None]
    _table: pl.DataFrame | None = None

    @classmethod
    def of_table(cls, table: pl.DataFrame) -> StarRows:
        """Wrap a table of schema `STARGAZERS`."""
        return cls(0, "", (), (), table)

    @property
    def is_table(self) -> bool:
        """Whether the rows are converted to a table."""
        return self._table is not None

    @property
    def height(self) -> int:
        return len(self.users) if self._table is None else self._table.height

    def table(self) -> pl.DataFrame:
        """Return a table of schema `STARGAZERS`."""
        if self._table is None:
            self._table = stars_table(self.repo_id, self.users, self.times, self.source)
        return self._table

    @staticmethod
    def concat(parts: Sequence[StarRows]) -> pl.DataFrame:
        """Return one table of several pages of a repository, in order."""
        tables = [STARGAZERS.empty()]
        for is_table, group in groupby(parts, lambda part: part.is_table):
            pages = list(group)
            if is_table:
                tables += [page.table() for page in pages]
            else:
                users = [user for page in pages for user in page.users]
                times = [time for page in pages for time in page.times]
                tables.append(stars_table(pages[0].repo_id, users, times, pages[0].source))
        return pl.concat(tables)


class Checkpoint:
    """Stores the pages of a repository that is being collected, so that a killed run can be resumed; this one: none."""

    def pages(self, source: str) -> list[tuple[Page, pl.DataFrame]]:
        """Return the pages that an earlier run read from the same source, beginning with the first."""
        return []

    def add(self, source: str, number: int, page: Page, rows: StarRows) -> None:
        """Store page `number` (from 1) of a source."""


@dataclass(frozen=True)
class CollectionTask:
    """A repository to collect.

    Attributes
    ----------
    repository : RepositoryRef
    load_previous : callable
        Returns the stars that are stored, from any source. Of those whose state was lost in a crash nothing is known,
        so none of them may be dropped unless a list proves that it was taken back.
    checkpoint : Checkpoint
    full : bool
        Read the whole list again, which detects stars that were taken back.
    """

    repository: RepositoryRef
    load_previous: Callable[[], PreviousStars | None] = lambda: None
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    full: bool = False


@dataclass(frozen=True)
class StarCollection(Coverage):
    """Result of collecting one repository.

    Attributes
    ----------
    repository : RepositoryRef
    outcome : Outcome
    reason : str or None
        Why the outcome is not ok, or the stars are not proven.
    table : polars.DataFrame or None
        Of schema `STARGAZERS`; None unless the outcome is ok.
    pages : sequence of Page
        Pages whose rows are in the table one after another, if the next run can reuse them.
    requests, not_modified : int
        Pages requested, and how many of these responded with status 304.
    unchanged : bool
        Whether the table equals the previous one.
    unstarred : polars.DataFrame or None
        Of schema `STARGAZERS`: previous stars that were taken back.
    closed_at : datetime or None
        When the repository's own list was found closed, if the stars come from elsewhere.
    source : str or None
        Name of the source of the table, if it is not the one that collected it.
    feed : FeedState or None
        What is known of its event feed now, if that was looked at.
    gap : Gap or None
        If events were found to be washed out of the feed.
    """

    repository: RepositoryRef
    outcome: Outcome
    reason: str | None = None
    table: pl.DataFrame | None = None
    pages: Sequence[Page] = ()
    requests: int = 0
    not_modified: int = 0
    unchanged: bool = False
    unstarred: pl.DataFrame | None = None
    closed_at: dt.datetime | None = None
    source: str | None = None
    feed: FeedState | None = None
    gap: Gap | None = None


class StarSource(Protocol):
    """A way to find out who starred repositories.

    Attributes
    ----------
    name : str
        A key of `SOURCES`, and the value of the table's column ``source``.
    """

    name: str

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Collect repositories, taking tasks as needed, and yield each result when it is done, in any order.

        A problem of a single repository is an outcome, not an exception. After an exception (no quota left, cancelled)
        repositories that had begun are still yielded, or kept in their checkpoints.
        """


def stars_table(
    repo_id: int, users: Sequence[tuple[int, str]], times: Sequence[str | None], source: str
) -> pl.DataFrame:
    """Return rows of schema `STARGAZERS` from users (id, login) and times as GitHub writes them."""
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
