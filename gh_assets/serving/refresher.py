"""Keeping the serving snapshot current while a server runs.

A new snapshot is loaded beside the one that serves, tried, and takes its place by one assignment: a request in progress
continues with the former one. While a service is unavailable, requests are answered from what is loaded.
"""

import gc
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from pymongo.errors import PyMongoError

from gh_assets.errors import GhAssetsError, ModelNotFoundError, ServiceUnavailableError, StoredDataError
from gh_assets.local.backoff import Backoff
from gh_assets.registry import CHAMPION, PURPOSE, ModelRegistry, Move, RegisteredModel
from gh_assets.services.connections import asset_store, connect_gcs, connect_mongo, model_store
from gh_assets.serving.current_model import (
    CURRENT_MODEL_KEY,
    current_model,
    load_first_usable,
    model_cache,
    model_identity,
    serving_candidates,
)
from gh_assets.serving.live_lookups import LiveLookups
from gh_assets.serving.service_monitor import GCS, GITHUB, MONGO, Repeater, ServiceMonitor
from gh_assets.serving.snapshot import ServingSnapshot, SnapshotVersion, data_generations, former_names, load_snapshot
from gh_assets.settings import Settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import Collections, MongoDatabase
from gh_assets.storage.objects import CloudStorageClient

RETRY = Backoff(first=1.0, longest=300.0)
"""Waits before a snapshot that could not be loaded is tried again."""

FAILURES = (GhAssetsError, PyMongoError, OSError)
"""Errors of services and of damaged data."""

MONGO_SECONDS = 2.0
"""Timeout of the connection to Mongo."""

MAX_LISTED = 100
"""Registered models that the model page shows."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RegistryView:
    """Content of the registry at one check.

    Attributes
    ----------
    wanted : RegisteredModel or None
        The model that should serve; None: not known yet.
    names : mapping of str to int
        Ids by former names of repositories.
    moves, registered : sequence
        Moves of the champion and models, newest first.
    """

    wanted: RegisteredModel | None = None
    names: Mapping[str, int] = field(default_factory=dict)
    moves: Sequence[Move] = ()
    registered: Sequence[RegisteredModel] = ()


class RegistryWatcher:
    """Keeps connections to Mongo and Cloud Storage, and notices a new champion or new data.

    Parameters
    ----------
    settings : Settings
    on_change : callable
        Called after the wanted model or `generations` has changed.

    Attributes
    ----------
    view : RegistryView
    generations : tuple of int or None
        Generations of the data; None: not known yet.
    problem : str or None
        Why there is no model, or no data.
    """

    def __init__(self, settings: Settings, on_change: Callable[[], None]) -> None:
        self._settings, self._on_change = settings, on_change
        self.view = RegistryView()
        self.generations: tuple[int, ...] | None = None
        self.problem: str | None = None
        self.database: MongoDatabase | None = None
        self._gcs: CloudStorageClient | None = None

    def close(self) -> None:
        if self.database is not None:
            self.database.client.close()

    def check_mongo(self) -> bool:
        """Check Mongo, and look for a new champion."""
        if self.database is None:
            self.database = connect_mongo(self._settings, MONGO_SECONDS)
        database = self.database
        try:
            self._look_for_champion(database)
        except PyMongoError:
            # An embedded server that was restarted has another port.
            self.database = None
            database.client.close()
            raise
        return True

    def _look_for_champion(self, database: MongoDatabase) -> None:
        registry = self.registry(database)
        if registry is None:
            database.client.admin.command("ping")
            return
        try:
            wanted = current_model(registry)
        except ModelNotFoundError as error:
            self.problem = str(error)
            return
        # Read after the model, so that the moves include the one that made it champion.
        moves = registry.aliases.history(PURPOSE, CHAMPION)
        known = self.view.wanted
        changed = known is None or model_identity(wanted) != model_identity(known)
        if changed or moves[:1] != list(self.view.moves[:1]):
            self.view = RegistryView(wanted, former_names(database), moves, registry.list()[:MAX_LISTED])
        if changed:
            self.problem = None
            self._on_change()

    def check_gcs(self) -> bool:
        """Check Cloud Storage, and look for new data."""
        try:
            generations, _ = data_generations(self.store())
        except StoredDataError as error:
            self.problem = str(error)
            return True
        except GhAssetsError:
            self._gcs = None  # an embedded server that was restarted has another port
            raise
        if generations != self.generations:
            self.generations, self.problem = generations, None
            self._on_change()
        return True

    def store(self) -> AssetStore:
        """Return the store of the data."""
        return asset_store(self._settings, self._client())

    def registry(self, database: MongoDatabase | None) -> ModelRegistry | None:
        """Return the registry; None without Mongo or Cloud Storage."""
        if database is None:
            return None
        try:
            return ModelRegistry(model_store(self._settings, self._client()), database[Collections.MODELS])
        except ServiceUnavailableError:
            return None

    def _client(self) -> CloudStorageClient:
        if self._gcs is None:
            self._gcs = connect_gcs(self._settings)
        return self._gcs


class RefreshObserver(Protocol):
    """Receives the health of services and the models that serve, such as for metrics."""

    def service_answers(self, name: str, answers: bool) -> None:
        """Record whether a service responds."""

    def model_changed(self, former: RegisteredModel | None, current: RegisteredModel, loaded_at: datetime) -> None:
        """Record that a model, or newer data of the same one, serves from now on."""


class RetryState:
    """When a snapshot version that could not be loaded completely is tried again."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._version: SnapshotVersion | None = None
        self._attempts, self._at = 0, 0.0

    def is_due(self, version: SnapshotVersion) -> bool:
        return version != self._version or time.monotonic() >= self._at

    def failed(self, version: SnapshotVersion) -> None:
        """Postpone the next attempt at a version, longer after each failure."""
        self._attempts = self._attempts + 1 if version == self._version else 1
        self._version, self._at = version, time.monotonic() + self._backoff.wait(self._attempts)

    def succeeded(self) -> None:
        self._version = None


