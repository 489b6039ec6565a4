"""The HTTP side: what Google's client, dagster-gcp and pyarrow use of Cloud Storage's JSON API.

https://cloud.google.com/storage/docs/json_api/v1. Answers and errors have the shape of Google's own.
"""

from __future__ import annotations

import datetime as dt
import hmac
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from email.utils import format_datetime
from io import BytesIO
from typing import Any, BinaryIO
from urllib.parse import parse_qs, quote, unquote, urlsplit

import google_crc32c
import orjson
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gh_assets.embedded.bucket.files import BucketError, Entry, Files, Preconditions, encoded, not_found
from gh_assets.embedded.bucket.uploads import Session, Sessions

MAX_IN_MEMORY = 128 << 20
"""Bytes of an upload in one request of several parts; longer ones are to be resumable, as all clients make them."""

MAX_DESCRIPTION = 1 << 20
"""Bytes of JSON in a request."""

PART = 1 << 20
"""Bytes of content that are sent at once."""

_OWN_NAMES = {"127.0.0.1", "localhost"}

_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


@dataclass(frozen=True)
class Call:
    """A request, taken apart.

    Attributes
    ----------
    method : str
    path : tuple of str
        Its parts, decoded: the name of an object is one of them, whatever it holds.
    query : dict of str
    request : Request
    """

    method: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    request: Request

    def number(self, name: str) -> int | None:
        """An integer of the query."""
        text = self.query.get(name)
        if text is None:
            return None
        try:
            return int(text)
        except ValueError:
            raise BucketError(400, "invalid", f"Invalid value for {name}: {text!r}.") from None

    def conditions(self, prefix: str = "if") -> Preconditions:
        """Those of the query; those on a source begin with ``ifSource``."""
        names = ("GenerationMatch", "GenerationNotMatch", "MetagenerationMatch", "MetagenerationNotMatch")
        return Preconditions(*(self.number(prefix + name) for name in names))

    async def description(self) -> dict[str, Any]:
        """The JSON that came with it.

        Raises
        ------
        BucketError
            400 if it is none, 413 if it is too long.
        """
        return _description(await self.content(MAX_DESCRIPTION))

    async def content(self, most: int) -> bytes:
        """All that came with it."""
        parts, size = [], 0
        async for part in self.request.stream():
            size += len(part)
            if size > most:
                raise BucketError(413, "uploadTooLarge", f"More than {most:,} bytes in one request.")
            parts.append(part)
        return b"".join(parts)


