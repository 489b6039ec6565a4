"""Alerts, posted to a webhook with a limit for each subject. Knows no Dagster.

What the limit suppressed and what could not be posted is kept in a file of the home, because MongoDB may be what fails.
"""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from pydantic import BaseModel, SecretStr

from gh_assets.local.home import owner_only
from gh_assets.local.locks import exclusive

TIMEOUT = 10.0
MAX_TEXT = 1500
MAX_PENDING = 50
"""Maximum number of alerts kept for a webhook that does not answer; older ones are dropped."""


class _State(BaseModel):
    """The content of the file."""

    posted_at: dict[str, dt.datetime] = {}
    left_out: dict[str, int] = {}
    failing: dict[str, int] = {}
    pending: list[dict[str, Any]] = []


class Alerts:
    """The sender of alerts.

    Parameters
    ----------
    folder : Path
        Folder of the file with the state.
    webhook : SecretStr or None
        Receives a POST with a JSON object: ``text``, ``kind``, ``subject`` and details. None: nothing is posted.
    every : timedelta
        Minimum time between two failures of a subject; a recovery is posted at once.
    """

    def __init__(self, folder: Path, webhook: SecretStr | None, every: dt.timedelta) -> None:
        self.folder, self.webhook, self.every = folder, webhook, every

    def failure(self, subject: str, text: str, now: dt.datetime, **details: str) -> bool:
        """Post a failure; return False if the limit suppressed it.

        Parameters
        ----------
        subject : str
            Such as a job; the limit holds for each subject.
        text : str
            Without secrets: it is logged and posted.
        now : datetime
        **details
            Other fields of the JSON object.
        """
        with self._state() as state:
            state.failing[subject] = state.failing.get(subject, 0) + 1
            last = state.posted_at.get(subject)
            if last is not None and now - last < self.every:
                state.left_out[subject] = state.left_out.get(subject, 0) + 1
                return False
            state.posted_at[subject] = now
            left_out = state.left_out.pop(subject, 0)
            text = text[:MAX_TEXT] + (f" ({left_out} more since the last alert)" if left_out else "")
            self._post(state, {"text": text, "kind": "failure", "subject": subject, **details})
            return True

    def recovery(self, subject: str, text: str, **details: str) -> bool:
        """Post a recovery as `failure` does; return False if there was no failure before."""
        with self._state() as state:
            failures = state.failing.pop(subject, 0)
            if not failures:
                return False
            state.left_out.pop(subject, None)
            state.posted_at.pop(subject, None)
            text = f"{text[:MAX_TEXT]} After {failures} failure{'s' if failures > 1 else ''}."
            payload = {"text": text, "kind": "recovery", "subject": subject, **details, "failures": failures}
            self._post(state, payload)
            return True

    def flush(self) -> int:
        """Post the pending alerts, and return the number of those that still are."""
        with self._state() as state:
            pending, state.pending = state.pending, []
            for payload in pending:
                self._post(state, payload)
            return len(state.pending)

    def _post(self, state: _State, payload: dict[str, Any]) -> None:
        if self.webhook is None:
            return
        if state.pending:  # keeps the order, and waits for no further timeout
            state.pending = [*state.pending, payload][-MAX_PENDING:]
            return
        try:
            response = requests.post(self.webhook.get_secret_value(), json=payload, timeout=TIMEOUT)
            delivered = response.ok
        except requests.RequestException:  # not logged: its text may hold the address, which is a secret
            delivered = False
        if not delivered:
            state.pending = [payload]

    @contextmanager
    def _state(self) -> Iterator[_State]:
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / "alerts.json"
        with exclusive(self.folder / "alerts.lock"):
            try:
                state = _State.model_validate_json(place.read_bytes())
            except (OSError, ValueError):
                state = _State()
            yield state
            draft = self.folder / ".alerts.new"
            with open(draft, "w", encoding="utf-8", opener=owner_only) as file:
                file.write(state.model_dump_json())
            draft.replace(place)
