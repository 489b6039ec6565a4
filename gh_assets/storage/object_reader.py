"""Reading objects of Cloud Storage by pyarrow's client: several times as fast as Google's own for Python.

It verifies checksums, tries again what may be over soon, and goes on where a transfer was cut. Whose tokens it shows is
decided where Google's client decides it: by `google.auth`.
"""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import google.auth.transport.requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials, Credentials
from requests.exceptions import SSLError

from gh_assets.local.memory import check_memory

GOOGLE = "https://storage.googleapis.com"

FIRST_PART, PART = 1 << 16, 1 << 20
"""Bytes that are taken at once: most objects are small, and many are read beside one another."""

RENEWAL_MARGIN = dt.timedelta(minutes=5)
"""A token is renewed so long before it ends."""

NO_EXPIRY = dt.timedelta(days=3650)

_STATUS = re.compile(r"google::cloud::Status\((\w+): (.*?)(?: error_info=|\)$|$)", re.DOTALL)

_REASON = re.compile(r"error_info=\{reason=([^,}]+)")

_KNOWN: dict[str, type[exceptions.GoogleAPICallError]] = {
    "NOT_FOUND": exceptions.NotFound,
    "PERMISSION_DENIED": exceptions.Forbidden,
    "UNAUTHENTICATED": exceptions.Unauthorized,
    "DATA_LOSS": exceptions.DataLoss,
    "INVALID_ARGUMENT": exceptions.BadRequest,
    "FAILED_PRECONDITION": exceptions.PreconditionFailed,
}


class ObjectReader:
    """Objects of one service, for any number of threads.

    Parameters
    ----------
    credentials : google.auth.credentials.Credentials
    endpoint : str
        Address of the service: Google's, or an emulator's.
    tried_seconds : float
        How long an object is asked for that does not come; each part that arrives begins the time anew.
    """

    def __init__(self, credentials: Credentials, endpoint: str = GOOGLE, *, retry_seconds: float) -> None:
        self._credentials, self._endpoint = credentials, endpoint
        self._tried = dt.timedelta(seconds=retry_seconds)
        self._lock = threading.Lock()
        self._opened: tuple[str | None, Any] | None = None

    def read(self, bucket: str, name: str) -> bytes:
        """The content of an object, its checksum verified.

        Raises
        ------
        google.api_core.exceptions.GoogleAPICallError
            As Google's client does; `DataLoss` if what arrives does not have its checksum.
        StoredDataError
            If it is larger than the memory that one object may take.
        """
        parts, size = [], 0
        for part in self.parts(bucket, name):
            size += len(part)
            check_memory(f"gs://{bucket}/{name}", size)
            parts.append(part)
        return b"".join(parts)

    def parts(self, bucket: str, name: str) -> Iterator[bytes]:
        """The content piece by piece; an error at the end of the last one says that the checksum differs.

        Raises
        ------
        google.api_core.exceptions.GoogleAPICallError
            As Google's client does.
        """
        with self._translated():
            try:
                file = self._filesystem().open_input_stream(f"{bucket}/{name}", compression=None)
            except OSError as error:
                if _status(error)[0] != "UNAUTHENTICATED" or isinstance(self._credentials, AnonymousCredentials):
                    raise
                # Taken back before its time, or this machine's clock is wrong: once more with a new one.
                self._renew()
                file = self._filesystem().open_input_stream(f"{bucket}/{name}", compression=None)
            with file:
                size = FIRST_PART
                while part := file.read(size):
                    yield part
                    size = PART

    def _filesystem(self) -> Any:
        """The client for the token that holds now."""
        from pyarrow.fs import GcsFileSystem  # takes a while to load

        with self._lock:
            token = self._token()
            if self._opened is None or self._opened[0] != token:
                address = urlsplit(self._endpoint)
                options: dict[str, Any] = {"anonymous": True}
                if token is not None:
                    expiry = dt.datetime.now(dt.UTC) + NO_EXPIRY
                    options = {"access_token": token, "credential_token_expiration": expiry}
                if self._endpoint != GOOGLE:
                    options |= {"endpoint_override": f"{address.netloc}{address.path}".rstrip("/")}
                    options |= {"scheme": address.scheme}
                self._opened = token, GcsFileSystem(**options, retry_time_limit=self._tried)
            return self._opened[1]

    def _token(self) -> str | None:
        credentials = self._credentials
        if isinstance(credentials, AnonymousCredentials):
            return None
        expiry = credentials.expiry  # naive, in UTC
        soon = expiry is not None and expiry.replace(tzinfo=dt.UTC) - dt.datetime.now(dt.UTC) < RENEWAL_MARGIN
        if credentials.token is None or soon:
            self._renew()
        return str(credentials.token)

    def _renew(self) -> None:
        self._credentials.refresh(google.auth.transport.requests.Request())  # type: ignore[no-untyped-call]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Arrow's errors as those of Google's client."""
        import pyarrow as pa

        try:
            yield
        except FileNotFoundError as error:
            raise exceptions.NotFound(_status(error)[1]) from error  # type: ignore[no-untyped-call]
        except (OSError, pa.ArrowException) as error:
            code, message = _status(error)
            if "CURL error [60]" in message or "CURL error [77]" in message:  # no known authority has signed it
                raise SSLError(f"CERTIFICATE_VERIFY_FAILED: {message}") from error
            reason = _REASON.search(str(error))
            errors = [{"reason": reason[1]}] if reason else []
            raise _KNOWN.get(code, exceptions.ServiceUnavailable)(message, errors) from error


def _status(error: BaseException) -> tuple[str, str]:
    """Code and message of what the client says, without the address and the rest."""
    found = _STATUS.search(str(error))
    if found is None:
        return "", type(error).__name__
    message = re.sub(r"^(Permanent error|Retry policy exhausted)(, with a last message of | in \w+: )", "", found[2])
    return found[1], message.strip()
