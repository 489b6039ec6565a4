"""Where stars come from. A `StarSource` collects repositories, in any order; which one is used is a setting.

Here: the REST list of stargazers (GitHub: GET /repositories/{id}/stargazers), and a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from gh_assets.collector.client import STAR_JSON, GitHubClient
from gh_assets.collector.concurrency import map_bounded
from gh_assets.collector.outcomes import Outcome
from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.stars_file import read_stars_file
from gh_assets.errors import GitHubError, ServiceUnavailableError
from gh_assets.schemas import STARGAZERS

PER_PAGE = 100


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
    """A page that was read: its ETag, how many rows of the table came from it, and whether it was full.

    A full page may have fewer rows than entries: stars of deleted accounts have no user.
    """

    etag: str | None
    rows: int
    full: bool


@dataclass(frozen=True)
class PreviousStars:
    """What an earlier run collected: rows in the order of the pages that they came from."""

    table: pl.DataFrame
    pages: Sequence[Page]
    complete: bool = False
    max_pages: int = 0


class Checkpoint(Protocol):
    """Keeps the pages of one repository that is being collected, so that a killed run goes on where it was."""

    def pages(self) -> list[tuple[Page, pl.DataFrame]]:
        """What an earlier run had read, from the first page on."""

    def add(self, number: int, page: Page, rows: pl.DataFrame) -> None:
        """Remember page `number` (from 1)."""


class NoCheckpoint:
    """Remembers nothing."""

    def pages(self) -> list[tuple[Page, pl.DataFrame]]:
        return []

    def add(self, number: int, page: Page, rows: pl.DataFrame) -> None:
        pass


@dataclass(frozen=True)
class Work:
    """A repository to collect.

    Attributes
    ----------
    repository : RepositoryRef
    load_previous : callable
        Gives what an earlier run collected from the same source, if that is still whole.
    checkpoint : Checkpoint
    """

    repository: RepositoryRef
    load_previous: Callable[[], PreviousStars | None] = lambda: None
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)


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


class StarSource(Protocol):
    """A way to learn who starred repositories."""

    name: str

    def collect(self, works: Iterable[Work], workers: int) -> Iterator[StarCollection]:
        """Collect repositories, taking them from `works` as it goes on, and yield each when it is done, in any order.

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
    """

    name = "stargazers"

    def __init__(self, client: GitHubClient, max_pages: int) -> None:
        self.client = client
        self.max_pages = max_pages

    def collect(self, works: Iterable[Work], workers: int) -> Iterator[StarCollection]:
        """Several repositories at once, the pages of each one after another."""
        return map_bounded(self._collect, works, workers)

    def _collect(self, work: Work) -> StarCollection:
        """Page through the list; pages that did not change answer 304 and are taken from what is there."""
        repository, previous = work.repository, work.load_previous()
        # By id: a rename between two pages changes nothing.
        path = f"/repositories/{repository.repo_id}/stargazers"
        known = list(previous.pages) if previous is not None else []
        resumed = work.checkpoint.pages()[: self.max_pages]
        pages = [page for page, _ in resumed]
        tables = [rows for _, rows in resumed]
        offset = sum(page.rows for page in known[: len(pages)])
        requests = not_modified = 0
        complete = False
        for number in range(len(pages) + 1, self.max_pages + 1):
            before = known[number - 1] if number <= len(known) else None
            # A full last page may have got a successor without changing itself: it has to be asked outright.
            etag = before.etag if before is not None and (number < len(known) or not before.full) else None
            try:
                answer = self.client.get(
                    path,
                    parameters={"per_page": PER_PAGE, "page": number},
                    accept=STAR_JSON,
                    etag=etag,
                )
            except (ServiceUnavailableError, GitHubError) as error:
                return StarCollection(repository, Outcome.UNKNOWN, str(error), requests=requests + 1)
            requests += 1
            if answer.status == 304 and before is not None and previous is not None:
                not_modified += 1
                page, rows = before, previous.table.slice(offset, before.rows)
                offset += before.rows
                complete = number == len(known)
            elif answer.status == 200 and isinstance(answer.payload, list):
                rows = _rows(answer.payload, repository.repo_id, self.name)
                page = Page(answer.etag, rows.height, len(answer.payload) == PER_PAGE)
                offset += before.rows if before is not None else 0
                # An empty page is the end, whatever its Link header says.
                complete = not answer.has_next_page or not answer.payload
                if complete and page.full and (repository.stargazer_count or 0) > number * PER_PAGE:
                    complete = False  # GitHub counts more: the header is wrong
            else:
                return self._refused(repository, answer.status, classify_refusal(answer), requests)
            if rows.height or page.full or number == 1:
                pages.append(page)
                tables.append(rows)
            if complete:
                break
            work.checkpoint.add(number, page, rows)
        table = pl.concat(tables).unique("user_id", keep="first", maintain_order=True)
        if table.height < sum(page.rows for page in pages):
            # Stars that shifted while we paged came twice: without its rows in place no page can be reused.
            pages = []
        if table.is_empty() and (repository.stargazer_count or 0) > 0:
            reason = f"the list is empty, though GitHub counts {repository.stargazer_count} stars"
            return StarCollection(repository, Outcome.RESTRICTED, reason, requests=requests)
        unchanged = previous is not None and table.equals(previous.table)
        return StarCollection(repository, Outcome.OK, None, table, pages, complete, requests, not_modified, unchanged)

    def _refused(
        self, repository: RepositoryRef, status: int, verdict: tuple[Outcome, str], requests: int
    ) -> StarCollection:
        outcome, reason = verdict
        if outcome is Outcome.GONE:
            # A closed list may look like a missing repository: its metadata tell them apart.
            try:
                answer = self.client.get(f"/repositories/{repository.repo_id}")
            except (ServiceUnavailableError, GitHubError) as error:
                return StarCollection(repository, Outcome.UNKNOWN, str(error), requests=requests + 1)
            requests += 1
            if answer.status == 200:
                outcome = Outcome.RESTRICTED
        elif status == 422:
            outcome = Outcome.UNKNOWN
        return StarCollection(repository, outcome, reason, requests=requests)


class StarsFile:
    """A file of stars; see `gh_assets.collector.stars_file.read_stars_file`. Names are matched without case."""

    name = "file"

    def __init__(self, path: Path) -> None:
        self.path = path
        table = read_stars_file(path)
        self.user_count = table["user_id"].n_unique()
        self._by_name: Mapping[str, pl.DataFrame] = {
            str(key[0]): group
            for key, group in table.with_columns(pl.col("repo").str.to_lowercase().alias("key"))
            .partition_by("key", as_dict=True, include_key=False)
            .items()
        }

    def collect(self, works: Iterable[Work], workers: int) -> Iterator[StarCollection]:
        """Take each repository's rows; what was collected before is of no use, since reading the file costs nothing."""
        return (self._collect(work.repository) for work in works)

    def _collect(self, repository: RepositoryRef) -> StarCollection:
        rows = self._by_name.get(repository.full_name.lower())
        if rows is None:
            return StarCollection(
                repository, Outcome.UNKNOWN, f"{self.path.name} has no stars of {repository.full_name}"
            )
        table = rows.select(
            pl.lit(repository.repo_id, pl.Int64).alias("repo_id"),
            "user_id",
            "login",
            "starred_at",
            pl.lit(self.name).alias("source"),
        ).unique("user_id", keep="first", maintain_order=True)
        return StarCollection(repository, Outcome.OK, None, table, complete=True)


