"""The HTTP interface: the part of Cloud Storage's JSON API that Google's client, dagster-gcp and pyarrow use.

https://cloud.google.com/storage/docs/json_api/v1. Responses and errors have the form of Google's.
"""

import datetime as dt
import hmac
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from email.utils import format_datetime
from functools import partial
from io import BytesIO
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

import google_crc32c
import orjson
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gh_assets.embedded.bucket.files import (
    BucketError,
    Draft,
    Entry,
    Files,
    Preconditions,
    encode_crc32c,
    invalid,
    not_found,
)
from gh_assets.embedded.bucket.uploads import Session, Sessions

MAX_IN_MEMORY = 128 << 20
"""Maximum bytes of an upload in one request; clients use resumable uploads for more."""

MAX_DESCRIPTION = 1 << 20
"""Maximum bytes of JSON in a request."""

PART = 1 << 20
"""Bytes of content that are processed at once."""

_HOSTS = {"127.0.0.1", "localhost"}

_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


class Call(Request):
    """A request."""

    @property
    def path(self) -> tuple[str, ...]:
        """Decoded parts of the path; the name of an object is one part, even with slashes."""
        raw = self.scope.get("raw_path") or self.scope["path"].encode()
        path = raw.split(b"?")[0].decode("ascii").strip("/")
        return tuple(unquote(part, errors="strict") for part in path.split("/"))

    @property
    def address(self) -> str:
        return f"http://{self.headers['host']}"

    def number(self, name: str) -> int | None:
        """Return an integer parameter of the query, or None."""
        try:
            return _integer(self.query_params.get(name))
        except ValueError:
            raise invalid(f"Invalid value for {name}: {self.query_params[name]!r}.") from None

    def conditions(self, prefix: str = "if") -> Preconditions:
        """Return the preconditions of the query; the prefix of those on a source is ``ifSource``."""
        names = ("GenerationMatch", "GenerationNotMatch", "MetagenerationMatch", "MetagenerationNotMatch")
        return Preconditions(*(self.number(prefix + name) for name in names))

    async def description(self) -> dict[str, Any]:
        """Read the JSON object in the body.

        Raises
        ------
        BucketError
            400 if it is not a JSON object, 413 if it is too long.
        """
        return _description(await self.content(MAX_DESCRIPTION))

    async def content(self, limit: int) -> bytes:
        """Read the body.

        Raises
        ------
        BucketError
            413 if it has more than `limit` bytes.
        """
        content = bytearray()
        async for part in self.stream():
            content += part
            if len(content) > limit:
                raise BucketError(413, "uploadTooLarge", f"More than {limit:,} bytes in one request.")
        return bytes(content)


