"""The embedded Cloud Storage compared with Google's testbench: both have the same responses to the same requests.

Not compared are responses in which the testbench differs from Google's documentation: it always keeps replaced
generations; its status is 412, not 400, for a wrong checksum, 400, not 409, for the deletion of a bucket with objects,
and 200, not 204, for a deletion; it merges the metadata of a rewrite with those of the source, ignores the content type
of uploads of the type media, and has no mediaLink. The embedded server does not support partial responses (`fields`).
"""

import json
import re
from typing import Any

import requests

FIELDS = ("kind", "name", "bucket", "size", "crc32c", "md5Hash", "contentType", "metadata", "metageneration")

HEADERS = ("content-type", "content-range", "content-length", "x-goog-hash", "x-goog-metageneration", "range")


class Conversation:
    """Requests to one of the servers, and the parts of the responses that must be equal."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.url, self.headers = url, headers
        self.answers: list[tuple[str, Any]] = []

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        own = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            own["content-type"] = "application/json"
        url = path if path.startswith("http") else self.url + path
        answer = requests.request(method, url, data=content, headers=own, timeout=30)
        outcome: dict[str, Any] = {"status": 200 if answer.status_code == 204 else answer.status_code}
        if answer.status_code >= 400:
            outcome["error"] = isinstance(answer.json().get("error", {}).get("code"), int) if answer.content else None
        elif "json" in answer.headers.get("content-type", ""):
            outcome |= self.fields_of(answer.json())
        else:
            outcome["body"] = answer.content
            known = [name for name in HEADERS if name in answer.headers]
            if not answer.content:
                known = ["range"] if "range" in known else []
            if answer.status_code == 200 and "content-range" in known:
                known.remove("content-range")
            outcome |= {name: answer.headers[name] for name in known}
        called = re.sub(r"\d{10,}", "GENERATION", f"{method} {path.removeprefix(self.url).split('upload_id')[0]}")
        self.answers.append((called, outcome))
        return answer

    def fields_of(self, found: dict[str, Any]) -> dict[str, Any]:
        if "items" in found:
            items = [self.fields_of(one) for one in found["items"]]
            return {"items": items, "prefixes": found.get("prefixes", [])}
        if "resource" in found:
            return {"done": found["done"], "resource": self.fields_of(found["resource"])} | {
                name: str(found[name]) for name in ("objectSize", "totalBytesRewritten")
            }
        outcome = {name: found[name] for name in FIELDS if name in found and (name, found[name]) != ("size", "0")}
        if "metadata" in outcome:
            outcome["metadata"] = {name: one for name, one in outcome["metadata"].items() if not name.startswith("x_")}
            if not outcome["metadata"]:
                del outcome["metadata"]
        outcome["types"] = {
            name: type(found[name]).__name__
            for name in ("generation", "metageneration", "timeCreated", "updated", "id")
            if name in found
        }
        return outcome


def part(name: str, content: bytes, description: dict[str, Any]) -> tuple[bytes, str]:
    """Return a body of the type multipart, and its content type."""
    body = b"--xyz\r\ncontent-type: application/json\r\n\r\n" + json.dumps({"name": name, **description}).encode()
    body += b"\r\n--xyz\r\ncontent-type: text/plain\r\n\r\n" + content + b"\r\n--xyz--"
    return body, "multipart/related; boundary=xyz"


def converse(conversation: Conversation) -> None:
    send, bucket = conversation.send, "some-bucket"
    o, up = f"/storage/v1/b/{bucket}/o", f"/upload/storage/v1/b/{bucket}/o"
    send("POST", "/storage/v1/b?project=p", {"name": bucket})
    send("POST", "/storage/v1/b?project=p", {"name": bucket})
    send("GET", f"/storage/v1/b/{bucket}")
    send("GET", "/storage/v1/b/no-such-bucket")
    send("GET", "/storage/v1/b/no-such-bucket/o")
    send("GET", f"{o}/missing")
    send("GET", f"{o}/missing?alt=media")
    send("DELETE", f"{o}/missing")
    send("GET", o)

    def multipart(name: str, content: bytes, query: str = "", **description: Any) -> str:
        body, kind = part(name, content, description)
        answer = send("POST", f"{up}?uploadType=multipart{query}", body, content_type=kind)
        return str(answer.json().get("generation", "")) if answer.ok else ""

    first = multipart("a/b", b"0123456789", metadata={"k": "v", "empty": ""})
    assert first
    multipart("a/b", b"x", "&ifGenerationMatch=0")
    multipart("a/b", b"x", "&ifGenerationMatch=7")
    multipart("new", b"x", "&ifGenerationMatch=7")
    second = multipart("a/b", b"9876543210", f"&ifGenerationMatch={first}", metadata={"k": "v", "l": "w"})
    assert int(second) > int(first)
    multipart("empty", b"")
    multipart("ü/é x%2F?#", b"names")
    multipart("plain", b"plain")
    send("POST", "/upload/storage/v1/b/no-such-bucket/o?uploadType=media&name=x", b"plain", content_type="text/plain")

    of = f"{o}/a%2Fb"
    for query in (
        "", f"?generation={second}", f"?ifGenerationMatch={first}",
        f"?ifGenerationMatch={second}", f"?ifGenerationNotMatch={second}", "?ifMetagenerationMatch=1",
        "?ifMetagenerationMatch=2", "?ifMetagenerationNotMatch=1", "?projection=full",
    ):  # fmt: skip
        send("GET", of + query)
    media = f"{of}?alt=media"
    send("GET", media)
    send("GET", f"/download{of}?alt=media")
    send("GET", f"{media}&ifGenerationMatch={first}")
    for wanted in ("0-3", "3-", "-4", "8-100", "10-", "100-200", "0-0"):
        send("GET", media, range=f"bytes={wanted}")
    send("GET", f"{o}/empty?alt=media")
    send("GET", f"{o}/empty?alt=media", range="bytes=0-")
    send("GET", f"{o}/%C3%BC%2F%C3%A9%20x%252F%3F%23?alt=media")

    send("PATCH", of, {"metadata": {"k": None, "m": "n"}, "contentType": "text/x"})
    send("PATCH", f"{of}?ifMetagenerationMatch=1", {"metadata": {"k": "late"}})
    send("PATCH", of, {"metadata": None})
    send("PATCH", f"{o}/missing", {"metadata": {"k": "v"}})
    send("PUT", of, {"metadata": {"only": "this"}, "contentType": "text/y"})
    send("GET", of)

    to = f"{of}/rewriteTo/b/{bucket}/o"
    send("POST", f"{to}/copy", {})
    send("POST", f"{to}/copy?ifGenerationMatch=0", {})
    send("POST", f"{to}/copy?ifSourceGenerationMatch={first}", {})
    send("POST", f"{o}/missing/rewriteTo/b/{bucket}/o/copy", {})
    send("POST", f"{of}/rewriteTo/b/no-such-bucket/o/copy", {})
    send("POST", f"{of}/copyTo/b/{bucket}/o/copied", {})
    both = [{"name": "a/b"}, {"name": "plain"}]
    send("POST", f"{o}/composed/compose", {"sourceObjects": both, "destination": {"contentType": "text/plain"}})
    send("GET", f"{o}/composed?alt=media")
    send("POST", f"{o}/composed/compose?ifGenerationMatch=0", {"sourceObjects": both})
    send("POST", f"{o}/composed/compose", {"sourceObjects": [{"name": "missing"}]})

    for query in (
        "", "?prefix=a/", "?delimiter=/", "?prefix=a/&delimiter=/", "?prefix=nothing", "?startOffset=c",
        "?startOffset=b&endOffset=d", "?endOffset=copy",
    ):  # fmt: skip
        send("GET", o + query)

    def begin(query: str = "", **headers: str) -> str:
        given = {"name": "large", "metadata": {"k": "v"}, "contentType": "text/plain"}
        return send("POST", f"{up}?uploadType=resumable{query}", given, **headers).headers.get("location", "")

    size = 600 << 10
    content = bytes(range(256)) * (size // 256)
    place = begin()
    quarter = 256 << 10
    send("PUT", place, b"", content_range=f"bytes */{size}")
    send("PUT", place, content[:quarter], content_range=f"bytes 0-{quarter - 1}/{size}")
    send("PUT", place, b"", content_range=f"bytes */{size}")
    send("PUT", place, content[:quarter], content_range=f"bytes 0-{quarter - 1}/{size}")  # again
    send("GET", f"{o}/large")
    send("PUT", place, content[quarter:], content_range=f"bytes {quarter}-{size - 1}/{size}")
    send("PUT", place, b"", content_range=f"bytes */{size}")  # complete, but the response was lost
    send("GET", f"{o}/large?alt=media", range="bytes=599000-")
    place = begin()
    send("PUT", place, content[:quarter], content_range=f"bytes 0-{quarter - 1}/*")
    send("PUT", place, b"ends", content_range=f"bytes {quarter}-{quarter + 3}/{quarter + 4}")
    send("PUT", begin(), b"all at once")
    send("PUT", begin("&ifGenerationMatch=0"), b"too late")
    place = begin("&ifGenerationMatch=7")
    if place:
        send("PUT", place, b"too late", content_range="bytes 0-7/8")
    place = begin()
    send("DELETE", place)
    send("PUT", place, b"", content_range="bytes */8")
    send("PUT", f"{up}?uploadType=resumable&upload_id=none", b"x", content_range="bytes 0-0/1")
    send("GET", f"{o}/large")

    send("DELETE", f"{of}?ifGenerationMatch={first}")
    send("DELETE", of)
    send("DELETE", of)
