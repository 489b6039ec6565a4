"""What Prometheus may ask of the server."""

from __future__ import annotations

from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gh_assets.registry import RegisteredModel

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.5, 1, 2, 5, 15, 30)


class Metrics:
    """Counters of one server.

    Attributes
    ----------
    registry : CollectorRegistry
        Of this server alone: a test may start several.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "gh_assets_requests", "Requests answered, by route and status", ("route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "gh_assets_request_seconds", "Seconds a request took", ("route",), buckets=SECONDS, registry=registry
        )
        self.answers = Counter(
            "gh_assets_recommendations", "Lists given, by what they rest on", ("kind",), registry=registry
        )
        self.batch = Histogram(
            "gh_assets_batch_size", "Lists scored together", buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )
        self.swaps = Counter("gh_assets_swaps", "Times another model or newer data were taken", registry=registry)
        self.model = Gauge("gh_assets_model", "The model that serves: always 1", ("name", "version"), registry=registry)
        self.loaded = Gauge("gh_assets_loaded_time_seconds", "When it was loaded (since 1970)", registry=registry)
        self.up = Gauge("gh_assets_service_up", "Whether a service answers", ("service",), registry=registry)
        self.lookups = Counter(
            "gh_assets_live_lookups", "People looked up on GitHub, by what was found", ("found",), registry=registry
        )
        self.feedback = Counter("gh_assets_feedback", "Verdicts taken", ("verdict",), registry=registry)
        self.unshipped = Gauge("gh_assets_feedback_waiting", "Verdicts that MongoDB has not yet", registry=registry)
        self.refused = Counter(
            "gh_assets_refused", "Requests refused before they were looked at, by why", ("why",), registry=registry
        )

    def service_answers(self, name: str, answers: bool) -> None:
        """See `RefreshObserver`."""
        self.up.labels(name).set(float(answers))

    def model_changed(self, former: RegisteredModel | None, current: RegisteredModel, loaded_at: datetime) -> None:
        """See `RefreshObserver`."""
        if former is not None:
            self.swaps.inc()
            self.model.remove(former.name, str(former.version))
        self.model.labels(current.name, str(current.version)).set(1)
        self.loaded.set(loaded_at.timestamp())
