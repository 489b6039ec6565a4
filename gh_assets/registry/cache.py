"""Models on this machine: fetched once whoever asks, whole or not at all, and good when the services are away.

Beside each lie the checksums of its files as they were fetched: a file that has changed since is never loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from gh_assets.errors import StoredDataError
from gh_assets.local.locks import open_lock, try_lock, wait_lock
from gh_assets.registry.archives import is_archive, stem_of
from gh_assets.registry.documents import RegisteredModel
from gh_assets.registry.store import ModelRegistry

logger = logging.getLogger(__name__)

CHECKSUMS = ".checksums.json"

KEEP = 4
"""Models that stay when another one comes: the champion, the one before it, and what is being compared."""


class ModelCache:
    """Fetched models by their checksums.

    Parameters
    ----------
    folder : Path
        Shared by any number of processes. Made when it is needed.
    keep : int
        How many models stay.
    """

    def __init__(self, folder: Path, keep: int = KEEP) -> None:
        self.folder, self.keep = folder, keep

    @contextmanager
    def fetched(self, registry: ModelRegistry | None, model: RegisteredModel) -> Iterator[Path]:
        """The model's file, or what its archive holds, for the length of a block: nobody removes it meanwhile.

        Parameters
        ----------
        registry : ModelRegistry or None
            Where it comes from, if it is not there yet. None: it must be there.
        model : RegisteredModel

        Raises
        ------
        StoredDataError, ServiceUnavailableError
            If it is not there as it was fetched, and cannot be fetched.
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
                    raise StoredDataError(f"{model.title} {state} on this machine, and its bucket was not to be asked.")
                wait_lock(lock)  # one fetches, the others wait for it; changing a lock lets go of it for a moment
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
            logger.warning("%s on this machine is not as it was fetched: it is fetched again.", model.title)
        shutil.rmtree(place, ignore_errors=True)  # also what killed processes had begun to fetch
        content = registry.download(model, place, unpack=is_archive(model.file_name))
        draft = place / f"{CHECKSUMS}.new"
        draft.write_text(json.dumps(_checksums(content)), encoding="utf-8")
        draft.replace(place / CHECKSUMS)

    def _is_sound(self, model: RegisteredModel) -> bool:
        """Whether the model is there, each of its files as it was when the registry's checksum was compared."""
        try:
            kept = json.loads((self._place(model) / CHECKSUMS).read_text(encoding="utf-8"))
            return bool(kept) and kept == _checksums(self._content(model))
        except (OSError, ValueError):
            return False

    def has(self, model: RegisteredModel) -> bool:
        """Whether it need not be fetched."""
        return self._content(model).exists()

    def _place(self, model: RegisteredModel) -> Path:
        # The original documents have no checksum: there the object and its generation have to do.
        known = model.sha256 or hashlib.sha256(f"{model.uri} {model.generation} {model.time}".encode()).hexdigest()
        return self.folder / known

    def _content(self, model: RegisteredModel) -> Path:
        """The last step of downloading makes it, whole."""
        return self._place(model) / stem_of(model.file_name)

    def _make_room(self) -> None:
        places = sorted(
            (path for path in self.folder.iterdir() if path.is_dir()),
            key=lambda path: path.stat().st_mtime,
            reverse=True,
        )
        for place in places[self.keep :]:
            lock = open_lock(place.with_suffix(".lock"))
            try:
                if try_lock(lock):  # nobody reads it
                    shutil.rmtree(place, ignore_errors=True)
            finally:
                os.close(lock)

    # -- what was asked for last -----------------------------------------------------------------------------------

    def save_selection(self, question: str, model: RegisteredModel) -> None:
        """Write down what the answer to a question was, for when nobody can be asked."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self._answer(question)
        if target.exists() and target.read_text(encoding="utf-8") == model.model_dump_json():
            return
        descriptor, draft = tempfile.mkstemp(prefix=".answer.", dir=self.folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(model.model_dump_json())
        Path(draft).replace(target)

    def load_selection(self, question: str) -> RegisteredModel | None:
        """What the answer was, if that model is still here."""
        try:
            found = json.loads(self._answer(question).read_text(encoding="utf-8"))
            model = RegisteredModel.model_validate(found)
        except (OSError, ValueError, ValidationError):
            return None
        return model if self.has(model) else None

    def _answer(self, question: str) -> Path:
        return self.folder / f"{hashlib.sha256(question.encode()).hexdigest()[:16]}.json"


def _checksums(content: Path) -> dict[str, str]:
    """SHA-256 of a file, or of each file of a folder, by its name in there."""
    files = sorted(path for path in content.rglob("*") if path.is_file()) if content.is_dir() else [content]
    found = {}
    for path in files:
        with path.open("rb") as file:
            found[path.relative_to(content).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
