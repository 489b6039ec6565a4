"""Objects in Google Cloud Storage: read, replaced in one step, listed. Knows neither Dagster nor what is in them.

An upload becomes visible as a whole or not at all, and carries its crc32c, which Google checks on arrival and we on
reading. Retries follow Google's own policy. `if_generation` makes a write conditional on what it replaces.
"""

from __future__ import annotations

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
import requests.adapters
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import (
    ClientError,
    Conflict,
    DataLoss,
    Forbidden,
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
    RetryError,
    TooManyRequests,
    Unauthorized,
)
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY
from google.oauth2.credentials import Credentials as TokenCredentials
from pydantic import SecretStr

from gh_assets.errors import (
    AuthenticationError,
    ConcurrentWriteError,
    ConfigurationError,
    ServiceUnavailableError,
    StoredDataError,
)
from gh_assets.local.network import UNTRUSTED_HELP, is_untrusted
from gh_assets.storage.object_reader import GOOGLE, ObjectReader

RETRY_SECONDS = 45.0
"""How long one request is tried for; a file goes in several."""

UPLOADED_AT_ONCE = 16 << 20
"""Bytes of a file in a request: what has arrived is not sent again."""

CHUNK = 1 << 20

Result = TypeVar("Result")

ABSENT = 0
"""The generation of an object that does not exist: as a precondition, only create."""


class CloudStorageClient(storage.Client):  # type: ignore[misc]
    """Google's client, and beside it what reads many objects fast; both show the same tokens.

    Parameters
    ----------
    credentials : google.auth.credentials.Credentials
    project : str or None
    endpoint : str, optional
        Of another service than Google's.
    connections : int
        Kept open.
    """

    def __init__(
        self, credentials: Credentials, project: str | None, endpoint: str | None = None, connections: int = 16
    ) -> None:
        options = None if endpoint is None else ClientOptions(api_endpoint=endpoint)
        super().__init__(project, credentials, client_options=options)
        self.reader = ObjectReader(credentials, self.api_endpoint, retry_seconds=RETRY_SECONDS)
        adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=connections)
        session = self._http
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        # What the environment says of proxies and authorities is the same for all requests to this address; to look
        # through it for each of them, as requests would, is a fifth of what a small write costs.
        found = session.merge_environment_settings(self.api_endpoint, {}, None, None, None)
        session.proxies, session.verify, session.trust_env = found["proxies"], found["verify"], False


