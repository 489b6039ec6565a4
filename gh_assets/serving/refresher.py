"""What the server answers from, kept current: looks for a new champion and new data, and swaps in one step.

Each service is watched by a thread of its own, so that one that hangs hides nothing of the others. A desk is made
beside the one that serves, tried, and takes its place by one assignment: a request that has begun goes on with the old
one. While a service is away everything goes on from what is loaded, and `services` says since when.
"""

from __future__ import annotations

import gc
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from pymongo.errors import PyMongoError

from gh_assets.errors import GhAssetsError, ModelNotFoundError, ServiceUnavailableError, StoredDataError
from gh_assets.registry import CHAMPION, PURPOSE, ModelRegistry, Move, RegisteredModel
from gh_assets.services.connections import asset_store, connect_gcs, connect_mongo, model_store
from gh_assets.serving.current_model import (
    CURRENT_MODEL_KEY,
    UNLOADABLE,
    LoadedModel,
    current_model,
    load_model,
    model_cache,
    serving_candidates,
    skipped,
)
from gh_assets.serving.live_lookups import LiveLookups
from gh_assets.serving.snapshot import (
    ServingSnapshot,
    SnapshotVersion,
    data_generations,
    former_names,
    load_snapshot,
    model_identity,
)
from gh_assets.settings import Settings
from gh_assets.storage.mongo import Collections, MongoDatabase
from gh_assets.storage.objects import CloudStorageClient

MONGO, GCS, GITHUB = "MongoDB", "Cloud Storage", "GitHub"

ANSWER_TIMEOUT = 4.0
"""Seconds after which a service that was asked counts as one that does not answer."""

MONGO_SECONDS = 2.0

