"""Objects in Google Cloud Storage: read, replace atomically, copy, list and delete, whatever their content.

An upload becomes visible as a whole or not at all. It carries its CRC32C, which Cloud Storage verifies on arrival and
this module on reading. Retries follow Google's policy. `if_generation` makes a write conditional on what it replaces.
"""

import base64
import datetime as dt
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote

import google.auth
import google_crc32c
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import Conflict, DataLoss, NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY
from google.oauth2.credentials import Credentials as TokenCredentials
from pydantic import SecretStr

from gh_assets.errors import ConfigurationError
from gh_assets.storage.gcs_errors import is_retryable, is_truncated, translated_errors
from gh_assets.storage.google_internals import configure_session
from gh_assets.storage.object_reader import GOOGLE, ObjectReader
from gh_assets.storage.object_writer import ObjectWriter

RETRY_SECONDS = 45.0
"""Seconds during which a request is retried; a large file takes several requests."""

SMALL = 8 << 20
"""Bytes up to which an object is written by one request."""

UPLOAD_CHUNK = 16 << 20
"""Bytes of a file per upload request: an interrupted upload resumes after the last complete one."""

CHUNK = 1 << 20

Result = TypeVar("Result")

Metadata = Mapping[str, str]

ABSENT = 0
"""Generation of an object that does not exist; as a precondition, it means "create only"."""


class CloudStorageClient(storage.Client):  # type: ignore[misc]
    """Google's client, with a reader and a writer that are faster, by the same credentials.

    Parameters
    ----------
    credentials : google.auth.credentials.Credentials
    project : str or None
    endpoint : str, optional
        Base address of a service other than Google's.
    connections : int
        Number of connections that are kept open.
    """

    def __init__(
        self, credentials: Credentials, project: str | None, endpoint: str | None = None, connections: int = 16
    ) -> None:
        options = None if endpoint is None else ClientOptions(api_endpoint=endpoint)
        super().__init__(project, credentials, client_options=options)
        self.reader = ObjectReader(credentials, self.api_endpoint, retry_seconds=RETRY_SECONDS)
        self.writer = ObjectWriter(configure_session(self, connections), self.api_endpoint)


def make_client(
    project: str | None = None, endpoint: str | None = None, token: SecretStr | None = None, connections: int = 16
) -> CloudStorageClient:
    """Create a client of Google's service, with its default credentials, or of the server at `endpoint`.

    Parameters
    ----------
    project, endpoint : str, optional
        Google's variable for emulators, ``STORAGE_EMULATOR_HOST``, is the default of `endpoint`.
    token : SecretStr, optional
        Bearer token for the server at `endpoint`; None for anonymous access.
    connections : int
        Number of connections that are kept open.

    Raises
    ------
    ConfigurationError
        If there are no credentials.
    """
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if endpoint is None and emulator:
        endpoint = emulator if "://" in emulator else f"http://{emulator}"
    if endpoint is not None:
        return CloudStorageClient(_credentials(token), project or "gh-assets", endpoint, connections)
    try:
        credentials, default_project = google.auth.default(scopes=storage.Client.SCOPE)
    except (GoogleAuthError, OSError) as error:
        raise ConfigurationError(
            f"Google Cloud Storage has no usable credentials: {error} Set GOOGLE_APPLICATION_CREDENTIALS, or unset "
            "GCS_BUCKET to use the embedded server."
        ) from error
    return CloudStorageClient(credentials, project or default_project, connections=connections)


def _credentials(token: SecretStr | None) -> Credentials:
    if token is None:
        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    return TokenCredentials(token.get_secret_value())  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class StoredObject:
    """The bucket's description of an object."""

    bucket: str
    name: str
    generation: int
    size: int
    crc32c: str
    metadata: Metadata
    created: dt.datetime | None = None
    content_type: str | None = None

    @property
    def uri(self) -> str:
        return f"gs://{self.bucket}/{self.name}"


@dataclass(frozen=True)
class Digest:
    """Checksums and size of a file."""

    sha256: str
    crc32c: str
    size: int