def make_client(
    project: str | None = None,
    endpoint: str | None = None,
    token: SecretStr | None = None,
    connections: int = 16,
) -> CloudStorageClient:
    """A client of the real service (with Google's own credentials), or of the server at `endpoint`.

    Parameters
    ----------
    project, endpoint : str, optional
        ``STORAGE_EMULATOR_HOST``, Google's own variable for emulators, stands for `endpoint`, too.
    token : SecretStr, optional
        What the server at `endpoint` wants to see; None: nothing.
    connections : int
        Kept open.

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
        credentials, own = google.auth.default(scopes=storage.Client.SCOPE)
    except (GoogleAuthError, OSError) as error:
        raise ConfigurationError(
            f"Google Cloud Storage has no usable credentials: {error} Set GOOGLE_APPLICATION_CREDENTIALS, or unset "
            "GCS_BUCKET to use the embedded server."
        ) from error
    return CloudStorageClient(credentials, project or own, connections=connections)


def _credentials(token: SecretStr | None) -> Credentials:
    if token is None:
        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    return TokenCredentials(token.get_secret_value())  # type: ignore[no-untyped-call]


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
    content_type: str | None = None

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
    client : CloudStorageClient
    bucket : str
    create : bool
        Make the bucket when something is written and it does not exist (on the embedded server).
    """

    def __init__(self, client: CloudStorageClient, bucket: str, *, create: bool = False) -> None:
        self.client = client
        self.bucket = client.bucket(bucket)
        self._retry = DEFAULT_RETRY.with_predicate(_is_retryable).with_timeout(RETRY_SECONDS)
        self._create = create

    @property
    def name(self) -> str:
        return str(self.bucket.name)

    def uri(self, name: str) -> str:
        return f"gs://{self.name}/{name}"

    def page(self, name: str) -> str | None:
        """Where a person sees an object (or a folder, if the name ends in ``/``): Google's console. None: embedded."""
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
            If the object has another generation: somebody else wrote it. What has this content and metadata already
            is ours: a retry cannot know whether it was written by an attempt whose answer was lost.
        ServiceUnavailableError, AuthenticationError, ConfigurationError
            If the bucket cannot be reached, refuses us, or does not exist.
        """

        def upload() -> StoredObject:
            blob = self.bucket.blob(name)
            if metadata:
                blob.metadata = dict(metadata)
            how: dict[str, Any] = {
                "content_type": content_type,
                "if_generation_match": if_generation,
                "checksum": "crc32c",
                "retry": self._retry,
            }
            if isinstance(content, bytes):
                blob.upload_from_string(content, **how)
            else:
                blob.chunk_size = UPLOADED_AT_ONCE
                blob.upload_from_filename(str(content), **how)
            return _described(blob)

        with _explained(self.uri(name), writing=True):
            try:
                return self._stored(upload)
            except PreconditionFailed:
                size, crc32c = _measured(content)
                found = self._present(name, size, crc32c, metadata or {})
                if found is None:
                    raise
                return found

    def _stored(self, upload: Callable[[], StoredObject]) -> StoredObject:
        """Upload, and make the bucket if it is not there."""
        # Google's client reads the answer when it has stopped trying.
        arrive: Callable[[], StoredObject] = self._retry.with_predicate(_is_truncated)(upload)
        try:
            return arrive()
        except NotFound:
            if not self._create:
                raise
            self._make_bucket()
            return arrive()

    def _present(self, name: str, size: int, crc32c: str, metadata: Mapping[str, str]) -> StoredObject | None:
        """What was to be written, if a refused attempt finds it there: an earlier attempt's answer was lost."""
        found = self.describe(name)
        if found is None or (found.size, found.crc32c) != (size, crc32c):
            return None
        return found if metadata.items() <= found.metadata.items() else None

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
            return _retry_if_damaged(lambda: self.client.reader.read(self.name, name))

    def read_to(self, name: str, path: Path) -> str:
        """Stream an object into a file, its checksum verified; gives the SHA-256 of what arrived, in hexadecimal."""

        def fetch() -> str:
            sha256 = hashlib.sha256()
            with path.open("wb") as file:
                for part in self.client.reader.parts(self.name, name):
                    file.write(part)
                    sha256.update(part)
            return sha256.hexdigest()

        with _explained(self.uri(name)):
            return _retry_if_damaged(fetch)

    @contextmanager
    def open_in_bucket(self, bucket: str, name: str) -> Iterator[IO[bytes]]:
        """Stream an object of any bucket that the same credentials may read."""
        with _explained(f"gs://{bucket}/{name}"), self.client.bucket(bucket).blob(name).open("rb") as file:
            yield file

    def describe(self, name: str) -> StoredObject | None:
        """What the bucket knows of an object; None if there is none."""
        with _explained(self.uri(name)):
            blob = self.bucket.get_blob(name, retry=self._retry)
            return None if blob is None else _described(blob)

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
            original, target = self.bucket.blob(source.name, generation=source.generation), self.bucket.blob(name)
            target.content_type = source.content_type
            target.metadata = dict(source.metadata if metadata is None else metadata)
            token: str | None = ""
            try:
                while token is not None:  # a large one between classes takes several calls
                    token, _, _ = target.rewrite(
                        original, token=token or None, if_generation_match=if_generation, retry=self._retry
                    )
            except PreconditionFailed:
                if self._present(name, source.size, source.crc32c, target.metadata) is None:
                    raise

    def delete(self, name: str, *, if_generation: int | None = None) -> None:
        """Delete an object; one that is not there is no error: somebody else may have deleted it.

        Raises
        ------
        ConcurrentWriteError
            If it has another generation than `if_generation` (the embedded server does not look at it).
        """
        with _explained(self.uri(name)):
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