class BucketServer:
    """The ASGI application.

    Parameters
    ----------
    files : Files
    token : str
        Bearer token that every request needs.
    """

    def __init__(self, files: Files, token: str) -> None:
        self.files = files
        self.sessions = Sessions(files.uploads)
        self._authorization = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        call = Call(scope, receive)
        try:
            self._authorize(call)
            response = await self._dispatch(call)
        except BucketError as error:
            response = _error_response(error)
        except ClientDisconnect:
            return
        except OSError as error:
            # Usually a full disk; Google's clients retry after a 503.
            response = _error_response(BucketError(503, "backendError", f"The disk: {error.strerror}."))
        await response(scope, receive, send)

    def _authorize(self, call: Call) -> None:
        """Check the token, and that the request does not come from a page in a browser.

        Raises
        ------
        BucketError
            401 or 403.
        """
        host = urlsplit(f"//{call.headers.get('host', '')}").hostname
        if host not in _HOSTS or "origin" in call.headers:
            raise BucketError(403, "forbidden", "This server is for programs of this machine only.")
        authorization = call.headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(authorization, self._authorization):
            raise BucketError(401, "required", "The request needs the bearer token of this home.")

    async def _dispatch(self, call: Call) -> Response:
        match call.path:
            case ("storage", "v1", "b"):
                return await self._buckets(call)
            case ("storage", "v1", "b", bucket):
                return await self._bucket(call, bucket)
            case ("storage", "v1", "b", bucket, "o"):
                return await self._list(call, bucket)
            case ("upload", "storage", "v1", "b", bucket, "o"):
                return await self._upload(call, bucket)
            case ("resumable", "upload", "storage", "v1", "b", bucket, "o"):
                return await self._upload(call, bucket)
            case ("storage", "v1", "b", bucket, "o", name):
                return await self._object(call, bucket, name)
            case ("download", "storage", "v1", "b", bucket, "o", name) if call.method in ("GET", "HEAD"):
                return self._content(call, bucket, name)
            case ("storage", "v1", "b", bucket, "o", name, "rewriteTo" | "copyTo" as method, "b", other, "o", target):
                return await self._copy(call, (bucket, name), (other, target), method)
            case ("storage", "v1", "b", bucket, "o", name, "compose"):
                return await self._compose(call, bucket, name)
        raise BucketError(404, "notFound", "Not Found")

    # -- buckets ---------------------------------------------------------------------------------------------------

    async def _buckets(self, call: Call) -> Response:
        if call.method == "GET":
            prefix = call.query_params.get("prefix", "")
            items = [_bucket(name, created) for name, created in self.files.buckets() if name.startswith(prefix)]
            return _json({"kind": "storage#buckets", "items": items})
        _check_method(call, "POST")
        name = (await call.description()).get("name")
        if not isinstance(name, str) or not _BUCKET_NAME.fullmatch(name):
            raise invalid(f"Invalid bucket name: {name!r}")
        return _json(_bucket(name, await run_in_threadpool(self.files.create_bucket, name)))

    async def _bucket(self, call: Call, name: str) -> Response:
        if call.method == "DELETE":
            await run_in_threadpool(self.files.delete_bucket, name)
            return Response(status_code=204)
        _check_method(call, "GET")
        return _json(_bucket(name, self.files.bucket(name)))

    # -- objects ---------------------------------------------------------------------------------------------------

    async def _list(self, call: Call, bucket: str) -> Response:
        _check_method(call, "GET")
        query = call.query_params
        prefix, delimiter, end = query.get("prefix", ""), query.get("delimiter", ""), query.get("endOffset", "")
        limit = min(call.number("maxResults") or 1000, 1000)
        items: list[dict[str, Any]] = []
        folders: dict[str, None] = {}
        last, token = "", None
        after = query.get("pageToken", "")
        for entry in self.files.entries(bucket, prefix, query.get("startOffset", ""), after):
            if end and entry.name >= end:
                break
            cut = entry.name.find(delimiter, len(prefix)) if delimiter else -1
            folder = entry.name[: cut + len(delimiter)] if cut >= 0 else None
            if folder is not None and (folder in folders or (after and after.startswith(folder))):
                last = entry.name
                continue
            if len(items) + len(folders) >= limit:
                token = last
                break
            if folder is None:
                items.append(_object(entry, call.address))
            else:
                folders[folder] = None
            last = entry.name
        listing: dict[str, Any] = {"kind": "storage#objects", "items": items, "prefixes": list(folders)}
        return _json(listing | ({} if token is None else {"nextPageToken": token}))

    async def _object(self, call: Call, bucket: str, name: str) -> Response:
        match call.method:
            case "GET" | "HEAD":
                if call.query_params.get("alt") == "media":
                    return self._content(call, bucket, name)
                entry = self.files.find(bucket, name, call.conditions(), call.number("generation"))
                return _json(_object(entry, call.address))
            case "DELETE":
                await run_in_threadpool(self.files.delete, bucket, name, call.conditions(), call.number("generation"))
                return Response(status_code=204)
            case "PATCH" | "PUT":
                properties = _properties(await call.description())
                given = bucket, name, properties, call.conditions(), call.number("generation")
                return await _written(call, partial(self.files.update, *given, whole=call.method == "PUT"))
        raise BucketError(405, "methodNotAllowed", f"Objects do not support {call.method}.")

    def _content(self, call: Call, bucket: str, name: str) -> Response:
        entry, file = self._open(call, bucket, name)
        try:
            size = file.seek(0, os.SEEK_END)  # differs from that of the entry if the file is damaged
            if size == 0 < entry.size:
                # Clients detect damage by the checksum, but do not verify it for a response without content.
                file, size = BytesIO(b"\0"), 1
            first, last, status = _range(call.headers, size)
            headers = {
                "content-type": str(entry.properties.get("contentType", "application/octet-stream")),
                "content-length": str(last - first),
                "etag": _etag(entry),
                "accept-ranges": "bytes",
                "last-modified": format_datetime(dt.datetime.fromisoformat(entry.updated), usegmt=True),
                "x-goog-generation": str(entry.generation),
                "x-goog-metageneration": str(entry.metageneration),
                "x-goog-hash": f"crc32c={entry.crc32c},md5={entry.md5}",
                "x-goog-storage-class": "STANDARD",
                "x-goog-stored-content-length": str(entry.size),
            }
            if status == 206:
                headers["content-range"] = f"bytes {first}-{last - 1}/{size}"
            if last - first <= PART or call.method == "HEAD":
                with file:
                    file.seek(first)
                    body = b"" if call.method == "HEAD" else file.read(last - first)
                return Response(body, status, headers)
        except BaseException:
            file.close()
            raise
        return StreamingResponse(_pieces(file, first, last), status, headers)

    def _open(self, call: Call, bucket: str, name: str) -> tuple[Entry, BinaryIO]:
        entry = self.files.find(bucket, name, call.conditions(), call.number("generation"))
        try:
            return entry, self.files.open(entry)
        except FileNotFoundError:
            if self.files.find(bucket, name, Preconditions()) == entry:
                return entry, BytesIO()  # the file is missing, although the object has not been replaced
            return self._open(call, bucket, name)

    async def _copy(self, call: Call, source: tuple[str, str], target: tuple[str, str], method: str) -> Response:
        _check_method(call, "POST")
        description = await call.description()
        conditions, source_conditions = call.conditions(), call.conditions("ifSource")
        generation = call.number("sourceGeneration")

        def copy() -> Entry:
            entry = self.files.find(*source, source_conditions, generation)
            properties = _properties(description) or entry.properties
            return self.files.copy(entry, *target, properties, conditions)

        if method == "copyTo":
            return await _written(call, copy)
        resource = _object(await run_in_threadpool(copy), call.address)
        size = resource["size"]
        done = {"done": True, "objectSize": size, "totalBytesRewritten": size, "resource": resource}
        return _json({"kind": "storage#rewriteResponse", **done})

    async def _compose(self, call: Call, bucket: str, name: str) -> Response:
        _check_method(call, "POST")
        description = await call.description()
        conditions = call.conditions()
        sources = description.get("sourceObjects")
        if not isinstance(sources, list) or not 1 <= len(sources) <= 32:
            raise invalid("Compose takes 1 to 32 sourceObjects.")

        def compose() -> Entry:
            entries = []
            for source in sources:
                expected = (source.get("objectPreconditions") or {}).get("ifGenerationMatch")
                condition = Preconditions(generation=_integer(expected))
                entries.append(self.files.find(bucket, source["name"], condition, _integer(source.get("generation"))))
            draft = self.files.draft(part for entry in entries for part in _content_of(self.files, entry))
            properties = _properties(description.get("destination") or {})
            return self.files.store(bucket, name, draft, properties, conditions)

        return await _written(call, compose)

    # -- uploads ---------------------------------------------------------------------------------------------------

    async def _upload(self, call: Call, bucket: str) -> Response:
        if "upload_id" in call.query_params:
            return await self._continue_upload(call, bucket)
        _check_method(call, "POST")
        kind = call.query_params.get("uploadType", "media")
        if kind == "resumable":
            return await self._begin_upload(call, bucket)
        if kind == "media":
            properties: dict[str, Any] = {}
            body = await call.content(MAX_IN_MEMORY)
            content_type = call.headers.get("content-type")
        elif kind == "multipart":
            properties, body, content_type = _parts(
                call.headers.get("content-type", ""), await call.content(MAX_IN_MEMORY + MAX_DESCRIPTION)
            )
        else:
            raise invalid(f"Unknown uploadType {kind!r}.")
        if content_type and "contentType" not in properties:
            properties["contentType"] = content_type
        name, conditions = _name(call, properties), call.conditions()

        def store() -> Entry:
            draft = self.files.draft([body])
            return self.files.store(bucket, name, draft, _properties(properties), conditions)

        return await _written(call, store)

    async def _begin_upload(self, call: Call, bucket: str) -> Response:
        description = await call.description()
        if "contentType" not in description and "x-upload-content-type" in call.headers:
            description["contentType"] = call.headers["x-upload-content-type"]
        self.files.bucket(bucket)
        session = Session(bucket, _name(call, description), _properties(description), call.conditions())
        key = await run_in_threadpool(self.sessions.begin, session)
        query = f"uploadType=resumable&upload_id={key}"
        location = f"{call.address}/upload/storage/v1/b/{quote(bucket)}/o?{query}"
        return Response(headers={"location": location, "x-guploader-uploadid": key})

    async def _continue_upload(self, call: Call, bucket: str) -> Response:
        """Receive the next chunk of a resumable upload, or report its progress."""
        key = call.query_params["upload_id"]
        if call.method == "DELETE":
            await run_in_threadpool(self.sessions.cancel, key)
            return Response(status_code=499)
        _check_method(call, "PUT", "POST")
        if (result := await run_in_threadpool(self.sessions.result, key)) is not None:
            async for _ in call.stream():
                pass  # a chunk that the client repeats, because it did not receive the response
            return _json(result)
        session, draft = await run_in_threadpool(self.sessions.find, key)
        if session.bucket != bucket:
            raise not_found("The upload")
        first, last, total = _content_range(call.headers)
        if first is not None:
            await _receive_chunk(call, draft, first)
        if total is None and last is None:
            total = draft.size  # the whole content in one request, without ranges
        if total is None or draft.size < total:
            headers = {"range": f"bytes=0-{draft.size - 1}"} if draft.size else {}
            return Response(status_code=308, headers=headers)
        if draft.size > total:
            raise invalid(f"The upload has {draft.size} bytes, more than the {total} announced.")

        def store() -> dict[str, Any]:
            complete = self.sessions.finish(key, draft, self.files.new_path())
            entry = self.files.store(session.bucket, session.name, complete, session.properties, session.conditions)
            resource = _object(entry, call.address)
            self.sessions.keep_result(key, resource)
            return resource

        return _json(await run_in_threadpool(store))


