"""Resumable uploads, which can be continued by the next process after a kill.

The result of a finished upload is kept as long as unfinished ones, for clients that did not receive the last response.
"""

import re
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from gh_assets.embedded.bucket.files import Draft, Preconditions, not_found, sync

RESULT = "result"
"""The only field in the description of a finished upload."""


@dataclass(frozen=True)
class Session:
    """The description of an upload at its start."""

    bucket: str
    name: str
    properties: Mapping[str, Any]
    conditions: Preconditions


class Sessions:
    """All uploads.

    Parameters
    ----------
    folder : Path
        Holds two files per upload: its description and its content.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._drafts: dict[str, Draft] = {}
        self._lock = threading.Lock()

    def begin(self, session: Session) -> str:
        """Begin an upload, and return its key."""
        key = secrets.token_hex(16)
        (self.folder / key).touch(0o600)
        description = self.folder / f"{key}.json"
        description.write_bytes(orjson.dumps(asdict(session)))
        sync(description)
        sync(self.folder)
        return key

    def find(self, key: str) -> tuple[Session, Draft]:
        """Return an unfinished upload and the content received so far.

        Raises
        ------
        BucketError
            404 if there is no unfinished upload with this key.
        """
        description = self._description(key)
        if RESULT in description:
            raise not_found("The upload")
        try:
            with self._lock:
                if key not in self._drafts:
                    self._drafts[key] = Draft.of(self.folder / key)
                draft = self._drafts[key]
        except FileNotFoundError:
            raise not_found("The upload") from None
        return Session(**description | {"conditions": Preconditions(**description["conditions"])}), draft

    def result(self, key: str) -> dict[str, Any] | None:
        """Return the resource of a finished upload, or None if it is not finished.

        Raises
        ------
        BucketError
            404 if there is no upload with this key.
        """
        resource: dict[str, Any] | None = self._description(key).get(RESULT)
        return resource

    def keep_result(self, key: str, resource: Mapping[str, Any]) -> None:
        """Keep the resource of a finished upload; if the disk is full, a client that asks for it starts again."""
        with suppress(OSError):
            (self.folder / f"{key}.json").write_bytes(orjson.dumps({RESULT: resource}))

    def _description(self, key: str) -> dict[str, Any]:
        try:
            if re.fullmatch(r"[0-9a-f]{32}", key):
                description: dict[str, Any] = orjson.loads((self.folder / f"{key}.json").read_bytes())
                return description
        except (FileNotFoundError, orjson.JSONDecodeError):
            pass
        raise not_found("The upload")

    def finish(self, key: str, draft: Draft, path: Path) -> Draft:
        """Move the content of an upload to a path, and forget the upload."""
        draft.path.rename(path)
        self._forget(key)
        draft.path = path
        return draft

    def cancel(self, key: str) -> None:
        """Delete an unfinished upload."""
        _, draft = self.find(key)
        self._forget(key)
        draft.path.unlink(missing_ok=True)

    def _forget(self, key: str) -> None:
        with self._lock:
            self._drafts.pop(key, None)
        (self.folder / f"{key}.json").unlink(missing_ok=True)