class ObjectStore:
    """One bucket.

    Parameters
    ----------
    client : CloudStorageClient
    bucket : str
    create : bool
        Whether the first write creates a missing bucket (on the embedded server).
    """

    def __init__(self, client: CloudStorageClient, bucket: str, *, create: bool = False) -> None:
        self.client, self.name, self.bucket = client, bucket, client.bucket(bucket)
        self._retry = DEFAULT_RETRY.with_predicate(is_retryable).with_timeout(RETRY_SECONDS)
        self._create = create

    def uri(self, name: str) -> str:
        return f"gs://{self.name}/{name}"

    def page(self, name: str) -> str | None:
        """Return the address of an object, or of a folder ending in ``/``, in Google's console; None if embedded."""
        if self.client.api_endpoint != GOOGLE:
            return None
        kind = "browser" if name.endswith("/") else "browser/_details"
        return f"https://console.cloud.google.com/storage/{kind}/{quote(self.name)}/{quote(name)}"

    def write(
        self,
        name: str,
        content: bytes | Path,
        *,
        if_generation: int | None = None,
        metadata: Metadata | None = None,
        content_type: str = "application/octet-stream",
    ) -> StoredObject:
        """Create or replace an object atomically.

        Parameters
        ----------
        name : str
        content : bytes or Path
            A file is streamed.
        if_generation : int, optional
            The generation to replace, or `ABSENT` to create only.
        metadata : mapping of str to str, optional
        content_type : str

        Raises
        ------
        ConcurrentWriteError
            If the object has another generation, written by another process. An object that already has this content
            and metadata is a success: an earlier attempt may have written it although its response was lost.
        ServiceUnavailableError, AuthenticationError, ConfigurationError
            If the bucket cannot be reached, denies access, or does not exist.
        """

        def upload() -> StoredObject:
            if isinstance(content, bytes) and len(content) <= SMALL:
                write = self._retry(self.client.writer.write)
                return _of_resource(write(self.name, name, content, content_type, metadata or {}, if_generation))
            blob = self.bucket.blob(name)
            if metadata:
                blob.metadata = dict(metadata)
            options: dict[str, Any] = {"content_type": content_type, "if_generation_match": if_generation}
            options |= {"checksum": "crc32c", "retry": self._retry}
            if isinstance(content, bytes):
                blob.upload_from_string(content, **options)
            else:
                blob.chunk_size = UPLOAD_CHUNK
                blob.upload_from_filename(str(content), **options)
            return _described(blob)

        with translated_errors(self.uri(name), writing=True):
            try:
                return self._stored(upload)
            except PreconditionFailed:
                size = len(content) if isinstance(content, bytes) else content.stat().st_size
                stored = self._present(name, size, checksum(content), metadata or {})
                if stored is None:
                    raise
                return stored

    def _stored(self, upload: Callable[[], StoredObject]) -> StoredObject:
        """Upload, and create the bucket if it is missing."""
        # Google's client parses the response outside of its own retries.
        retried: Callable[[], StoredObject] = self._retry.with_predicate(is_truncated)(upload)
        try:
            return retried()
        except NotFound:
            if not self._create:
                raise
            with suppress(Conflict):  # another process created it
                self.bucket.create(retry=self._retry)
            return retried()

    def _present(self, name: str, size: int, crc32c: str, metadata: Metadata) -> StoredObject | None:
        """Return the object if it is what a refused write would have made it: an earlier attempt succeeded."""
        stored = self.describe(name)
        if stored is None or (stored.size, stored.crc32c) != (size, crc32c):
            return None
        return stored if metadata.items() <= stored.metadata.items() else None

    def read(self, name: str) -> bytes:
        """Read the content of an object and verify its checksum.

        Raises
        ------
        StoredDataError
            If there is no such object, or its checksum does not match.
        """
        with translated_errors(self.uri(name)):
            return _retry_if_damaged(lambda: self.client.reader.read(self.name, name))

    def read_to(self, name: str, path: Path) -> str:
        """Stream an object into a file and verify its checksum; return its SHA-256 in hexadecimal."""

        def fetch() -> str:
            sha256 = hashlib.sha256()
            with path.open("wb") as file:
                for part in self.client.reader.parts(self.name, name):
                    file.write(part)
                    sha256.update(part)
            return sha256.hexdigest()

        with translated_errors(self.uri(name)):
            return _retry_if_damaged(fetch)

    @contextmanager
    def open_in_bucket(self, bucket: str, name: str) -> Iterator[IO[bytes]]:
        """Open an object of any bucket that the client's credentials can read, as a stream."""
        with translated_errors(f"gs://{bucket}/{name}"), self.client.bucket(bucket).blob(name).open("rb") as file:
            yield file

    def describe(self, name: str) -> StoredObject | None:
        """Return the description of an object, or None if it does not exist."""
        with translated_errors(self.uri(name)):
            blob = self.bucket.get_blob(name, retry=self._retry)
            return None if blob is None else _described(blob)

    def copy(
        self, source: StoredObject, name: str, *, metadata: Metadata | None = None, if_generation: int | None = None
    ) -> None:
        """Copy an object of this bucket to another name, on the server.

        Parameters
        ----------
        source : StoredObject
        name : str
        metadata : mapping of str to str, optional
            Metadata of the copy; by default those of the source.
        if_generation : int, optional
            The generation to replace, or `ABSENT` to create only.

        Raises
        ------
        StoredDataError
            If the source does not exist any more.
        ConcurrentWriteError
            If the target has another generation.
        """
        with translated_errors(source.uri):
            original, target = self.bucket.blob(source.name, generation=source.generation), self.bucket.blob(name)
            target.content_type = source.content_type
            target.metadata = dict(source.metadata if metadata is None else metadata)
            token: str | None = ""
            try:
                while token is not None:  # a large object that changes its storage class takes several calls
                    token, _, _ = target.rewrite(
                        original, token=token or None, if_generation_match=if_generation, retry=self._retry
                    )
            except PreconditionFailed:
                if self._present(name, source.size, source.crc32c, target.metadata) is None:
                    raise

    def delete(self, name: str, *, if_generation: int | None = None) -> None:
        """Delete an object, if it exists.

        Raises
        ------
        ConcurrentWriteError
            If it has another generation than `if_generation`.
        """
        with translated_errors(self.uri(name)), suppress(NotFound):
            self.bucket.blob(name).delete(if_generation_match=if_generation, retry=self._retry)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects whose names begin with `prefix`, sorted by name."""
        with translated_errors(self.uri(prefix), writing=True):
            try:
                for blob in self.client.list_blobs(self.bucket, prefix=prefix, retry=self._retry):
                    yield _described(blob)
            except NotFound:
                if not self._create:  # otherwise the first write is still to come
                    raise

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names of the objects that `list` yields."""
        return (stored.name for stored in self.list(prefix))


