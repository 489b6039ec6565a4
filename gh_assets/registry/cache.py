"""A cache of models on this machine, which is shared by processes and is used while the services are unavailable.

A model is downloaded once, whole or not at all. The checksums of its files are kept beside it: a file that has changed
since the download is never loaded.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gh_assets.errors import StoredDataError
from gh_assets.local.locks import open_lock, try_lock, wait_lock
from gh_assets.registry.archives import is_archive, stem_of
from gh_assets.registry.documents import RegisteredModel
from gh_assets.registry.store import ModelRegistry

logger = logging.getLogger(__name__)

CHECKSUMS = ".checksums.json"

KEEP = 4
"""Number of cached models: the champion, the one before it, and those that are being compared."""


class ModelCache:
    """Downloaded models by their checksums.

    Parameters
    ----------
    folder : Path
        Shared by any number of processes; created when it is needed.
    keep : int
        Number of models that are kept.
    """

    def __init__(self, folder: Path, keep: int = KEEP) -> None:
        self.folder, self.keep = folder, keep

    @contextmanager
    def fetched(self, registry: ModelRegistry | None, model: RegisteredModel) -> Iterator[Path]:
        """Keep a model's file, or the content of its archive, for the length of a ``with`` block.

        Parameters
        ----------
        registry : ModelRegistry or None
            Registry from which the model is downloaded if it is not cached. None: it must be cached.
        model : RegisteredModel

        Raises
        ------
        StoredDataError, ServiceUnavailableError
            If it is not cached, or damaged, and cannot be downloaded.
        """
        place = self._place(model)
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = open_lock(place.with_suffix(".lock"))
        try:
            while True:
                wait_lock(lock, shared=True)
                if self._is_sound(model):
                    break
                if registry is None:
                    state = "is damaged" if self._content(model).exists() else "is not"
                    raise StoredDataError(f"{model.title} {state} on this machine, and may not be downloaded.")
                wait_lock(lock)  # one process downloads, the others wait; upgrading a lock releases it for a moment
                if not self._is_sound(model):
                    self._fetch(registry, model)
            os.utime(place)
            yield self._content(model)
        finally:
            os.close(lock)
        self._make_room()

    def _fetch(self, registry: ModelRegistry, model: RegisteredModel) -> None:
        place = self._place(model)
        if self._content(model).exists():
            logger.warning(
                "%s has changed on this machine since it was downloaded: it is downloaded again.", model.title
            )
        shutil.rmtree(place, ignore_errors=True)  # including incomplete downloads of killed processes
        content = registry.download(model, place, unpack=is_archive(model.file_name))
        draft = place / f"{CHECKSUMS}.new"
        draft.write_text(json.dumps(_checksums(content)), encoding="utf-8")
        draft.replace(place / CHECKSUMS)

    def _is_sound(self, model: RegisteredModel) -> bool:
        """Whether the model is cached, with each file as it was when the registry's checksum was compared."""
        try:
            expected = json.loads((self._place(model) / CHECKSUMS).read_text(encoding="utf-8"))
            return bool(expected) and expected == _checksums(self._content(model))
        except (OSError, ValueError):
            return False

    def has(self, model: RegisteredModel) -> bool:
        """Whether the model is cached."""
        return self._content(model).exists()

    def _place(self, model: RegisteredModel) -> Path:
        # The original documents have no checksum: for those, the object and its generation identify the content.
        key = model.sha256 or hashlib.sha256(f"{model.uri} {model.generation} {model.time}".encode()).hexdigest()
        return self.folder / key

    def _content(self, model: RegisteredModel) -> Path:
        """Return the path of the content, which the last step of a download creates."""
        return self._place(model) / stem_of(model.file_name)

    def _make_room(self) -> None:
        folders = (path for path in self.folder.iterdir() if path.is_dir())
        places = sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)
        for place in places[self.keep :]:
            lock = open_lock(place.with_suffix(".lock"))
            try:
                if try_lock(lock):  # no process reads it
                    shutil.rmtree(place, ignore_errors=True)
            finally:
                os.close(lock)

    # -- selections ------------------------------------------------------------------------------------------------

    def save_selection(self, key: str, model: RegisteredModel) -> None:
        """Record which model was selected, for use while the registry is unavailable."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self._selection(key)
        if target.exists() and target.read_text(encoding="utf-8") == model.model_dump_json():
            return
        descriptor, draft = tempfile.mkstemp(prefix=".answer.", dir=self.folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(model.model_dump_json())
        Path(draft).replace(target)

    def load_selection(self, key: str) -> RegisteredModel | None:
        """Return the model that was selected, if it is still cached."""
        try:
            model = RegisteredModel.model_validate_json(self._selection(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return model if self.has(model) else None

    def _selection(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _checksums(content: Path) -> dict[str, str]:
    """Return the SHA-256 of a file, or of each file of a folder, by the path relative to it."""
    files = sorted(path for path in content.rglob("*") if path.is_file()) if content.is_dir() else [content]
    checksums = {}
    for path in files:
        with path.open("rb") as file:
            checksums[path.relative_to(content).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return checksums
