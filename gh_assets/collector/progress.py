"""Progress of a collection: what is done, what is left of the quota, and when it will end."""

import time

from gh_assets.collector.forecast import Forecast, clock_time, duration, forecast, seconds_for
from gh_assets.collector.pipeline import CollectionReport
from gh_assets.collector.star_sources.starred import StarredReport
from gh_assets.github.client import GitHubClient
from gh_assets.github.limits import UNLIMITED
from gh_assets.github.rate_limits import Resource
from gh_assets.local.progress import Progress

PAGES_A_USER = 3
"""Pages that a user's list is expected to have before it is read."""

MIN_SHARE, MIN_SECONDS = 0.01, 2.0
"""Share and time of a collection before which no remaining time is estimated."""

STEP = "stargazers"


class CollectionProgress:
    """Reports the progress of a collection.

    Parameters
    ----------
    client : GitHubClient or None
        None if no requests are sent.
    resource : Resource or None
        The quota that the source spends.
    progress : Progress

    Attributes
    ----------
    forecast : Forecast
    users : StarredReport or None
        The last report about users' lists.
    """

    def __init__(self, client: GitHubClient | None, resource: Resource | None, progress: Progress) -> None:
        self._client = client
        self._resource = resource if client is not None else None
        self._progress = progress
        self.users: StarredReport | None = None
        self.forecast = Forecast()
        self._pages = 0
        self._users_first = False
        self._started = time.monotonic()

    def begin(self, report: CollectionReport, pages: int) -> None:
        """Announce the forecast for `pages`."""
        self._pages = pages
        self._begin(pages, f"{report.pending:,} of {report.total:,} repositories may have news", report.pending)

    def _begin(self, pages: int, text: str, pending: int) -> None:
        self._started = time.monotonic()
        resource = self._resource if pages else None
        if resource is not None and self._client is not None:
            self._client.refresh_budgets()
        self.forecast = forecast(self._client.pool if self._client else None, resource, pages)
        if pending:
            details = f": {pages:,} pages; {self.forecast.summary()}" if resource is not None else ""
            self._progress.notify(text + details)

    def on_repositories(self, report: CollectionReport) -> None:
        """Report a repository."""
        if self._users_first:  # users' lists take another time
            self._users_first, self._started = False, time.monotonic()
        share = min(1.0, report.pages / self._pages) if self._pages else report.asked / max(1, report.pending)
        text = f"{report.stars:,} stars, {report.pages:,} pages{self._quota(share)}"
        self._progress.report(STEP, len(report.states), report.total, text)

    def on_users(self, report: StarredReport) -> None:
        """Report a user."""
        self.users = report
        if report.collected == 0:
            self._users_first = True
            text = f"{report.total:,} users' lists of starred repositories to be read"
            self._begin(report.total * PAGES_A_USER, text, report.total)
        share = report.collected / max(1, report.total)
        text = f"{report.collected:,} of {report.total:,} users asked, {report.stars:,} stars{self._quota(share)}"
        self._progress.report(STEP, report.collected, report.total, text)

    def _quota(self, share: float) -> str:
        """Describe the requests so far, the quota, and the remaining time; `share` of the work is done."""
        if self._client is None or self._resource is None:
            return ""
        pool = self._client.pool
        parts = [f", {self._client.usage.requests:,} requests"]
        left, reset = pool.remaining(self._resource), pool.next_reset(self._resource)
        if left is not None and (pool.limit(self._resource) or 0) < UNLIMITED:
            parts.append(f", {left:,} points left")
            parts += [] if reset is None else [f" until {clock_time(reset)}"]
        elapsed = time.monotonic() - self._started
        if MIN_SHARE < share < 1 and elapsed > MIN_SECONDS:
            cost = round(self.forecast.cost * (1 - share))
            remaining = max(elapsed * (1 - share) / share, seconds_for(pool, self._resource, cost))
            parts.append(f", {duration(remaining)} to go")
        return "".join(parts)