class SnapshotRefresher:
    """Keeps the serving snapshot current.

    Parameters
    ----------
    settings : Settings
    observer : RefreshObserver
    live : LiveLookups or None
        Checks whether GitHub responds; None: GitHub is not used.

    Attributes
    ----------
    snapshot : ServingSnapshot or None
        The snapshot that serves; None: not loaded yet.
    watcher : RegistryWatcher
    monitor : ServiceMonitor
    """

    def __init__(self, settings: Settings, observer: RefreshObserver, live: LiveLookups | None) -> None:
        self.snapshot: ServingSnapshot | None = None
        self._observer, self._cache = observer, model_cache(settings)
        self._retry, self._problem = RetryState(RETRY), ""
        interval = max(settings.serve_refresh.total_seconds(), 0.05)
        self._thread = Repeater("snapshot", self._refresh, interval, self._failed)
        self.watcher = RegistryWatcher(settings, self._thread.wake)
        checks: dict[str, Callable[[], bool]] = {MONGO: self.watcher.check_mongo, GCS: self.watcher.check_gcs}
        if live is not None:
            checks[GITHUB] = live.check
        self.monitor = ServiceMonitor(checks, FAILURES, interval, observer.service_answers)

    def start(self) -> None:
        """Begin to watch the services; the snapshot follows when it is loaded."""
        self.monitor.start()
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._thread.stop()
        self.monitor.stop()
        self._thread.wait_stopped()
        self.watcher.close()

    def database(self) -> MongoDatabase | None:
        """Return the database while it responds."""
        return self.watcher.database if self.monitor.services[MONGO].answers else None

    @property
    def problem(self) -> str | None:
        """Why there is no snapshot, or no newer one."""
        return self._problem or self.watcher.problem

    # -- refreshing --------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Load a newer snapshot if there is one."""
        wanted, generations = self._wanted(), self.watcher.generations
        if wanted is None or generations is None:
            return
        version, snapshot = SnapshotVersion(model_identity(wanted), generations), self.snapshot
        if snapshot is not None and snapshot.version == version and not snapshot.served.warnings:
            return
        if not self._retry.is_due(version):
            return
        self._retry.failed(version)  # unless what follows succeeds
        try:
            if self._replace(wanted, version, snapshot):
                self._retry.succeeded()
        except FAILURES as error:
            self._failed(error)

    def _wanted(self) -> RegisteredModel | None:
        """Return the model that should serve; without Mongo, the last one that served on this machine."""
        wanted = self.watcher.view.wanted
        if wanted is None and self.snapshot is None and self.monitor.services[MONGO].answers is False:
            return self._cache.load_selection(CURRENT_MODEL_KEY)
        return wanted

    def _replace(self, wanted: RegisteredModel, version: SnapshotVersion, snapshot: ServingSnapshot | None) -> bool:
        """Load a snapshot and let it serve; return whether it is the wanted model that serves."""
        started = time.perf_counter()
        registry = self.watcher.registry(self.database())
        candidates = itertools.chain([wanted], () if registry is None else serving_candidates(registry))
        loaded = None if snapshot is None else snapshot.served
        model = load_first_usable(registry, candidates, self._cache, loaded=loaded, public=True)
        current = SnapshotVersion(model_identity(model.registered), version.generations)
        if snapshot is not None and snapshot.version == current and snapshot.served.warnings == model.warnings:
            return False  # the wanted model still cannot be loaded
        fresh = load_snapshot(model, self.watcher.store(), self.watcher.view.names, snapshot)
        fresh.ranker.warm_up()
        self._cache.save_selection(CURRENT_MODEL_KEY, model.registered)
        self.snapshot, self._problem = fresh, " ".join(model.warnings)
        self._observer.model_changed(None if snapshot is None else snapshot.model, model.registered, fresh.loaded_at)
        # Objects that live for hours are excluded from later garbage collections, which would stop all requests.
        gc.collect(1)
        gc.freeze()
        seconds = round(time.perf_counter() - started, 2)
        log.info("serving", extra={"fields": {"model": model.registered.title, "seconds": seconds}})
        return not model.warnings

    def _failed(self, error: Exception) -> None:
        self._problem = f"The newest model or data could not be loaded ({type(error).__name__})."
        if isinstance(error, GhAssetsError):
            self._problem = str(error)
        log.warning("the snapshot stays as it is", extra={"fields": {"error": type(error).__name__}})