def _retry_if_damaged(read: Callable[[], Result]) -> Result:
    """Read again after a checksum error, once: damage in transit is temporary, damage in the bucket is not."""
    try:
        return read()
    except DataLoss:
        return read()


def _described(blob: storage.Blob) -> StoredObject:
    generation, size, metadata = int(blob.generation), int(blob.size), dict(blob.metadata or {})
    properties = str(blob.crc32c), metadata, blob.time_created, blob.content_type
    return StoredObject(blob.bucket.name, blob.name, generation, size, *properties)


def _of_resource(resource: Mapping[str, Any]) -> StoredObject:
    """Return an object from Google's description of it."""
    generation, size, metadata = int(resource["generation"]), int(resource["size"]), resource.get("metadata", {})
    created = dt.datetime.fromisoformat(resource["timeCreated"])
    properties = resource["crc32c"], metadata, created, resource.get("contentType")
    return StoredObject(resource["bucket"], resource["name"], generation, size, *properties)


def checksum(content: bytes | Path) -> str:
    """Return the CRC32C of bytes or of a file in base64, the form of Cloud Storage."""
    return _encoded(google_crc32c.value(content)) if isinstance(content, bytes) else digest_of(content).crc32c


def _encoded(crc32c: int) -> str:
    return base64.b64encode(crc32c.to_bytes(4, "big")).decode()


def digest_of(path: Path) -> Digest:
    """Compute the checksums of a file in one pass."""
    sha256, crc32c, size = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
            crc32c = google_crc32c.extend(crc32c, chunk)
            size += len(chunk)
    return Digest(sha256.hexdigest(), _encoded(crc32c), size)
