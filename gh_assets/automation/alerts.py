"""Alerts to people: logged always, posted to a webhook at most so often a subject. Knows no Dagster.

What was left out, and what could not be posted, is kept in a file of the home and told with the next: Mongo may be
what fails.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from pydantic import BaseModel, SecretStr

from gh_assets.local.locks import open_lock, wait_lock

TIMEOUT = 10.0
MAX_TEXT = 1500
MAX_PENDING = 50
"""Alerts that wait for a webhook that does not answer; older ones go."""


@dataclass(frozen=True)
class Alert:
    """What a person should know.

    Attributes
    ----------
    subject : str
        What it is about, such as a job: alerts about one subject are limited together.
    kind : {"failure", "recovery"}
    text : str
        Without secrets: it goes to logs and to the webhook.
    details : mapping of str to str
    """

    subject: str
    kind: str
    text: str
    details: Mapping[str, str] = field(default_factory=dict)

    def payload(self, left_out: int) -> dict[str, Any]:
        more = f" ({left_out} more since the last alert)" if left_out else ""
        return {"text": self.text[:MAX_TEXT] + more, "kind": self.kind, "subject": self.subject, **self.details}


class _State(BaseModel):
    """What has to outlive the process."""

    posted_at: dict[str, dt.datetime] = {}
    left_out: dict[str, int] = {}
    failing: dict[str, int] = {}
    pending: list[dict[str, Any]] = []


class Alerts:
    """Where alerts go.

    Parameters
    ----------
    folder : Path
        Of the file that remembers.
    webhook : SecretStr or None
        Gets a POST with a JSON object: ``text``, ``kind``, ``subject`` and details. None: nobody.
    every : timedelta
        At most one failure a subject within it; a recovery is told at once.
    """

    def __init__(self, folder: Path, webhook: SecretStr | None, every: dt.timedelta) -> None:
        self.folder, self.webhook, self.every = folder, webhook, every

    def failure(self, alert: Alert, now: dt.datetime) -> bool:
        """Tell of a failure; False if it was left out because one was told lately."""
        with self._state() as state:
            subject = alert.subject
            state.failing[subject] = state.failing.get(subject, 0) + 1
            last = state.posted_at.get(subject)
            if last is not None and now - last < self.every:
                state.left_out[subject] = state.left_out.get(subject, 0) + 1
                return False
            state.posted_at[subject] = now
            self._post(state, alert.payload(state.left_out.pop(subject, 0)))
            return True

    def recovery(self, alert: Alert) -> bool:
        """Tell that a subject is well again; False if it was not known to be ill."""
        with self._state() as state:
            failures = state.failing.pop(alert.subject, 0)
            if not failures:
                return False
            state.left_out.pop(alert.subject, None)
            state.posted_at.pop(alert.subject, None)
            told = alert.payload(0)
            runs = "1 failure" if failures == 1 else f"{failures} failures"
            self._post(state, {**told, "text": f"{told['text']} After {runs}.", "failures": failures})
            return True

    def flush(self) -> int:
        """Post what could not be posted; gives how many still wait."""
        with self._state() as state:
            waiting, state.pending = state.pending, []
            for payload in waiting:
                self._post(state, payload)
            return len(state.pending)

    def _post(self, state: _State, payload: dict[str, Any]) -> None:
        if self.webhook is None:
            return
        if state.pending:  # in the order in which they happened, and no wait for each while nobody answers
            state.pending = [*state.pending, payload][-MAX_PENDING:]
            return
        try:
            answer = requests.post(self.webhook.get_secret_value(), json=payload, timeout=TIMEOUT)
            delivered = answer.ok
        except requests.RequestException:  # its words may hold the address, which is a secret
            delivered = False
        if not delivered:
            state.pending = [payload]

    @contextmanager
    def _state(self) -> Iterator[_State]:
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / "alerts.json"
        lock = open_lock(self.folder / "alerts.lock")
        try:
            wait_lock(lock)
            try:
                state = _State.model_validate_json(place.read_bytes())
            except (OSError, ValueError):
                state = _State()
            yield state
            with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=".alerts.", delete=False) as draft:
                json.dump(state.model_dump(mode="json"), draft)
            Path(draft.name).replace(place)
        finally:
            os.close(lock)