class BucketServer:
    """The ASGI application.

    Parameters
    ----------
    files : Files
    token : str
        What every request has to carry as a bearer token.
    """

    def __init__(self, files: Files, token: str) -> None:
        self.files = files
        self.sessions = Sessions(files.uploads)
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            self._admit(request)
            answer = await self._answered(_call(request))
        except BucketError as error:
            answer = _refusal(error)
        except ClientDisconnect:
            return
        except OSError as error:
            # A full disk, above all: Google's clients try again after a 503.
            answer = _refusal(BucketError(503, "backendError", f"The disk: {error.strerror}."))
        await answer(scope, receive, send)

    def _admit(self, request: Request) -> None:
        """Let a request in that knows the token, and was meant for us: a page in a browser has neither.

        Raises
        ------
        BucketError
            401 or 403.
        """
        named = urlsplit(f"//{request.headers.get('host', '')}").hostname
        if named not in _OWN_NAMES or "origin" in request.headers:
            raise BucketError(403, "forbidden", "This server is for programs of this machine only.")
        given = request.headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._wanted):
            raise BucketError(401, "required", "The request needs the bearer token of this home.")

    async def _answered(self, call: Call) -> Response:
        match call.path:
            case ("storage", "v1", "b"):
                return await self._buckets(call)
            case ("storage", "v1", "b", bucket):
                return await self._bucket(call, bucket)
            case ("storage", "v1", "b", bucket, "o"):
                return await self._list(call, bucket)
            case ("upload", "storage", "v1", "b", bucket, "o") | (
                "resumable",
                "upload",
                "storage",
                "v1",
                "b",
                bucket,
                "o",
            ):
                return await self._upload(call, bucket)
            case ("storage", "v1", "b", bucket, "o", name):
                return await self._object(call, bucket, name)
            case ("download", "storage", "v1", "b", bucket, "o", name) if call.method in ("GET", "HEAD"):
                return self._content(call, bucket, name)
            case ("storage", "v1", "b", bucket, "o", name, "rewriteTo" | "copyTo" as how, "b", other, "o", target):
                return await self._copy(call, (bucket, name), (other, target), how)
            case ("storage", "v1", "b", bucket, "o", name, "compose"):
                return await self._compose(call, bucket, name)
        raise BucketError(404, "notFound", "Not Found")

    # -- buckets ---------------------------------------------------------------------------------------------------

    async def _buckets(self, call: Call) -> Response:
        if call.method == "GET":
            prefix = call.query.get("prefix", "")
            found = [_bucket(name, made) for name, made in self.files.buckets() if name.startswith(prefix)]
            return _json({"kind": "storage#buckets", "items": found})
        _only(call, "POST")
        name = (await call.description()).get("name")
        if not isinstance(name, str) or not _BUCKET_NAME.fullmatch(name):
            raise BucketError(400, "invalid", f"Invalid bucket name: {name!r}")
        return _json(_bucket(name, await run_in_threadpool(self.files.create_bucket, name)))

    async def _bucket(self, call: Call, name: str) -> Response:
        if call.method == "DELETE":
            await run_in_threadpool(self.files.delete_bucket, name)
            return Response(status_code=204)
        _only(call, "GET")
        return _json(_bucket(name, self.files.bucket(name)))

    # -- objects ---------------------------------------------------------------------------------------------------

    async def _list(self, call: Call, bucket: str) -> Response:
        _only(call, "GET")
        query = call.query
        prefix, delimiter, end = query.get("prefix", ""), query.get("delimiter", ""), query.get("endOffset", "")
        most = min(call.number("maxResults") or 1000, 1000)
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
            if len(items) + len(folders) >= most:
                token = last
                break
            if folder is None:
                items.append(_object(entry, _address(call)))
            else:
                folders[folder] = None
            last = entry.name
        listing: dict[str, Any] = {"kind": "storage#objects", "items": items, "prefixes": list(folders)}
        return _json(listing | ({} if token is None else {"nextPageToken": token}))

    async def _object(self, call: Call, bucket: str, name: str) -> Response:
        match call.method:
            case "GET" | "HEAD":
                if call.query.get("alt") == "media":
                    return self._content(call, bucket, name)
                found = self.files.find(bucket, name, call.conditions(), call.number("generation"))
                return _json(_object(found, _address(call)))
            case "DELETE":
                await run_in_threadpool(self.files.delete, bucket, name, call.conditions(), call.number("generation"))
                return Response(status_code=204)
            case "PATCH" | "PUT":
                properties = _properties(await call.description())
                conditions, generation = call.conditions(), call.number("generation")
                changed = await run_in_threadpool(
                    lambda: self.files.update(
                        bucket, name, properties, conditions, generation, whole=call.method == "PUT"
                    )
                )
                return _json(_object(changed, _address(call)))
        raise BucketError(405, "methodNotAllowed", f"{call.method} is not for objects.")

    def _content(self, call: Call, bucket: str, name: str) -> Response:
        while True:
            entry = self.files.find(bucket, name, call.conditions(), call.number("generation"))
            try:
                file: BinaryIO = self.files.open(entry)
                break
            except FileNotFoundError:
                if self.files.find(bucket, name, Preconditions()) == entry:
                    file = BytesIO()  # lost, and not replaced meanwhile
                    break
        try:
            size = file.seek(0, os.SEEK_END)  # less than the entry says, if the file is damaged
            if size == 0 < entry.size:
                # Clients find damage by the checksum, but those of an answer without content do not look at it.
                file, size = BytesIO(b"\0"), 1
            first, last, status = _range(call.request.headers, size)
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

    async def _copy(self, call: Call, source: tuple[str, str], target: tuple[str, str], how: str) -> Response:
        _only(call, "POST")
        given = await call.description()
        conditions, source_conditions = call.conditions(), call.conditions("ifSource")
        generation = call.number("sourceGeneration")

        def copy() -> Entry:
            found = self.files.find(*source, source_conditions, generation)
            properties = _properties(given) or found.properties
            return self.files.copy(found, *target, properties, conditions)

        made = _object(await run_in_threadpool(copy), _address(call))
        if how == "copyTo":
            return _json(made)
        size = made["size"]
        done = {"done": True, "objectSize": size, "totalBytesRewritten": size, "resource": made}
        return _json({"kind": "storage#rewriteResponse", **done})

    async def _compose(self, call: Call, bucket: str, name: str) -> Response:
        _only(call, "POST")
        given = await call.description()
        conditions = call.conditions()
        sources = given.get("sourceObjects")
        if not isinstance(sources, list) or not 1 <= len(sources) <= 32:
            raise BucketError(400, "invalid", "Compose takes 1 to 32 sourceObjects.")

        def compose() -> Entry:
            found = []
            for one in sources:
                wanted = (one.get("objectPreconditions") or {}).get("ifGenerationMatch")
                of = Preconditions(generation=None if wanted is None else int(wanted))
                generation = one.get("generation")
                found.append(self.files.find(bucket, one["name"], of, None if generation is None else int(generation)))
            draft = self.files.draft(part for one in found for part in _content_of(self.files, one))
            properties = _properties(given.get("destination") or {})
            return self.files.store(bucket, name, draft, properties, conditions)

        return _json(_object(await run_in_threadpool(compose), _address(call)))

    # -- uploads ---------------------------------------------------------------------------------------------------

    async def _upload(self, call: Call, bucket: str) -> Response:
        if "upload_id" in call.query:
            return await self._continued(call, bucket)
        _only(call, "POST")
        kind = call.query.get("uploadType", "media")
        if kind == "resumable":
            return await self._begun(call, bucket)
        if kind == "media":
            properties: dict[str, Any] = {}
            body = await call.content(MAX_IN_MEMORY)
            content_type = call.request.headers.get("content-type")
        elif kind == "multipart":
            properties, body, content_type = _parts(
                call.request.headers.get("content-type", ""), await call.content(MAX_IN_MEMORY + MAX_DESCRIPTION)
            )
        else:
            raise BucketError(400, "invalid", f"Unknown uploadType {kind!r}.")
        if content_type and "contentType" not in properties:
            properties["contentType"] = content_type
        name, conditions = _name(call, properties), call.conditions()

        def store() -> Entry:
            draft = self.files.draft([body])
            return self.files.store(bucket, name, draft, _properties(properties), conditions)

        return _json(_object(await run_in_threadpool(store), _address(call)))

    async def _begun(self, call: Call, bucket: str) -> Response:
        given = await call.description()
        if "contentType" not in given and "x-upload-content-type" in call.request.headers:
            given["contentType"] = call.request.headers["x-upload-content-type"]
        self.files.bucket(bucket)
        session = Session(bucket, _name(call, given), _properties(given), call.conditions())
        key = await run_in_threadpool(self.sessions.begin, session)
        query = f"uploadType=resumable&upload_id={key}"
        place = f"{_address(call)}/upload/storage/v1/b/{quote(bucket)}/o?{query}"
        return Response(headers={"location": place, "x-guploader-uploadid": key})

    async def _continued(self, call: Call, bucket: str) -> Response:
        """One more piece of a resumable upload, or the question how far it is."""
        key = call.query["upload_id"]
        if call.method == "DELETE":
            await run_in_threadpool(self.sessions.end, key)
            return Response(status_code=499)
        _only(call, "PUT", "POST")
        if (result := await run_in_threadpool(self.sessions.result, key)) is not None:
            async for _ in call.request.stream():
                pass  # a piece that is sent again, because the answer was lost
            return _json(result)
        session, draft = await run_in_threadpool(self.sessions.find, key)
        if session.bucket != bucket:
            raise not_found("The upload")
        first, last, total = _content_range(call.request.headers)
        if first is None or first <= draft.size:
            known = 0 if first is None else draft.size - first  # that many bytes are here already
            gathered = bytearray()
            async for part in call.request.stream():
                gathered += part[known:] if first is not None else b""
                known = max(known - len(part), 0)
                if len(gathered) >= PART:
                    await run_in_threadpool(draft.append, bytes(gathered))
                    gathered.clear()
            await run_in_threadpool(draft.append, bytes(gathered))
        else:
            raise BucketError(
                400, "invalid", f"The upload has {draft.size} bytes so far: byte {first} comes too early."
            )
        if total is None and last is None:
            total = draft.size  # all in one request, without a word on ranges
        if total is None or draft.size < total:
            headers = {"range": f"bytes=0-{draft.size - 1}"} if draft.size else {}
            return Response(status_code=308, headers=headers)
        if draft.size > total:
            raise BucketError(400, "invalid", f"The upload has {draft.size} bytes, more than the {total} announced.")

        def store() -> dict[str, Any]:
            whole = self.sessions.finish(key, draft, self.files.place())
            entry = self.files.store(session.bucket, session.name, whole, session.properties, session.conditions)
            made = _object(entry, _address(call))
            self.sessions.keep_result(key, made)
            return made

        return _json(await run_in_threadpool(store))


