"""The REST list of stargazers, oldest first, 100 a page.

Source: docs.github.com/rest/activity/starring (``GET /repositories/{id}/stargazers``).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.star_sources.base import (
    Checkpoint,
    CollectionTask,
    Page,
    PreviousStars,
    StarCollection,
    StarRows,
    StarSource,
)
from gh_assets.collector.star_sources.merging import ListReading, collection_from_list, stars_missing_from
from gh_assets.collector.star_sources.rest_pages import RestPages, subject_and_time
from gh_assets.errors import GitHubError, ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.github.limits import PAGE_SIZE
from gh_assets.github.list_reading import are_null_entries_plausible, coverage_fields, number_of
from gh_assets.github.outcomes import Outcome
from gh_assets.github.responses import GitHubResponse
from gh_assets.local.concurrency import map_bounded

REST_PAGES = 400
"""GitHub's REST list of stargazers ends after this page, at 40,000 stars. GraphQL's list has no such limit."""


class RestStargazers:
    """Source of stars that reads repositories' own lists by REST.

    Parameters
    ----------
    client : GitHubClient
    max_pages : int
        Maximum number of pages per repository.
    beyond : callable, optional
        Given a number of pages, returns a source that reads as many of the newest stars. It continues repositories with
        more than `REST_PAGES` pages.
    """

    name = "stargazers"

    def __init__(self, client: GitHubClient, max_pages: int, beyond: Callable[[int], StarSource] | None = None) -> None:
        self.client = client
        self.max_pages = max_pages
        self.beyond = beyond

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Collect several repositories concurrently, the pages of each one after another."""
        return map_bounded(lambda task: _ListReader(self, task).collect(), tasks, workers)