def _retry_if_damaged(read: Callable[[], Result]) -> Result:
    """Read once more what arrived damaged: what the way did to it passes, and what the bucket did stays."""
    try:
        return read()
    except DataLoss:
        return read()


def _described(blob: storage.Blob) -> StoredObject:
    return StoredObject(
        blob.bucket.name,
        blob.name,
        int(blob.generation),
        int(blob.size),
        str(blob.crc32c),
        dict(blob.metadata or {}),
        blob.time_created,
        blob.content_type,
    )


def checksum(content: bytes) -> str:
    """CRC32C in base64, as Cloud Storage writes it."""
    return _encoded(google_crc32c.value(content))


def _measured(content: bytes | Path) -> tuple[int, str]:
    """Size and checksum."""
    if isinstance(content, bytes):
        return len(content), checksum(content)
    digest = digest_of(content)
    return digest.size, digest.crc32c


def _encoded(crc32c: int) -> str:
    return base64.b64encode(crc32c.to_bytes(4, "big")).decode()


def digest_of(path: Path) -> Digest:
    """Checksums of a file, in one pass."""
    sha256, crc32c, size = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
            crc32c = google_crc32c.extend(crc32c, chunk)
            size += len(chunk)
    return Digest(sha256.hexdigest(), _encoded(crc32c), size)


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
        if is_untrusted(error):
            raise ConfigurationError(
                f"The certificate on the way to {self.uri} is signed by no known authority. {UNTRUSTED_HELP}"
            ) from error
        if isinstance(error, (DataCorruption, DataLoss)):
            raise StoredDataError(f"{self.uri} arrived damaged: its checksum does not match.") from error
        if isinstance(error, (Forbidden, Unauthorized, GoogleAuthError)):
            raise AuthenticationError(f"Google Cloud Storage refused access to {self.uri}. {_reason(error)}") from error
        if isinstance(error, ClientError) and not isinstance(error, TooManyRequests):
            raise ConfigurationError(f"Google Cloud Storage refused {self.uri}. {_reason(error)}") from error
        if isinstance(error, (GoogleAPICallError, RetryError, requests.RequestException, ConnectionError)):
            raise ServiceUnavailableError(
                f"Google Cloud Storage did not serve {self.uri} ({type(error).__name__}). Run again: nothing is lost."
            ) from error


def _is_retryable(error: Exception) -> bool:
    """Whether to try again: as Google's policy has it, but no certificate becomes better by it."""
    return not is_untrusted(error) and (_is_truncated(error) or bool(DEFAULT_RETRY._predicate(error)))


def _is_truncated(error: Exception) -> bool:
    """Whether an answer arrived whose JSON is not whole."""
    return isinstance(error, requests.JSONDecodeError)


ROLE = "Give the account the role 'Storage Object Admin' on the bucket."


def _reason(error: Exception) -> str:
    """What Google says of a refusal, and what helps: a role does where one is missing, and nowhere else."""
    message, reason = str(getattr(error, "message", "") or ""), ""
    response = getattr(error, "response", None)
    try:
        stated = {"errors": getattr(error, "errors", [])} if response is None else response.json()["error"]
        message, reason = str(stated.get("message", message)), str(stated["errors"][0]["reason"])
    except (AttributeError, ValueError, KeyError, IndexError, TypeError):
        pass  # no words of Google's: a proxy's page, or an answer that was cut
    message = message.split("\n")[0][:300].rstrip(".")
    said = f"It says: {message}{f' ({reason})' if reason else ''}." if message else ""
    lacks = isinstance(error, Unauthorized | GoogleAuthError) or reason in ("", "forbidden", "insufficientPermissions")
    return f"{said} {ROLE}".strip() if lacks and "billing" not in message.lower() else said
