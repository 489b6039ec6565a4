"""Read objects of Cloud Storage by pyarrow's client, which is several times faster than Google's client for Python.

pyarrow verifies checksums, retries temporary failures, and resumes interrupted transfers. The credentials are those of
`google.auth`, as for Google's client.
"""

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
"""Bytes per read, the first and the following: most objects are small, and many are read concurrently."""

RENEWAL_MARGIN = dt.timedelta(minutes=5)
"""Time before its expiry at which a token is renewed."""

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
    """A thread-safe reader of the objects of one service.

    Parameters
    ----------
    credentials : google.auth.credentials.Credentials
    endpoint : str
        Base address of the service.
    retry_seconds : float
        Seconds during which a read without progress is retried.
    """

    def __init__(self, credentials: Credentials, endpoint: str = GOOGLE, *, retry_seconds: float) -> None:
        self._credentials, self._endpoint = credentials, endpoint
        self._retry_limit = dt.timedelta(seconds=retry_seconds)
        self._lock = threading.Lock()
        self._opened: tuple[str | None, Any] | None = None

    def read(self, bucket: str, name: str) -> bytes:
        """Read the content of an object and verify its checksum.

        Raises
        ------
        google.api_core.exceptions.GoogleAPICallError
            As Google's client does; `DataLoss` if the checksum does not match.
        StoredDataError
            If the content exceeds the memory that one object may take.
        """
        parts, size = [], 0
        for part in self.parts(bucket, name):
            size += len(part)
            check_memory(f"gs://{bucket}/{name}", size)
            parts.append(part)
        return b"".join(parts)

    def parts(self, bucket: str, name: str) -> Iterator[bytes]:
        """Yield the content in parts; the checksum is verified at the end.

        Raises
        ------
        google.api_core.exceptions.GoogleAPICallError
            As Google's client does; `DataLoss`, after the last part, if the checksum does not match.
        """
        with self._translated():
            try:
                file = self._filesystem().open_input_stream(f"{bucket}/{name}", compression=None)
            except OSError as error:
                if _status(error)[0] != "UNAUTHENTICATED" or isinstance(self._credentials, AnonymousCredentials):
                    raise
                # The token was revoked before its expiry, or this machine's clock is wrong.
                self._renew()
                file = self._filesystem().open_input_stream(f"{bucket}/{name}", compression=None)
            with file:
                size = FIRST_PART
                while part := file.read(size):
                    yield part
                    size = PART

    def _filesystem(self) -> Any:
        """Return the client for the current token."""
        from pyarrow.fs import GcsFileSystem  # slow to import

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
                self._opened = token, GcsFileSystem(**options, retry_time_limit=self._retry_limit)
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
        """Raise pyarrow's errors as those of Google's client."""
        import pyarrow as pa

        try:
            yield
        except FileNotFoundError as error:
            raise exceptions.NotFound(_status(error)[1]) from error  # type: ignore[no-untyped-call]
        except (OSError, pa.ArrowException) as error:
            code, message = _status(error)
            if "CURL error [60]" in message or "CURL error [77]" in message:  # an untrusted certificate
                raise SSLError(f"CERTIFICATE_VERIFY_FAILED: {message}") from error
            reason = _REASON.search(str(error))
            errors = [{"reason": reason[1]}] if reason else []
            raise _KNOWN.get(code, exceptions.ServiceUnavailable)(message, errors) from error


def _status(error: BaseException) -> tuple[str, str]:
    """Return code and message of a pyarrow error, without the address and other details."""
    status = _STATUS.search(str(error))
    if status is None:
        return "", type(error).__name__
    message = re.sub(r"^(Permanent error|Retry policy exhausted)(, with a last message of | in \w+: )", "", status[2])
    return status[1], message.strip()
