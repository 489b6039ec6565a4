"""Reading the star history of a repository: back to what is stored and unchanged, and further back a few pages a run.

The next page follows from the number of weeks, not from the ``Link`` header, which responses with status 304 lack.

Source: GitHub's changelog of 2026-09-04, ``GET /repos/{owner}/{repo}/stargazers/history``.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.star_history import (
    HISTORY_VERSION,
    WEEKS_A_PAGE,
    Weeks,
    agrees,
    gap_is_plausible,
    joined,
    parse_weeks,
    stars_of,
    sum_is_plausible,
    weeks_before,
)
from gh_assets.collector.star_sources.base import RepositoryRef
from gh_assets.errors import BudgetSpentError, GitHubError, RateLimitedError, ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.github.responses import GitHubResponse
from gh_assets.github.times import star_day

NO_HISTORIES = "This GitHub has no star histories: only github.com has them, GitHub Enterprise does not."

MISSING_HISTORIES = 3
"""Repositories without a history, while none has one, after which no other is requested: the server has none."""


@dataclass(frozen=True)
class KnownHistory:
    """What an earlier run stored of a history.

    Attributes
    ----------
    weeks : mapping
    etag, complete, gap
        As in `gh_assets.collector.history_state.HistoryState`.
    read_now : bool
        Whether all weeks were read in this run, so that pages of several runs are not mixed.
    """

    weeks: Weeks
    etag: str | None = None
    complete: bool = False
    gap: int | None = None
    read_now: bool = False


@dataclass(frozen=True)
class HistoryReading:
    """The result of reading one history.

    Attributes
    ----------
    repository : RepositoryRef
    outcome : Outcome
    reason : str or None
        Why the outcome is not ok, or the history is not proven.
    weeks : mapping or None
        All that is known; None unless the outcome is ok.
    etag, complete, proven, gap
        As in `gh_assets.collector.history_state.HistoryState`.
    today : date or None
        The present day in Los Angeles when the first page was requested.
    requests, not_modified : int
    interrupted : Exception or None
        Why no more requests are possible, if older pages were read until then.
    """

    repository: RepositoryRef
    outcome: Outcome
    reason: str | None = None
    weeks: Weeks | None = None
    etag: str | None = None
    complete: bool = False
    proven: bool = False
    gap: int | None = None
    today: dt.date | None = None
    requests: int = 0
    not_modified: int = 0
    interrupted: Exception | None = None


class HistoryReader:
    """Reads histories; many threads may share it.

    Parameters
    ----------
    client : GitHubClient
    max_pages : int
        Maximum number of pages of 30 weeks, older than what is stored, that are read of one repository. The pages that
        may have changed are read in any case.
    """

    def __init__(self, client: GitHubClient, max_pages: int) -> None:
        self.client = client
        self.max_pages = max_pages
        self._found = False
        self._missing = 0

    @property
    def has_no_histories(self) -> bool:
        """Whether this GitHub seems to have no histories at all, so that no more need be requested."""
        return not self._found and self._missing >= MISSING_HISTORIES

    def count(self, *, found: bool) -> None:
        """Count a repository that exists: whether its history was found."""
        self._found = self._found or found
        self._missing += not found

    def read(self, repository: RepositoryRef, known: KnownHistory | None = None) -> HistoryReading:
        """Read the history of a repository.

        Raises
        ------
        AuthenticationError, RateLimitedError, BudgetSpentError, CancelledError, OutageError
            If no more requests are possible.
        """
        if known is not None and known.weeks:
            self.count(found=True)  # this GitHub has had histories
        reading = _Reading(self, repository, known or KnownHistory({}))
        try:
            return reading.result()
        except (ServiceUnavailableError, GitHubError) as error:
            return reading.failure(Outcome.UNKNOWN, str(error))

    def read_older(
        self, repository: RepositoryRef, known: KnownHistory, today: dt.date, may_read: Callable[[], bool]
    ) -> HistoryReading:
        """Continue before the oldest week that is known, without a look at the newest ones.

        Parameters
        ----------
        repository : RepositoryRef
        known : KnownHistory
        today : date
            Of the reading of the newest page.
        may_read : callable
            Asked before each page.

        Raises
        ------
        AuthenticationError, RateLimitedError, BudgetSpentError, CancelledError, OutageError
            If no more requests are possible, and no page was read.
        """
        reading = _Reading(self, repository, known)
        try:
            return reading.older(today, may_read)
        except (ServiceUnavailableError, GitHubError) as error:
            return reading.failure(Outcome.UNKNOWN, str(error))


class _Reading:
    """Reads one history."""

    def __init__(self, reader: HistoryReader, repository: RepositoryRef, known: KnownHistory) -> None:
        self.reader = reader
        self.client = reader.client
        self.repository = repository
        self.known = known
        # By id, so that a rename changes nothing, and a name that another repository has taken does not mislead.
        self.path = f"/repositories/{repository.repo_id}/stargazers/history"
        self.weeks: Weeks = known.weeks
        self.complete = known.complete
        self.older_pages = 0
        self.is_whole = False  # whether all pages were read now
        self.requests = 0

    def failure(self, outcome: Outcome, reason: str) -> HistoryReading:
        return HistoryReading(self.repository, outcome, reason, requests=self.requests)

    def result(self) -> HistoryReading:
        """Read the newest pages, older ones, and all of them if the sum of the days is implausible."""
        if self.reader.has_no_histories:
            return self.failure(Outcome.UNAVAILABLE, NO_HISTORIES)
        today = star_day(self.client.pool.clock.now())
        first = self._first_page()
        if first is None:
            return self.failure(Outcome.UNAVAILABLE, NO_HISTORIES)
        if first.status == 200:
            self._read_changes(first)
        elif first.status != 304:
            return self.failure(*classify_refusal(first))
        self._read_older()
        gap, proven, reason = self._confirm()
        return HistoryReading(
            self.repository,
            Outcome.OK,
            reason,
            self.weeks,
            etag=self.known.etag if first.status == 304 else first.etag,
            complete=self.complete,
            proven=proven,
            gap=gap,
            today=today,
            requests=self.requests,
            not_modified=int(first.status == 304),
        )

    def older(self, today: dt.date, may_read: Callable[[], bool]) -> HistoryReading:
        """Read pages that are older than what is known; those that were read before the requests end are kept."""
        gap, proven, reason, interrupted = self.known.gap, False, None, None
        try:
            while not self.complete and self.older_pages < self.reader.max_pages and may_read():
                self._read_older_page()
            gap, proven, reason = self._confirm()
        except (BudgetSpentError, RateLimitedError) as error:
            if not self.older_pages:
                raise
            interrupted = error
        return HistoryReading(
            self.repository,
            Outcome.OK,
            reason,
            self.weeks,
            etag=self.known.etag,
            complete=self.complete,
            proven=proven,
            gap=gap,
            today=today,
            requests=self.requests,
            interrupted=interrupted,
        )

    # -- pages ---------------------------------------------------------------------------------------------------

    def _get(self, number: int, etag: str | None = None) -> GitHubResponse:
        self.requests += 1
        parameters: dict[str, str | int] = {"per_page": WEEKS_A_PAGE, "page": number}
        return self.client.get(self.path, parameters=parameters, etag=etag, redirects=1, version=HISTORY_VERSION)

    def _page(self, number: int) -> tuple[Weeks, GitHubResponse]:
        response = self._get(number)
        if response.status != 200:
            outcome, reason = classify_refusal(response)
            raise GitHubError(f"Page {number} of the star history could not be read: {outcome.value}, {reason}.")
        return parse_weeks(response.payload), response

    def _first_page(self) -> GitHubResponse | None:
        """Return the first page or a refusal; None if this GitHub has no histories."""
        response = self._get(1, self.known.etag)
        if response.status == 404:
            metadata = self._metadata()
            if metadata.status != 200:
                return metadata
            # The repository exists: it may have been a fault, or this path exists by name alone, as it is documented.
            self.path = f"/repos/{metadata.document.get('full_name')}/stargazers/history"
            response = self._get(1, self.known.etag)
            if response.status == 404:
                self.reader.count(found=False)
                return None
        self.reader.count(found=True)
        return response

    def _read_changes(self, response: GitHubResponse) -> None:
        """Read pages from the newest to the first that agrees with what is stored."""
        known = self.known.weeks
        oldest_known = min(known, default=dt.date.max)
        page: Weeks = parse_weeks(response.payload)
        if not page:
            raise GitHubError("GitHub's star history has no week, though it always has the present one.")
        fresh: Weeks = page
        number = 1
        while True:
            self.older_pages += min(fresh) < oldest_known
            if not response.has_next_page or not page:
                self.weeks, self.complete, self.is_whole = fresh, True, True
                return
            if agrees(page, known):
                self.weeks = {**fresh, **weeks_before(known, min(fresh))}
                self.complete = self.known.complete
                return
            if min(fresh) <= oldest_known and self.older_pages >= self.reader.max_pages:
                self.weeks, self.complete = fresh, False
                return
            number += 1
            page, response = self._page(number)
            fresh = joined(fresh, page)

    def _read_older(self) -> None:
        """Continue before the oldest week that is stored."""
        while not self.complete and self.older_pages < self.reader.max_pages:
            self._read_older_page()

    def _read_older_page(self) -> None:
        page, response = self._page(len(self.weeks) // WEEKS_A_PAGE + 1)
        self.older_pages += 1
        self.weeks = joined(self.weeks, page)
        self.complete = not response.has_next_page or not page
        self.is_whole = self.complete and self.known.read_now

    def _read_all(self) -> None:
        self.weeks, number = {}, 0
        self.complete, self.is_whole = False, True
        while not self.complete:
            number += 1
            page, response = self._page(number)
            self.weeks = joined(self.weeks, page)
            self.complete = not response.has_next_page or not page

    # -- plausibility --------------------------------------------------------------------------------------------

    def _confirm(self) -> tuple[int | None, bool, str | None]:
        """Compare the sum of the days with GitHub's count; read all pages again if it is implausible.

        Returns
        -------
        gap : int or None
            For the next run: as long as it moves little, only pages that changed are read.
        proven : bool
        reason : str or None
            Why a complete history is not proven.
        """
        count, gap = self.repository.stargazer_count, self.known.gap
        if not self.complete or count is None:
            return gap, False, None
        if not gap_is_plausible(count - stars_of(self.weeks), gap, count):
            count = self._count_now(count)
            if not gap_is_plausible(count - stars_of(self.weeks), gap, count):
                # A star that was taken back lowers a day that was not read again.
                if not self.is_whole:
                    self._read_all()
                    count = self._count_now(count)
                gap = None
        total = stars_of(self.weeks)
        if gap is None and self.is_whole:  # pages of several runs may lack what changed between them
            gap = count - total
        if sum_is_plausible(total, count):
            return gap, True, None
        return gap, False, f"its days add up to {total:,} stars, but GitHub counts {count:,}"

    def _metadata(self) -> GitHubResponse:
        self.requests += 1
        return self.client.get(f"/repositories/{self.repository.repo_id}")

    def _count_now(self, otherwise: int) -> int:
        response = self._metadata()
        count = response.document.get("stargazers_count")
        return count if response.status == 200 and isinstance(count, int) else otherwise
