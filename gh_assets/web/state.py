"""The state of one server: everything that its request handlers share, and how it is built, started and stopped."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from gh_assets.embedded.servers import read_world
from gh_assets.github.client import GitHubClient
from gh_assets.services.connections import connect_github
from gh_assets.services.world import has_only_archive
from gh_assets.serving.live_lookups import INTERACTIVE_RETRY, LiveLookups
from gh_assets.serving.refresher import SnapshotRefresher
from gh_assets.serving.snapshot import ServingSnapshot
from gh_assets.settings import GITHUB_COM_API, Settings
from gh_assets.web.batching import Batcher
from gh_assets.web.feedback import Feedback
from gh_assets.web.metrics import Metrics
from gh_assets.web.problems import RequestProblemError
from gh_assets.web.visitors import Visitors


@dataclass
class AppState:
    """What the request handlers of one server share.

    Attributes
    ----------
    live : LiveLookups or None
        None if users who were not collected are not looked up.
    home_page : str or None
        See `home_page_of`.
    """

    settings: Settings
    metrics: Metrics
    refresher: SnapshotRefresher
    batcher: Batcher
    live: LiveLookups | None
    feedback: Feedback
    visitors: Visitors
    home_page: str | None

    def start(self) -> None:
        self.refresher.start()
        self.feedback.start()

    def close(self) -> None:
        self.feedback.close()
        if self.live is not None:
            self.live.close()
        self.refresher.close()
        self.batcher.close()

    def snapshot(self) -> ServingSnapshot:
        """Return the current snapshot; a request uses one throughout, so that its response is consistent.

        Raises
        ------
        RequestProblemError
            If no snapshot is loaded.
        """
        snapshot = self.refresher.snapshot
        if snapshot is None:
            missing = self.refresher.missing()
            reason = f"{' and '.join(missing)} cannot be reached." if missing else "There is no model yet."
            raise RequestProblemError(503, "not_ready", f"The server is not ready. {reason} Try again in a minute.")
        return snapshot

    def url(self, full_name: str) -> str | None:
        """Return the page of a repository on GitHub; None if it is synthetic."""
        return None if self.home_page is None else f"{self.home_page}/{quote(full_name)}"

    def notices(self) -> list[str]:
        """Messages about services that cannot be reached, without their addresses."""
        missing = self.refresher.missing()
        if not missing:
            return []
        return [f"{' and '.join(missing)} cannot be reached at the moment: the model and data loaded last are used."]


def build_state(settings: Settings) -> AppState:
    """Build the state of a server without starting it."""
    metrics = Metrics()

    def connect() -> GitHubClient:
        # While MongoDB is reachable, the quota is shared with the processes that collect.
        return connect_github(settings, refresher.database(), policy=INTERACTIVE_RETRY)

    live = None
    if settings.live_requests and not has_only_archive(settings):
        live = LiveLookups(
            connect,
            requests_an_hour=settings.live_requests,
            pages=settings.live_pages,
            keep=settings.live_keep.total_seconds(),
        )
    refresher = SnapshotRefresher(settings, metrics, live)
    folder = settings.home_path / "web"
    feedback = Feedback(folder / "feedback", refresher.database, metrics.unshipped.set)
    return AppState(
        settings, metrics, refresher, Batcher(metrics), live, feedback, Visitors.of_home(folder), home_page_of(settings)
    )


def home_page_of(settings: Settings) -> str | None:
    """Return the web site of the repositories, such as `https://github.com`; None if they are synthetic."""
    if settings.uses_standin:
        world = read_world(settings.home_path)
        return "https://github.com" if world.stars is not None or world.archive else None
    if settings.github_api_url.rstrip("/") == GITHUB_COM_API:
        return "https://github.com"
    # GitHub Enterprise serves its pages beside its API; the pages of any other API are unknown.
    base, api, _ = settings.github_api_url.rstrip("/").partition("/api/v3")
    return base if api else None