async def _written(call: Call, write: Callable[[], Entry]) -> Response:
    """Write an object, and return its resource."""
    return _json(_object(await run_in_threadpool(write), call.address))


async def _receive_chunk(call: Call, draft: Draft, first: int) -> None:
    """Append a chunk that begins at byte `first`, without the bytes that the draft already has."""
    if first > draft.size:
        raise invalid(f"The upload has {draft.size} bytes so far: byte {first} comes too early.")
    known = draft.size - first
    received = bytearray()
    async for part in call.stream():
        received += part[known:]
        known = max(known - len(part), 0)
        if len(received) >= PART:
            await run_in_threadpool(draft.append, bytes(received))
            received.clear()
    await run_in_threadpool(draft.append, bytes(received))


def _integer(text: str | None) -> int | None:
    return None if text is None else int(text)


def _check_method(call: Call, *methods: str) -> None:
    if call.method not in methods:
        raise BucketError(405, "methodNotAllowed", f"This address does not support {call.method}.")


def _name(call: Call, description: Mapping[str, Any]) -> str:
    name = call.query_params.get("name") or description.get("name")
    if not isinstance(name, str) or not 0 < len(name.encode()) <= 1024 or "\r" in name or "\n" in name:
        raise invalid("An object's name has 1 to 1024 bytes of UTF-8 and no line breaks.")
    return name


