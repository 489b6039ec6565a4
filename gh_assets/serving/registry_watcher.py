"""Watching for a new champion in the registry and for new data in the bucket."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pymongo.errors import PyMongoError

from gh_assets.errors import GhAssetsError, ModelNotFoundError, ServiceUnavailableError, StoredDataError
from gh_assets.registry import CHAMPION, PURPOSE, ModelRegistry, Move, RegisteredModel
from gh_assets.services.connections import asset_store, connect_gcs, connect_mongo, model_store
from gh_assets.serving.current_model import current_model, model_identity
from gh_assets.serving.snapshot import data_generations, former_names
from gh_assets.settings import Settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import Collections, MongoDatabase
from gh_assets.storage.objects import CloudStorageClient

MONGO_SECONDS = 2.0
"""Timeout of the connection to Mongo."""

MAX_LISTED = 100
"""Registered models that the model page shows."""


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
