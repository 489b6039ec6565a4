"""The Prometheus metrics of the server."""

from datetime import datetime
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gh_assets.registry import RegisteredModel

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.5, 1, 2, 5, 15, 30)


class Metrics:
    """Metrics of one server; several servers in one process do not share them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.requests = counter("gh_assets_requests", "Requests by route and response status", ("route", "status"))
        self.seconds = histogram("gh_assets_request_seconds", "Duration of requests", ("route",), buckets=SECONDS)
        self.recommendations = counter("gh_assets_recommendations", "Recommendation lists by kind", ("kind",))
        self.batch = histogram("gh_assets_batch_size", "Lists scored in one batch", buckets=(1, 2, 4, 8, 16, 32))
        self.swaps = counter("gh_assets_swaps", "Replacements of what is served by another model or newer data")
        self.model = gauge("gh_assets_model", "The model that is served; always 1", ("name", "version"))
        self.loaded = gauge("gh_assets_loaded_time_seconds", "Unix time at which what is served was loaded")
        self.up = gauge("gh_assets_service_up", "Whether a service is reachable", ("service",))
        self.lookups = counter("gh_assets_live_lookups", "Users looked up on GitHub by outcome", ("found",))
        self.feedback = counter("gh_assets_feedback", "Feedback received by verdict", ("verdict",))
        self.unshipped = gauge("gh_assets_feedback_waiting", "Feedback that is not in MongoDB yet")
        self.refused = counter("gh_assets_refused", "Requests refused before they reached a route, by code", ("why",))

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
