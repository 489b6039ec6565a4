"""Resumable uploads: begun, continued piece by piece, also by the next process after a kill.

What became of one that is finished is kept as long as the others: a client whose last answer was lost asks for it.
"""

from __future__ import annotations

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
"""The only field of the description of an upload that is finished."""


@dataclass(frozen=True)
class Session:
    """What is known of an upload when it begins."""

    bucket: str
    name: str
    properties: Mapping[str, Any]
    conditions: Preconditions


class Sessions:
    """The uploads that have begun.

    Parameters
    ----------
    folder : Path
        Two files each: the description, and what has arrived.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._drafts: dict[str, Draft] = {}
        self._lock = threading.Lock()

    def begin(self, session: Session) -> str:
        """Begin an upload; gives the key by which it is continued."""
        key = secrets.token_hex(16)
        (self.folder / key).touch(0o600)
        described = self.folder / f"{key}.json"
        described.write_bytes(orjson.dumps(asdict(session)))
        sync(described)
        sync(self.folder)
        return key

    def find(self, key: str) -> tuple[Session, Draft]:
        """An upload, and what has arrived of it.

        Raises
        ------
        BucketError
            404 if there is none of that key, or it is finished.
        """
        described = self._described(key)
        if RESULT in described:
            raise not_found("The upload")
        try:
            with self._lock:
                if key not in self._drafts:
                    self._drafts[key] = Draft.of(self.folder / key)
                draft = self._drafts[key]
        except FileNotFoundError:
            raise not_found("The upload") from None
        return Session(**described | {"conditions": Preconditions(**described["conditions"])}), draft

    def result(self, key: str) -> dict[str, Any] | None:
        """What a finished upload became, as it was described then; None if it is not finished.

        Raises
        ------
        BucketError
            404 if there is none of that key.
        """
        found: dict[str, Any] | None = self._described(key).get(RESULT)
        return found

    def keep_result(self, key: str, described: Mapping[str, Any]) -> None:
        """Write down what a finished upload became; where the disk is full, whoever asks again begins again."""
        with suppress(OSError):
            (self.folder / f"{key}.json").write_bytes(orjson.dumps({RESULT: described}))

    def _described(self, key: str) -> dict[str, Any]:
        try:
            if re.fullmatch(r"[0-9a-f]{32}", key):
                found: dict[str, Any] = orjson.loads((self.folder / f"{key}.json").read_bytes())
                return found
        except (FileNotFoundError, orjson.JSONDecodeError):
            pass
        raise not_found("The upload")

    def finish(self, key: str, draft: Draft, place: Path) -> Draft:
        """Move the content to where objects lie, and forget the upload."""
        draft.path.rename(place)
        self._forget(key)
        draft.path = place
        return draft

    def end(self, key: str) -> None:
        """Give an upload up, if there is one of that key."""
        _, draft = self.find(key)
        self._forget(key)
        draft.path.unlink(missing_ok=True)

    def _forget(self, key: str) -> None:
        with self._lock:
            self._drafts.pop(key, None)
        (self.folder / f"{key}.json").unlink(missing_ok=True)
