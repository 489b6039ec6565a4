"""Tokens of GitHub App installations: they expire after an hour and are renewed with the app's private key.

Source: docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable

from google.auth import jwt
from google.auth.crypt import RSASigner
from pydantic import SecretStr

from gh_assets.errors import AuthenticationError, ConfigurationError

RENEW_BEFORE = 300.0
"""Seconds before its end at which a token is renewed: longer than any request takes."""

Exchange = Callable[[str, str], tuple[str, str]]
"""Trades an app's signed request (installation id, JWT) for a token and the time of its end (ISO 8601)."""


class AppInstallation:
    """The credential of one installation of a GitHub App.

    Parameters
    ----------
    app_id : str
        The app's id or client id.
    installation_id : str
    private_key : SecretStr
        The app's private key, PEM.
    exchange : callable
        Asks GitHub for a token (``POST /app/installations/{id}/access_tokens``).

    Raises
    ------
    ConfigurationError
        If the key is no RSA private key.
    """

    def __init__(self, app_id: str, installation_id: str, private_key: SecretStr, exchange: Exchange) -> None:
        try:
            self._signer = RSASigner.from_string(private_key.get_secret_value())  # type: ignore[no-untyped-call]
        except (ValueError, TypeError):
            raise ConfigurationError(
                "GITHUB_APP_PRIVATE_KEY_FILE holds no RSA private key in PEM form: download one from the app's "
                "settings."
            ) from None
        self.app_id = app_id
        self.installation_id = installation_id
        self._exchange = exchange
        self._lock = threading.Lock()
        self._token: SecretStr | None = None
        self._ends = 0.0
        self._refusals = 0

    def __repr__(self) -> str:
        return f"AppInstallation({self.label})"

    @property
    def label(self) -> str:
        token = self._token
        return (
            f"…{token.get_secret_value()[-4:]}" if token is not None else f"of app installation {self.installation_id}"
        )

    @property
    def identity(self) -> str:
        return f"installation:{self.installation_id}"

    def secret(self, now: float) -> SecretStr:
        """The present token, renewed when it is about to expire.

        Raises
        ------
        AuthenticationError
            If GitHub does not take the app's signature.
        """
        with self._lock:
            if self._token is None or now > self._ends - RENEW_BEFORE:
                # Up to a minute in the past, as GitHub advises: clocks differ.
                claims = {"iss": self.app_id, "iat": int(now) - 60, "exp": int(now) + 540}
                signed: bytes = jwt.encode(self._signer, claims)  # type: ignore[no-untyped-call]
                text, ends = self._exchange(self.installation_id, signed.decode())
                self._token, self._ends = SecretStr(text), dt.datetime.fromisoformat(ends).timestamp()
            return self._token

    def refused(self) -> bool:
        """A 401: once, the token may have been revoked, and a new one is fetched."""
        with self._lock:
            self._refusals += 1
            if self._refusals > 3:
                return False
            self._token = None
            return True


def refused_installation(installation_id: str, status: int) -> AuthenticationError:
    """What to say when GitHub does not give a token to an installation."""
    return AuthenticationError(
        f"GitHub gave no token to app installation {installation_id} (status {status}): check GITHUB_APP_ID, "
        "GITHUB_APP_INSTALLATIONS and the private key."
    )