LISTED = 100
"""Registered models that the model page shows."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
"""Seconds before what could not be loaded is tried again."""

log = logging.getLogger(__name__)


@dataclass
class ServiceHealth:
    """Whether a service answers.

    Attributes
    ----------
    name : str
    ok : bool or None
        None: it was not asked yet.
    changed : datetime
        Since when (UTC).
    asked : float or None
        When the question was sent that is not answered yet, in seconds of the monotonic clock.
    """

    name: str
    ok: bool | None = None
    changed: datetime = field(default_factory=lambda: datetime.now(UTC))
    asked: float | None = None

    def tell(self, ok: bool) -> None:
        self.asked = None
        if ok != self.ok:
            self.ok, self.changed = ok, datetime.now(UTC)
            log.info("service", extra={"fields": {"service": self.name, "answers": ok}})

    @property
    def answers(self) -> bool | None:
        """Whether it does; one that hangs does not."""
        if self.asked is not None and time.monotonic() - self.asked > ANSWER_TIMEOUT:
            return False
        return self.ok


@dataclass(frozen=True)
class RegistryView:
    """What the registry says, as it was when it was asked last."""

    moves: Sequence[Move] = ()
    registered: Sequence[RegisteredModel] = ()


class RefreshObserver(Protocol):
    """What is told of services and models, such as the metrics of a server."""

    def service_answers(self, name: str, answers: bool) -> None:
        """Take note whether a service answers."""

    def model_changed(self, former: RegisteredModel | None, current: RegisteredModel, loaded_at: datetime) -> None:
        """Take note that a model, or newer data of the same one, serves from now on."""


class SnapshotRefresher:
    """Keeps the desk current.

    Parameters
    ----------
    settings : Settings
    observer : RefreshObserver
    live : LiveLookups or None
        Who knows whether GitHub answers; None: nobody is asked.

    Attributes
    ----------
    desk : ServingSnapshot or None
        What serves now; None: nothing is loaded yet.
    models : Models
    problem : str or None
        Why there is no desk, or no newer one.
    """

    def __init__(self, settings: Settings, observer: RefreshObserver, live: LiveLookups | None) -> None:
        self.settings, self.observer = settings, observer
        self.snapshot: ServingSnapshot | None = None
        self.models = RegistryView()
        self.problem: str | None = None
        asked: dict[str, Callable[[], bool]] = {MONGO: self._check_mongo, GCS: self._check_gcs}
        if live is not None:
            asked[GITHUB] = live.check
        self.services: Mapping[str, ServiceHealth] = {name: ServiceHealth(name) for name in asked}
        self._interval = max(settings.serve_refresh.total_seconds(), 0.05)
        self._stop, self._changed = threading.Event(), threading.Event()
        self._cache = model_cache(settings)
        self._database: MongoDatabase | None = None
        self._gcs: CloudStorageClient | None = None
        self._wanted: RegisteredModel | None = None
        self._generations: tuple[int, ...] | None = None
        self._names: Mapping[str, int] = {}
        self._failed: tuple[SnapshotVersion, float, float] | None = None
        self._threads = [
            threading.Thread(target=self._watch, args=(name, ask), name=name, daemon=True)
            for name, ask in asked.items()
        ]
        self._threads.append(threading.Thread(target=self._keep, name="snapshot", daemon=True))

    def start(self) -> None:
        """Begin to watch; the desk comes when it is loaded."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._changed.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5)
        if self._database is not None:
            self._database.client.close()

    def database(self) -> MongoDatabase | None:
        """The database, while it answers."""
        return self._database if self.services[MONGO].answers else None

    def missing(self) -> list[str]:
        """Services that do not answer."""
        return [name for name, service in self.services.items() if service.answers is False]

    # -- watching ------------------------------------------------------------------------------------------------------

    def _watch(self, name: str, ask: Callable[[], bool]) -> None:
        service = self.services[name]
        while not self._stop.is_set():
            service.asked = time.monotonic()
            try:
                ok = ask()
            except (GhAssetsError, PyMongoError, OSError) as error:
                log.debug("no answer", extra={"fields": {"service": name, "error": type(error).__name__}})
                ok = False
            except Exception:
                # Whatever a library comes up with: who watches must go on watching.
                log.exception("watching failed", extra={"fields": {"service": name}})
                ok = False
            service.tell(ok)
            self.observer.service_answers(name, ok)
            self._stop.wait(self._interval)

    def _check_mongo(self) -> bool:
        if self._database is None:
            self._database = connect_mongo(self.settings, MONGO_SECONDS)
        database = self._database
        try:
            registry = self._registry(database)
            if registry is None:
                database.client.admin.command("ping")
                return True
            moves = registry.aliases.history(PURPOSE, CHAMPION)
            try:
                wanted = current_model(registry)
            except ModelNotFoundError as error:
                self.problem = str(error)
                return True
            known = self._wanted is not None and model_identity(wanted) == model_identity(self._wanted)
            if not known or moves[:1] != list(self.models.moves[:1]):
                self._names = former_names(database)
                self.models = RegistryView(moves, registry.list()[:LISTED])
        except PyMongoError:
            # An embedded server that was started again has another port.
            self._database = None
            database.client.close()
            raise
        if not known:
            self._wanted = wanted
            self._changed.set()
        return True

    def _registry(self, database: MongoDatabase) -> ModelRegistry | None:
        """The registry; None while nobody knows where Cloud Storage is."""
        try:
            return ModelRegistry(model_store(self.settings, self._client()), database[Collections.MODELS])
        except ServiceUnavailableError:
            return None

    def _client(self) -> CloudStorageClient:
        if self._gcs is None:
            self._gcs = connect_gcs(self.settings)
        return self._gcs

    def _check_gcs(self) -> bool:
        try:
            generations, _ = data_generations(asset_store(self.settings, self._client()))
        except StoredDataError as error:
            self.problem = str(error)
            return True
        except GhAssetsError:
            self._gcs = None  # an embedded server that was started again has another port
            raise
        if generations != self._generations:
            self._generations = generations
            self._changed.set()
        return True

    # -- the desk ------------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._stop.is_set():
            self._changed.wait(self._interval)
            self._changed.clear()
            if self._stop.is_set():
                return
            try:
                self._renew()
            except (GhAssetsError, PyMongoError, OSError) as error:
                ours = isinstance(error, GhAssetsError)
                self.problem = str(error) if ours else f"It could not be loaded ({type(error).__name__})."
                log.warning("the snapshot stays as it is", extra={"fields": {"error": type(error).__name__}})
            except Exception:
                # Whatever is wrong with the newest: what serves goes on serving.
                self.problem = "It could not be loaded; the log says where."
                log.exception("the snapshot stays as it is")

    def _renew(self) -> None:
        """Make another desk if there is something newer, and let it serve."""
        wanted, generations, snapshot, database = self._wanted, self._generations, self.snapshot, self.database()
        if wanted is None and snapshot is None and self.services[MONGO].answers is False:
            wanted = self._cache.load_selection(CURRENT_MODEL_KEY)  # the last one that was used here
        if wanted is None or generations is None:
            return
        version = SnapshotVersion(model_identity(wanted), generations)
        if snapshot is not None and snapshot.version == version and not snapshot.served.warnings:
            return
        if self._failed is not None and self._failed[0] == version and time.monotonic() < self._failed[1]:
            return
        started = time.perf_counter()
        try:
            served = self._served(wanted, None if database is None else self._registry(database), snapshot)
            current = SnapshotVersion(model_identity(served.registered), generations)
            if snapshot is not None and snapshot.version == current and snapshot.served.warnings == served.warnings:
                self._wait_with(version)  # there is still nothing better than what stands in for the champion
                return
            fresh = load_snapshot(
                self.settings, served, asset_store(self.settings, self._client()), self._names, snapshot
            )
            fresh.ranker.prepare()
        except BaseException:
            self._wait_with(version)
            raise
        if served.warnings:
            self.problem = " ".join(served.warnings)
            self._wait_with(version)
        else:
            self._failed, self.problem = None, None
        wanted = served.registered
        self._cache.save_selection(CURRENT_MODEL_KEY, wanted)
        self.snapshot = fresh
        self.observer.model_changed(None if snapshot is None else snapshot.model, wanted, fresh.loaded_at)
        # What stays for hours is not looked through for garbage at each collection: that would stop all answers.
        gc.collect(1)
        gc.freeze()
        log.info(
            "serving",
            extra={"fields": {"model": wanted.title, "seconds": round(time.perf_counter() - started, 2)}},
        )

    def _served(
        self, wanted: RegisteredModel, registry: ModelRegistry | None, snapshot: ServingSnapshot | None
    ) -> LoadedModel:
        """The wanted model; if it cannot be loaded, the next best that can be, with a warning that says so.

        Raises
        ------
        StoredDataError
            If none can be.
        """
        warnings: list[str] = []
        tried = set()
        for model in itertools.chain([wanted], () if registry is None else serving_candidates(registry)):
            version = model_identity(model)
            if version in tried:
                continue
            tried.add(version)
            try:
                if snapshot is not None and snapshot.version.model == version:
                    return replace(snapshot.served, warnings=tuple(warnings))
                return LoadedModel(model, load_model(registry, model, self._cache), tuple(warnings))
            except UNLOADABLE as error:
                skipped(model, str(error))  # the log says why; people need not know where it lies
                warnings.append(f"{model.title} cannot be loaded: the next best serves in its place.")
        raise StoredDataError(f"No model can be loaded. {' '.join(warnings)}")

    def _wait_with(self, version: SnapshotVersion) -> None:
        """What is wrong with a model stays wrong for a while: it is not fetched every few seconds."""
        wait = min(2 * self._failed[2], LONGEST_WAIT) if self._failed and self._failed[0] == version else FIRST_WAIT
        self._failed = version, time.monotonic() + wait, wait
