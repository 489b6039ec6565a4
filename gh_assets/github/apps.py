"""Tokens of GitHub App installations: which expire after an hour and are renewed with the app's private key.

Source: docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app.
"""

import datetime as dt
import threading

import orjson
import requests
from google.auth import jwt
from google.auth.crypt import RSASigner
from pydantic import SecretStr

from gh_assets.errors import AuthenticationError, ConfigurationError, ServiceUnavailableError
from gh_assets.github.responses import JSON
from gh_assets.github.transport import Request, Transport

RENEW_BEFORE = 300.0
"""Seconds before its expiry at which a token is renewed: longer than any request takes."""


class AppInstallation:
    """The credential of one installation of a GitHub App.

    Parameters
    ----------
    app_id : str
        The app's id or client id.
    installation_id : str
    private_key : SecretStr
        The app's private key, PEM.
    transport : Transport

    Raises
    ------
    ConfigurationError
        If the key is not an RSA private key.
    """

    def __init__(self, app_id: str, installation_id: str, private_key: SecretStr, transport: Transport) -> None:
        try:
            self._signer = RSASigner.from_string(private_key.get_secret_value())  # type: ignore[no-untyped-call]
        except (ValueError, TypeError):
            raise ConfigurationError(
                "GITHUB_APP_PRIVATE_KEY_FILE holds no RSA private key in PEM form: download one from the app's "
                "settings."
            ) from None
        self.app_id = app_id
        self.installation_id = installation_id
        self._transport = transport
        self._lock = threading.Lock()
        self._token: SecretStr | None = None
        self._expires = 0.0
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
        """Return the current token, renewed if it is about to expire.

        Raises
        ------
        AuthenticationError
            If GitHub rejects the app's signature.
        """
        with self._lock:
            if self._token is None or now > self._expires - RENEW_BEFORE:
                # A minute in the past, as GitHub advises, since clocks differ.
                claims = {"iss": self.app_id, "iat": int(now) - 60, "exp": int(now) + 540}
                signed: bytes = jwt.encode(self._signer, claims)  # type: ignore[no-untyped-call]
                text, expiry = self._request_token(signed.decode())
                self._token, self._expires = SecretStr(text), dt.datetime.fromisoformat(expiry).timestamp()
            return self._token

    def on_unauthorized(self) -> bool:
        """Handle a 401 response: the token may have been revoked, so a new one is requested, up to three times."""
        with self._lock:
            self._refusals += 1
            if self._refusals > 3:
                return False
            self._token = None
            return True

    def _request_token(self, signed: str) -> tuple[str, str]:
        """Request a token (``POST /app/installations/{id}/access_tokens``); return it and its expiry (ISO 8601).

        Parameters
        ----------
        signed : str
            The app's JWT.

        Raises
        ------
        ServiceUnavailableError
            If GitHub cannot be reached.
        AuthenticationError
            If it gives no token.
        """
        server, installation = self._transport.api_url, f"app installation {self.installation_id}"
        url = f"{server}/app/installations/{self.installation_id}/access_tokens"
        try:
            response = self._transport.send(Request("POST", url, {"accept": JSON}, body=b""), signed)
            payload = orjson.loads(response.content) if response.status_code == 201 else None
        except (requests.RequestException, orjson.JSONDecodeError) as error:
            raise ServiceUnavailableError(
                f"GitHub at {server} gave no token to {installation} ({type(error).__name__}). Check GITHUB_API_URL "
                "and the network, then run again."
            ) from None
        if payload is None:
            raise AuthenticationError(
                f"GitHub gave no token to {installation} (status {response.status_code}): check GITHUB_APP_ID, "
                "GITHUB_APP_INSTALLATIONS and the private key."
            )
        return str(payload["token"]), str(payload["expires_at"])