class _ListReader:
    """Reads the list of one repository. Pages that did not change respond with 304 and are taken from the last run."""

    def __init__(self, source: RestStargazers, task: CollectionTask) -> None:
        self.source = source
        self.task = task
        self.repository = task.repository
        # By id, so that a rename between two pages changes nothing.
        self.list = RestPages(source.client, f"/repositories/{task.repository.repo_id}/stargazers")
        self.before = task.load_previous()
        is_usable = self.before is not None and self.before.source == source.name
        self.previous = self.before if is_usable else None
        self.known_pages = list(self.previous.pages) if self.previous is not None else []
        self.limit = min(source.max_pages, REST_PAGES)
        resumed = task.checkpoint.pages(source.name)[: self.limit]
        self.is_resumed = bool(resumed)
        self.pages = [page for page, _ in resumed]
        self.rows = [StarRows.of_table(rows) for _, rows in resumed]
        self.contents: dict[int, bytes] = {}  # of pages without an ETag
        self.has_ended = False
        self.requests = self.not_modified = 0

    def collect(self) -> StarCollection:
        """Read the pages, check that they belong together, and combine them with the known stars."""
        for number in range(len(self.pages) + 1, self.limit + 1):
            failure = self._read_page(number)
            if failure is not None:
                return failure
            if self.has_ended:
                break
        return self._result()

    # -- pages ---------------------------------------------------------------------------------------------------

    def _read_page(self, number: int) -> StarCollection | None:
        """Read a page; return the repository's result if that is impossible."""
        known = self.known_pages[number - 1] if number <= len(self.known_pages) else None
        etag = known.etag if known is not None and self._is_reusable(number, known) else None
        self.requests += 1
        try:
            response = self.list.get(number, etag)
            if response.status == 404 and self._metadata().status == 200:
                self.requests += 2  # the repository exists: the response may have been a transient fault
                response = self.list.get(number, etag)
        except (ServiceUnavailableError, GitHubError) as error:
            return self._failure(Outcome.UNKNOWN, str(error))
        if response.status == 304 and known is not None and self.previous is not None:
            self.not_modified += 1
            self.has_ended = number == len(self.known_pages) and number < REST_PAGES
            offset = sum(page.rows for page in self.known_pages[: number - 1])
            self._add_page(number, known, StarRows.of_table(self.previous.table.slice(offset, known.rows)))
            return None
        if response.status != 200 or not isinstance(response.payload, list):
            return self._refusal(response)
        try:
            rows = _parse_stars(response.payload, self.repository.repo_id)
        except ValueError as error:
            return self._failure(Outcome.UNKNOWN, str(error))
        size = len(response.payload)
        page = Page(response.etag, rows.height, size == PAGE_SIZE, size)
        if response.etag is None:
            self.contents[number] = response.content
        # An empty page is the end, whatever its Link header says.
        self.has_ended = not response.has_next_page or not response.payload
        if page.full and (self.repository.stargazer_count or 0) > number * PAGE_SIZE:
            self.has_ended = False  # GitHub counts more stars, so the Link header is wrong
        self._add_page(number, page, rows)
        return None

    def _is_reusable(self, number: int, known: Page) -> bool:
        """Return whether a known page may respond with 304.

        A full last page does not change when another page follows it, so it is requested without its ETag.
        """
        is_last = number == len(self.known_pages) and number < REST_PAGES
        # Pages stored by an earlier version have no count of their entries.
        return known.entries is not None and not (is_last and known.full)

    def _add_page(self, number: int, page: Page, rows: StarRows) -> None:
        if rows.height or page.full or number == 1:
            self.pages.append(page)
            self.rows.append(rows)
        if not self.has_ended:
            self.task.checkpoint.add(self.source.name, number, page, rows)

    # -- result --------------------------------------------------------------------------------------------------

    def _result(self) -> StarCollection:
        repository = self.repository
        table = StarRows.concat(self.rows).unique("user_id", keep="first", maintain_order=True)
        rows_read = sum(page.rows for page in self.pages)
        null_entries = sum(page.count for page in self.pages) - rows_read
        count = table.height + null_entries
        if not count and (repository.stargazer_count or 0) > 0:
            reason = f"the list is empty, though GitHub counts {repository.stargazer_count} stars"
            return self._failure(Outcome.RESTRICTED, reason)
        known_nulls = self.before.null_entries if self.before is not None else 0
        proven = are_null_entries_plausible(null_entries, count, known_nulls)
        reading = ListReading(
            complete=self.has_ended,
            proven=proven,
            entries=count,
            null_entries=null_entries,
            total=repository.stargazer_count,
        )
        # If stars moved between pages and were read twice, no page has all of its rows in the table.
        pages = self.pages if table.height == rows_read else ()
        beyond, more_pages = self.source.beyond, self.source.max_pages - REST_PAGES
        if not self.has_ended and beyond is not None and more_pages > 0 and len(self.pages) >= REST_PAGES:
            newest = self._read_newest(table, reading, beyond(more_pages))
            self.requests += newest.requests
            if newest.table is None:
                return replace(newest, requests=self.requests)
            table = newest.table
            known = coverage_fields(newest) | {"proven": proven and newest.proven}
            reading = ListReading(total=reading.total, to_the_end=False, **known)
        elif not self.has_ended:
            reading = replace(reading, proven=proven and table.height == rows_read)
        elif proven:
            reading = self._confirm(table, reading)
        return collection_from_list(
            repository, table, self.before, reading, pages=pages, requests=self.requests, not_modified=self.not_modified
        )

    def _confirm(self, table: pl.DataFrame, reading: ListReading) -> ListReading:
        """Check that the list did not change while it was read, and that GitHub's count agrees with it."""
        count, total = reading.entries, reading.total
        is_new = self.is_resumed or self.before is None or count != total
        # A star that is taken back between two pages moves the first star of each later page out of sight.
        if (is_new or stars_missing_from(table, self.before) is not None) and self._has_changed():
            return replace(reading, proven=False, problem="the list changed while it was read")
        if count == total:
            return reading
        # The list may have changed since the metadata were read: it is whole if it lies between the two counts.
        self.requests += 1
        now = self._count_now()
        counts = [number for number in (total, now) if number is not None]
        proven = now is not None and min(counts) <= count <= max(counts)
        return replace(reading, proven=proven, total=total if now is None else now)

    def _has_changed(self) -> bool:
        """Return whether a page before the last has changed since it was read."""
        try:
            return any(
                self.list.has_changed(number, page.etag, self.contents.get(number))
                for number, page in enumerate(self.pages[:-1], start=1)
            )
        except (ServiceUnavailableError, GitHubError):
            return True

    def _read_newest(self, oldest: pl.DataFrame, reading: ListReading, source: StarSource) -> StarCollection:
        """Read the stars after the last page of REST, from the newest to the first that is known."""
        known, count, null_entries = oldest, reading.entries, reading.null_entries
        if self.previous is not None and self.previous.complete:
            later = self.previous.table.slice(sum(page.rows for page in self.previous.pages))
            known = pl.concat([oldest, later.join(oldest, on="user_id", how="anti")])
            count, null_entries = count + known.height - oldest.height, self.previous.null_entries
        previous = PreviousStars(
            known, [], complete=True, source=self.source.name, proven=True, entries=count, null_entries=null_entries
        )
        later_pages = _LaterPages(self.task.checkpoint, self.source.name)
        task = CollectionTask(self.repository, lambda: previous, later_pages)
        (collected,) = source.collect([task], 1)
        if collected.table is None:
            return collected
        return replace(collected, table=collected.table.with_columns(pl.lit(self.source.name).alias("source")))

    # -- failures ------------------------------------------------------------------------------------------------

    def _failure(self, outcome: Outcome, reason: str) -> StarCollection:
        return StarCollection(self.repository, outcome, reason, requests=self.requests)

    def _refusal(self, response: GitHubResponse) -> StarCollection:
        outcome, reason = classify_refusal(response)
        if outcome is Outcome.GONE:
            # A closed list may look like a missing repository: the metadata distinguish them.
            self.requests += 1
            try:
                if self._metadata().status == 200:
                    outcome = Outcome.RESTRICTED
            except (ServiceUnavailableError, GitHubError) as error:
                return self._failure(Outcome.UNKNOWN, str(error))
        elif response.status == 422:
            outcome = Outcome.UNKNOWN
        return self._failure(outcome, reason)

    def _metadata(self) -> GitHubResponse:
        return self.source.client.get(f"/repositories/{self.repository.repo_id}")

    def _count_now(self) -> int | None:
        """Return GitHub's current count of the stars; None if it is unavailable."""
        try:
            response = self._metadata()
        except (ServiceUnavailableError, GitHubError):
            return None
        count = response.document.get("stargazers_count")
        return count if response.status == 200 and isinstance(count, int) else None


@dataclass
class _LaterPages(Checkpoint):
    """The pages of a REST checkpoint after the last page of REST, which another source reads."""

    checkpoint: Checkpoint
    source: str

    def pages(self, source: str) -> list[tuple[Page, pl.DataFrame]]:
        return self.checkpoint.pages(self.source)[REST_PAGES:]

    def add(self, source: str, number: int, page: Page, rows: StarRows) -> None:
        self.checkpoint.add(self.source, REST_PAGES + number, page, rows)


def _parse_stars(entries: Sequence[Any], repo_id: int) -> StarRows:
    """Return the rows of a page. Stars without a user, whose accounts are deleted, are left out.

    Raises
    ------
    ValueError
        If an entry is not a star.
    """
    users: list[tuple[int, str]] = []
    times: list[str | None] = []
    for entry in entries:
        user, starred_at = subject_and_time(entry, "user")
        if user is None:
            continue
        user_id = number_of(user.get("id")) if isinstance(user, dict) else None
        if user_id is None or not isinstance(user.get("login"), str):
            raise ValueError("GitHub's list has an entry that is not a star")
        users.append((user_id, user["login"]))
        times.append(starred_at)
    return StarRows(repo_id, RestStargazers.name, users, times)