def _call(request: Request) -> Call:
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    path = raw.split(b"?")[0].decode("ascii", "strict").strip("/")
    parts = [unquote(part, errors="strict") for part in path.split("/")]
    given = parse_qs(request.scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict")
    return Call(request.method, tuple(parts), {name: values[-1] for name, values in given.items()}, request)


def _only(call: Call, *methods: str) -> None:
    if call.method not in methods:
        raise BucketError(405, "methodNotAllowed", f"{call.method} is not for this address.")


def _name(call: Call, given: Mapping[str, Any]) -> str:
    name = call.query.get("name") or given.get("name")
    if not isinstance(name, str) or not 0 < len(name.encode()) <= 1024 or "\r" in name or "\n" in name:
        raise BucketError(400, "invalid", "An object's name has 1 to 1024 bytes of UTF-8, and no line ends.")
    return name


_KEPT = ("contentType", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl", "customTime")


def _properties(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a client may say of an object."""
    kept = {name: given[name] for name in (*_KEPT, "metadata", "crc32c", "md5Hash") if name in given}
    metadata = kept.get("metadata")
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str | None) for value in metadata.values())
    ):
        raise BucketError(400, "invalid", "metadata has to be an object of texts.")
    return kept


def _description(content: bytes) -> dict[str, Any]:
    try:
        given = orjson.loads(content or b"{}")
    except orjson.JSONDecodeError as error:
        raise BucketError(400, "parseError", f"The request's JSON cannot be read: {error}.") from None
    if not isinstance(given, dict):
        raise BucketError(400, "parseError", "The request's JSON is no object.")
    return given


_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)


def _parts(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes, str | None]:
    """Description, content and content type of a ``multipart/related`` body of two parts.

    Raises
    ------
    BucketError
        400 if it is none.
    """
    wrong = BucketError(400, "badRequest", "An upload of the type multipart has two parts: JSON, and the content.")
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/related") or found is None:
        raise wrong
    mark = b"--" + found[1].encode()
    begin = body.find(mark)
    middle = body.find(b"\r\n" + mark, begin + len(mark))
    end = body.rfind(b"\r\n" + mark + b"--")
    if min(begin, middle, end) < 0 or middle >= end:
        raise wrong
    first, second = body[begin + len(mark) : middle], memoryview(body)[middle + 2 + len(mark) : end]
    _, _, description = first.partition(b"\r\n\r\n")
    head = bytes(second[: 1 << 14]).find(b"\r\n\r\n")
    if head < 0:
        raise wrong
    lines = bytes(second[:head]).decode("latin-1").split("\r\n")
    types = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("content-type:")]
    return _description(description), bytes(second[head + 4 :]), types[0] if types else None


def _range(headers: Headers, size: int) -> tuple[int, int, int]:
    """First byte, byte behind the last, and status of an answer; a range that is malformed is overlooked.

    Raises
    ------
    BucketError
        416 if it lies behind the end.
    """
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("range", "").replace(" ", ""))
    if found is None or not (found[1] or found[2]):
        return 0, size, 200
    if not found[1]:
        first, last = max(size - int(found[2]), 0), size
    else:
        first, last = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
    if first >= size:
        raise BucketError(416, "requestedRangeNotSatisfiable", "The requested range cannot be satisfied.")
    return first, last, 206


def _content_range(headers: Headers) -> tuple[int | None, int | None, int | None]:
    """First and last byte of a piece (None: none is sent), and the total (None: not known yet).

    Raises
    ------
    BucketError
        400 if the header is malformed.
    """
    text = headers.get("content-range")
    if text is None:
        return 0, None, None
    found = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", text.strip())
    if found is None:
        raise BucketError(400, "invalid", f"Invalid Content-Range: {text!r}.")
    first, last = (int(found[1]), int(found[2])) if found[1] else (None, -1)
    return first, last, None if found[3] == "*" else int(found[3])


def _content_of(files: Files, entry: Entry) -> Iterator[bytes]:
    """The content of an object, piece by piece.

    Raises
    ------
    BucketError
        500 if it is not what was stored: damage is not to be copied under a checksum that fits it.
    """
    crc32c = 0
    with files.open(entry) as file:
        while part := file.read(PART):
            crc32c = google_crc32c.extend(crc32c, part)
            yield part
    if encoded(crc32c.to_bytes(4, "big")) != entry.crc32c:
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


# -- what answers look like ------------------------------------------------------------------------------------------


def _address(call: Call) -> str:
    return f"http://{call.request.headers['host']}"


def _bucket(name: str, created: str) -> dict[str, Any]:
    described = {"kind": "storage#bucket", "id": name, "name": name, "timeCreated": created, "updated": created}
    return described | {"metageneration": "1", "location": "US", "locationType": "region", "storageClass": "STANDARD"}


def _object(entry: Entry, address: str) -> dict[str, Any]:
    place = f"/storage/v1/b/{quote(entry.bucket)}/o/{quote(entry.name, safe='')}"
    metadata = entry.properties.get("metadata")
    return {
        "kind": "storage#object",
        "id": f"{entry.bucket}/{entry.name}/{entry.generation}",
        "selfLink": address + place,
        "mediaLink": f"{address}/download{place}?generation={entry.generation}&alt=media",
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


def _refusal(error: BucketError) -> Response:
    # What else a stranger sends on this connection is not read.
    headers = {"connection": "close"} if error.status in (401, 403, 413) else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status == 304:
        return Response(status_code=304)
    reasons = [{"message": str(error), "domain": "global", "reason": error.reason}]
    content = {"error": {"code": error.status, "message": str(error), "errors": reasons}}
    return Response(orjson.dumps(content), error.status, headers, "application/json; charset=UTF-8")
