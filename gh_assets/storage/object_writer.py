"""Write small objects of Cloud Storage, each by one request of urllib3, in half the time of Google's client.

Session, connections, credentials, proxy and certificate authorities are those of Google's client.
"""

import base64
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import google.auth.transport.requests
import google_crc32c
import orjson
import requests
import urllib3
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession

SECONDS = 60.0
"""Timeout of a connection, and of each wait for data, as in Google's client."""


class ObjectWriter:
    """A thread-safe writer of small objects.

    Parameters
    ----------
    session : google.auth.transport.requests.AuthorizedSession
        Its proxies and certificate authorities are resolved once.
    endpoint : str
        Base address of the service.
    """

    def __init__(self, session: AuthorizedSession, endpoint: str) -> None:
        self._credentials = session.credentials
        self._refresh = google.auth.transport.requests.Request()
        address = requests.Request("POST", f"{endpoint}/upload/storage/v1/b/").prepare()
        adapter: Any = session.get_adapter(endpoint)
        self._url = adapter.request_url(address, session.proxies)  # with the host only for a proxy that needs it
        self._pool = adapter.get_connection_with_tls_context(address, session.verify, session.proxies, session.cert)

    def write(
        self,
        bucket: str,
        name: str,
        content: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        if_generation: int | None,
    ) -> dict[str, Any]:
        """Create or replace an object atomically.

        Returns
        -------
        dict
            Google's description of the object.

        Raises
        ------
        google.api_core.exceptions.GoogleAPICallError, google.auth.exceptions.GoogleAuthError
        requests.exceptions.RequestException
            As Google's client does.
        """
        query: dict[str, str] = {"uploadType": "multipart"}
        if if_generation is not None:
            query["ifGenerationMatch"] = str(if_generation)
        crc32c = base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()  # verified on arrival
        properties: dict[str, Any] = {"name": name, "contentType": content_type, "crc32c": crc32c}
        properties |= {"metadata": dict(metadata)} if metadata else {}
        boundary = secrets.token_hex(16)
        body = b"".join(
            (
                f"--{boundary}\r\ncontent-type: application/json\r\n\r\n".encode(),
                orjson.dumps(properties),
                f"\r\n--{boundary}\r\ncontent-type: {content_type}\r\n\r\n".encode(),
                content,
                f"\r\n--{boundary}--\r\n".encode(),
            )
        )
        url = f"{self._url}{quote(bucket)}/o?{urlencode(query)}"
        headers = {"content-type": f"multipart/related; boundary={boundary}"}
        response = self._send(url, body, headers)
        if response.status == 401 and not isinstance(self._credentials, AnonymousCredentials):
            # The token was revoked before its expiry, or this machine's clock is wrong.
            self._credentials.refresh(self._refresh)
            response = self._send(url, body, headers)
        if response.status != 200:
            raise _refusal(response)
        resource: dict[str, Any] = orjson.loads(response.data)
        return resource

    def _send(self, url: str, body: bytes, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        headers = dict(headers)
        self._credentials.before_request(self._refresh, "POST", url, headers)
        try:
            response: urllib3.BaseHTTPResponse = self._pool.urlopen(
                "POST", url, body, headers, retries=False, assert_same_host=False, timeout=SECONDS
            )
        except urllib3.exceptions.SSLError as error:
            raise requests.exceptions.SSLError(error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise requests.exceptions.ConnectionError(type(error).__name__) from error
        return response


def _refusal(response: urllib3.BaseHTTPResponse) -> exceptions.GoogleAPICallError:
    """Return the error of a response, with Google's message and reasons if it has them."""
    message, reasons = "", []
    try:
        error = orjson.loads(response.data)["error"]
        message, reasons = error.get("message", ""), error.get("errors", [])
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        pass  # not Google's response, but the page of a proxy
    return exceptions.from_http_status(response.status, message, errors=reasons)  # type: ignore[no-untyped-call, no-any-return]
