"""Objects in Google Cloud Storage: read, replaced in one step, listed. Knows neither Dagster nor what is in them.

An upload becomes visible as a whole or not at all, and carries its crc32c, which Google checks on arrival and we on
reading. Retries follow Google's own policy. `if_generation` makes a write conditional on what it replaces.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

import google_crc32c
import requests.adapters
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import (
    Conflict,
    Forbidden,
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
    RetryError,
    Unauthorized,
)
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY
from google.oauth2.credentials import Credentials
from pydantic import SecretStr

from gh_assets.errors import (
    AuthenticationError,
    ConcurrentWriteError,
    ConfigurationError,
    ServiceUnavailableError,
    StoredDataError,
)
from gh_assets.wire import Download, Wire, encoded

RETRY_SECONDS = 60.0
"""How long one operation is tried for."""

CHUNK = 1 << 20

ABSENT = 0
"""The generation of an object that does not exist: as a precondition, only create."""


def make_client(
    project: str | None = None,
    endpoint: str | None = None,
    token: SecretStr | None = None,
    connections: int = 16,
) -> storage.Client:
    """A client of the real service (with Google's own credentials), or of the server at `endpoint`.

    Parameters
    ----------
    project, endpoint : str, optional
    token : SecretStr, optional
        What the server at `endpoint` wants to see; None: nothing.
    connections : int
        Kept open.

    Raises
    ------
    ConfigurationError
        If there are no credentials.
    """
    try:
        if endpoint is None:
            client = storage.Client(project=project)
        else:
            client = storage.Client(
                project=project or "gh-assets",
                credentials=_credentials(token),
                client_options=ClientOptions(api_endpoint=endpoint),
            )
    except (GoogleAuthError, OSError) as error:
        raise ConfigurationError(
            f"Google Cloud Storage has no usable credentials: {error} Set GOOGLE_APPLICATION_CREDENTIALS, or unset "
            "GCS_BUCKET to use the embedded server."
        ) from error
    adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=connections)
    for scheme in ("http://", "https://"):
        client._http.mount(scheme, adapter)
    return client


def _credentials(token: SecretStr | None) -> AnonymousCredentials | Credentials:
    if token is None:
        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    return Credentials(token.get_secret_value())  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class StoredObject:
    """An object as the bucket describes it."""

    bucket: str
    name: str
    generation: int
    size: int
    crc32c: str
    metadata: Mapping[str, str]
    created: dt.datetime | None = None

    @property
    def uri(self) -> str:
        return f"gs://{self.bucket}/{self.name}"


@dataclass(frozen=True)
class Digest:
    """What a file's bytes are."""

    sha256: str
    crc32c: str
    size: int


class ObjectStore:
    """One bucket.

    Parameters
    ----------
    client : google.cloud.storage.Client
    bucket : str
    create : bool
        Make the bucket when something is written and it does not exist (on the embedded server).
    """

    def __init__(self, client: storage.Client, bucket: str, *, create: bool = False) -> None:
        self.client = client
        self.bucket = client.bucket(bucket)
        self._retry = DEFAULT_RETRY.with_timeout(RETRY_SECONDS)
        self._create = create
        self._wire = wire_of(client)

    @property
    def name(self) -> str:
        return str(self.bucket.name)

    def uri(self, name: str) -> str:
        return f"gs://{self.name}/{name}"

    def page(self, name: str) -> str | None:
        """Where a person sees an object (or a folder, if the name ends in ``/``): Google's console. None: embedded."""
        if urlsplit(self._wire.address).hostname != "storage.googleapis.com":
            return None
        kind = "browser" if name.endswith("/") else "browser/_details"
        return f"https://console.cloud.google.com/storage/{kind}/{quote(self.name)}/{quote(name)}"

    def write(
        self,
        name: str,
        content: bytes | Path,
        *,
        if_generation: int | None = None,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "application/octet-stream",
    ) -> StoredObject:
        """Create or replace an object in one step.

        Parameters
        ----------
        name : str
        content : bytes or Path
            A file is streamed.
        if_generation : int, optional
            The generation that is to be replaced; `ABSENT`: only if there is none.

        Raises
        ------
        ConcurrentWriteError
            If the object has another generation: somebody else wrote it.
        ServiceUnavailableError, AuthenticationError, ConfigurationError
            If the bucket cannot be reached, refuses us, or does not exist.
        """

        def upload() -> StoredObject:
            if isinstance(content, bytes):
                answer = self._retry(self._wire.upload)(
                    self.name,
                    name,
                    content,
                    content_type=content_type,
                    metadata=metadata or {},
                    if_generation=if_generation,
                )
                return _stated(self.name, answer)
            blob = self.bucket.blob(name)
            blob.metadata = dict(metadata or {}) or None
            blob.upload_from_filename(
                str(content),
                if_generation_match=if_generation,
                checksum="crc32c",
                retry=self._retry,
                content_type=content_type,
            )
            return _described(blob)

        with _explained(self.uri(name), writing=True):
            try:
                return upload()
            except NotFound:
                if not self._create:
                    raise
                self._make_bucket()
                return upload()

    def _make_bucket(self) -> None:
        with suppress(Conflict):  # another process made it meanwhile
            self.bucket.create(retry=self._retry)

    def read(self, name: str) -> bytes:
        """The content of an object, its checksum verified.

        Raises
        ------
        StoredDataError
            If there is no such object, or what arrives does not have its checksum.
        """
        with _explained(self.uri(name)):
            content: bytes = self._retry(self._wire.download)(self.name, name)
        return content

    def read_to(self, name: str, path: Path, *, generation: int | None = None) -> str:
        """Stream an object into a file, its checksum verified; gives the SHA-256 of what arrived, in hexadecimal."""
        with _explained(self.uri(name)), path.open("wb", buffering=0) as file:
            sha256: str = self._retry(Download(self._wire, self.name, name, file, generation))()
            return sha256

    @contextmanager
    def open_elsewhere(self, bucket: str, name: str) -> Iterator[IO[bytes]]:
        """Stream an object of any bucket that the same credentials may read."""
        with _explained(f"gs://{bucket}/{name}"), self.client.bucket(bucket).blob(name).open("rb") as file:
            yield file

    def describe(self, name: str) -> StoredObject | None:
        """What the bucket knows of an object; None if there is none."""
        with _explained(self.uri(name)):
            try:
                return _stated(self.name, self._retry(self._wire.describe)(self.name, name))
            except NotFound:
                return None

    def copy(
        self,
        source: StoredObject,
        name: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_generation: int | None = None,
    ) -> None:
        """Copy an object of this bucket under another name, without its bytes coming here.

        Parameters
        ----------
        source : StoredObject
        name : str
        metadata : mapping of str to str, optional
            Of the copy; by default those of the source.
        if_generation : int, optional
            The generation that is to be replaced; `ABSENT`: only if there is none.

        Raises
        ------
        StoredDataError
            If it is not there any more.
        ConcurrentWriteError
            If the object of that name has another generation.
        """
        with _explained(source.uri):
            self._retry(self._wire.copy)(
                self.name, source.name, name, source.generation, metadata=metadata, if_generation=if_generation
            )

    def delete(self, name: str, *, if_generation: int | None = None) -> None:
        """Delete an object; one that is not there is no error: somebody else may have deleted it.

        Raises
        ------
        ConcurrentWriteError
            If it has another generation than `if_generation` (the embedded server does not look at it).
        """
        with _explained(self.uri(name), writing=True):
            try:
                self.bucket.blob(name).delete(if_generation_match=if_generation, retry=self._retry)
            except NotFound:
                return

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """The objects whose names begin with `prefix`, in order of their names."""
        with _explained(self.uri(prefix), writing=True):
            try:
                for blob in self.client.list_blobs(self.bucket, prefix=prefix, retry=self._retry):
                    yield _described(blob)
            except NotFound:
                if not self._create:  # else nothing was written yet
                    raise

    def names(self, prefix: str) -> Iterator[str]:
        """Their names."""
        return (found.name for found in self.list(prefix))


def wire_of(client: storage.Client) -> Wire:
    """The wire of a client: one for all stores, so that connections are shared."""
    found = getattr(client, "_gh_assets_wire", None)
    if not isinstance(found, Wire):
        found = Wire(client)
        client._gh_assets_wire = found
    return found


def _stated(bucket: str, answer: Mapping[str, Any]) -> StoredObject:
    created = dt.datetime.fromisoformat(answer["timeCreated"])
    place = bucket, str(answer["name"]), int(answer["generation"]), int(answer["size"])
    return StoredObject(*place, str(answer["crc32c"]), dict(answer.get("metadata") or {}), created)


def _described(blob: storage.Blob) -> StoredObject:
    return StoredObject(
        blob.bucket.name,
        blob.name,
        int(blob.generation),
        int(blob.size),
        str(blob.crc32c),
        dict(blob.metadata or {}),
        blob.time_created,
    )


def digest_of(path: Path) -> Digest:
    """Checksums of a file, in one pass."""
    sha256, crc32c, size = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
            crc32c = google_crc32c.extend(crc32c, chunk)
            size += len(chunk)
    return Digest(sha256.hexdigest(), encoded(crc32c), size)


class _explained:  # noqa: N801 - used as a statement
    """Turns the client's exceptions into ours, which say what to do."""

    def __init__(self, uri: str, *, writing: bool = False) -> None:
        self.uri = uri
        self.writing = writing

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        if isinstance(error, (PreconditionFailed, Conflict)):
            raise ConcurrentWriteError(f"{self.uri} was written by another process meanwhile. Run again.") from error
        if isinstance(error, NotFound):
            if self.writing:  # only the bucket can be what is not there
                raise ConfigurationError(f"The bucket of {self.uri} does not exist: create it.") from error
            raise StoredDataError(f"There is no object {self.uri}.") from error
        if isinstance(error, (Forbidden, Unauthorized, GoogleAuthError)):
            raise AuthenticationError(
                f"Google Cloud Storage refused access to {self.uri}. Give the account the role "
                "'Storage Object Admin' on the bucket."
            ) from error
        if isinstance(error, DataCorruption):
            raise StoredDataError(f"{self.uri} arrived damaged: its checksum does not match.") from error
        if isinstance(error, (GoogleAPICallError, RetryError, requests.RequestException, ConnectionError)):
            raise ServiceUnavailableError(
                f"Google Cloud Storage did not serve {self.uri} ({type(error).__name__}). Run again: nothing is lost."
            ) from error