def _rows(entries: Sequence[Any], repo_id: int, source: str) -> pl.DataFrame:
    """Rows of a page. A star whose user is null (a deleted account) belongs to nobody and is left out."""
    users, times = [], []
    for entry in entries:
        # Servers that ignore the media type answer with bare users, without the time.
        starred = isinstance(entry, dict) and "user" in entry
        user = entry["user"] if starred else entry
        if isinstance(user, dict) and isinstance(user.get("id"), int) and isinstance(user.get("login"), str):
            users.append(user)
            times.append(entry.get("starred_at") if starred else None)
    return stars_table(repo_id, [(user["id"], user["login"]) for user in users], times, source)


def stars_table(
    repo_id: int, users: Sequence[tuple[int, str]], times: Sequence[str | None], source: str
) -> pl.DataFrame:
    """Rows of schema `STARGAZERS` from users (id, login) and GitHub's times."""
    return pl.DataFrame(
        {
            "repo_id": pl.Series([repo_id] * len(users), dtype=pl.Int64),
            "user_id": pl.Series([user_id for user_id, _ in users], dtype=pl.Int64),
            "login": pl.Series([login for _, login in users], dtype=pl.String),
            "starred_at": _times(times),
            "source": pl.Series([source] * len(users), dtype=pl.String),
        },
        schema=STARGAZERS.dtypes,
    )


def _times(texts: Sequence[str | None]) -> pl.Series:
    times = pl.Series(texts, dtype=pl.String)
    return times.str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC", strict=False)