_PROPERTIES = (
    *("contentType", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl", "customTime"),
    *("metadata", "crc32c", "md5Hash"),
)


def _properties(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of an object that a client can set."""
    properties = {name: description[name] for name in _PROPERTIES if name in description}
    metadata = properties.get("metadata")
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str | None) for value in metadata.values())
    ):
        raise invalid("metadata must be an object of strings.")
    return properties


def _description(content: bytes) -> dict[str, Any]:
    try:
        description = orjson.loads(content or b"{}")
    except orjson.JSONDecodeError as error:
        raise BucketError(400, "parseError", f"The request's JSON cannot be read: {error}.") from None
    if not isinstance(description, dict):
        raise BucketError(400, "parseError", "The request's JSON is not an object.")
    return description


_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)


def _parts(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes, str | None]:
    """Return description, content and content type of a ``multipart/related`` body.

    Raises
    ------
    BucketError
        400 if it does not have two parts.
    """
    invalid = BucketError(400, "badRequest", "An upload of the type multipart has two parts: JSON and the content.")
    boundary = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/related") or boundary is None:
        raise invalid
    mark = b"--" + boundary[1].encode()
    begin = body.find(mark)
    middle = body.find(b"\r\n" + mark, begin + len(mark))
    end = body.rfind(b"\r\n" + mark + b"--")
    if min(begin, middle, end) < 0 or middle >= end:
        raise invalid
    first, second = body[begin + len(mark) : middle], memoryview(body)[middle + 2 + len(mark) : end]
    _, _, description = first.partition(b"\r\n\r\n")
    head = bytes(second[: 1 << 14]).find(b"\r\n\r\n")
    if head < 0:
        raise invalid
    lines = bytes(second[:head]).decode("latin-1").split("\r\n")
    types = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("content-type:")]
    return _description(description), bytes(second[head + 4 :]), types[0] if types else None


def _range(headers: Headers, size: int) -> tuple[int, int, int]:
    """Return start and end of the requested bytes, and the status of the response; malformed ranges are ignored.

    Raises
    ------
    BucketError
        416 if the range begins after the end.
    """
    requested = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("range", "").replace(" ", ""))
    if requested is None or not (requested[1] or requested[2]):
        return 0, size, 200
    if not requested[1]:
        first, last = max(size - int(requested[2]), 0), size
    else:
        first, last = int(requested[1]), min(int(requested[2]) + 1, size) if requested[2] else size
    if first >= size:
        raise BucketError(416, "requestedRangeNotSatisfiable", "The requested range cannot be satisfied.")
    return first, last, 206


def _content_range(headers: Headers) -> tuple[int | None, int | None, int | None]:
    """Return first and last byte of a chunk (first is None if none is sent) and the total (None if unknown).

    Raises
    ------
    BucketError
        400 if the header is malformed.
    """
    text = headers.get("content-range")
    if text is None:
        return 0, None, None
    match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", text.strip())
    if match is None:
        raise invalid(f"Invalid Content-Range: {text!r}.")
    first, last = (int(match[1]), int(match[2])) if match[1] else (None, -1)
    return first, last, None if match[3] == "*" else int(match[3])


def _content_of(files: Files, entry: Entry) -> Iterator[bytes]:
    """Yield the content of an object in parts.

    Raises
    ------
    BucketError
        500 if the checksum does not match, so that damage is not copied with a valid checksum.
    """
    crc32c = 0
    with files.open(entry) as file:
        while part := file.read(PART):
            crc32c = google_crc32c.extend(crc32c, part)
            yield part
    if encode_crc32c(crc32c) != entry.crc32c:
        raise BucketError(500, "internalError", f"The content of {entry.bucket}/{entry.name} is damaged.")


async def _pieces(file: BinaryIO, first: int, last: int) -> AsyncIterator[bytes]:
    with file:
        file.seek(first)
        while first < last:
            part = await run_in_threadpool(file.read, min(PART, last - first))
            if not part:
                return
            first += len(part)
            yield part


# -- responses -------------------------------------------------------------------------------------------------------


def _bucket(name: str, created: str) -> dict[str, Any]:
    resource = {"kind": "storage#bucket", "id": name, "name": name, "timeCreated": created, "updated": created}
    return resource | {"metageneration": "1", "location": "US", "locationType": "region", "storageClass": "STANDARD"}


def _object(entry: Entry, address: str) -> dict[str, Any]:
    path = f"/storage/v1/b/{quote(entry.bucket)}/o/{quote(entry.name, safe='')}"
    metadata = entry.properties.get("metadata")
    return {
        "kind": "storage#object",
        "id": f"{entry.bucket}/{entry.name}/{entry.generation}",
        "selfLink": address + path,
        "mediaLink": f"{address}/download{path}?generation={entry.generation}&alt=media",
        "name": entry.name,
        "bucket": entry.bucket,
        "generation": str(entry.generation),
        "metageneration": str(entry.metageneration),
        "storageClass": "STANDARD",
        "size": str(entry.size),
        "crc32c": entry.crc32c,
        "md5Hash": entry.md5,
        "etag": _etag(entry),
        "timeCreated": entry.created,
        "updated": entry.updated,
        **{name: value for name, value in entry.properties.items() if name != "metadata" and value is not None},
        **({"metadata": metadata} if metadata else {}),
    }


def _etag(entry: Entry) -> str:
    return f"{entry.generation:x}.{entry.metageneration:x}"


def _json(content: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json; charset=UTF-8")


def _error_response(error: BucketError) -> Response:
    # The rest of an unauthorized or too large request is not read.
    headers = {"connection": "close"} if error.status in (401, 403, 413) else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status == 304:
        return Response(status_code=304)
    reasons = [{"message": str(error), "domain": "global", "reason": error.reason}]
    content = {"error": {"code": error.status, "message": str(error), "errors": reasons}}
    return Response(orjson.dumps(content), error.status, headers, "application/json; charset=UTF-8")
