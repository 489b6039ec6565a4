"""The state of one server: everything that its request handlers share, and how it is built, started and stopped."""

from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request

from gh_assets.github.client import GitHubClient
from gh_assets.services.connections import connect_github
from gh_assets.services.world import github_site, has_only_archive
from gh_assets.serving.live_lookups import INTERACTIVE_RETRY, LiveLookups
from gh_assets.serving.refresher import SnapshotRefresher
from gh_assets.serving.snapshot import ServingSnapshot
from gh_assets.settings import Settings
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
    site : str or None
        Web site of the repositories, see `github_site`.
    """

    settings: Settings
    metrics: Metrics
    refresher: SnapshotRefresher
    batcher: Batcher
    live: LiveLookups | None
    feedback: Feedback
    visitors: Visitors
    site: str | None

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
            missing = self.refresher.monitor.unavailable()
            reason = f"{' and '.join(missing)} cannot be reached." if missing else "There is no model yet."
            raise RequestProblemError(503, "not_ready", f"The server is not ready. {reason} Try again in a minute.")
        return snapshot

    def url(self, full_name: str) -> str | None:
        """Return the page of a repository on GitHub; None if it is synthetic."""
        return None if self.site is None else f"{self.site}/{quote(full_name)}"

    def notices(self) -> list[str]:
        """Messages about services that cannot be reached, without their addresses."""
        missing = self.refresher.monitor.unavailable()
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
        keep = settings.live_keep.total_seconds()
        live = LiveLookups(connect, requests_an_hour=settings.live_requests, pages=settings.live_pages, keep=keep)
    refresher = SnapshotRefresher(settings, metrics, live)
    folder = settings.home_path / "web"
    feedback = Feedback(folder / "feedback", refresher.database, metrics.unshipped.set)
    return AppState(
        settings, metrics, refresher, Batcher(metrics), live, feedback, Visitors(folder), github_site(settings)
    )


def app_state(request: Request) -> AppState:
    """Return the state of the server that received a request."""
    state: AppState = request.app.state.state
    return state
