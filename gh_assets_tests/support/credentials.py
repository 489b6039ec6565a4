"""Credentials of Google for tests."""

import datetime as dt

from google.oauth2.credentials import Credentials


class RenewingCredentials(Credentials):
    """Credentials with numbered tokens, which a renewal increments."""

    def __init__(self) -> None:
        super().__init__("token-0")  # type: ignore[no-untyped-call]
        self.renewed = 0

    def refresh(self, request: object) -> None:
        assert callable(request), "Google's credentials send their request by it"
        self.renewed += 1
        self.token = f"token-{self.renewed}"
        self.expiry = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(hours=1)
