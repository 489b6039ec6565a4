"""Faults of networks and of GitHub that the stand-in injects, by probability or by script."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gh_assets.embedded.standin.kinds import GRAPHQL_KINDS, KINDS

_SERVER_ERROR = (
    "Something went wrong while executing your query. This may be the result of a timeout, or it could be a GitHub "
    "bug. Please include `AAAA:1111` when reporting this issue."
)

_SECONDARY_LIMIT = "You have exceeded a secondary rate limit. Please wait a few minutes."
_ABUSE = "You have triggered an abuse detection mechanism. Please wait a few minutes before you try again."
_ERRORS = {
    "401": (401, "Bad credentials"),
    "403": (403, _SECONDARY_LIMIT),
    "403 retry-after": (403, _SECONDARY_LIMIT),
    "403 abuse": (403, _ABUSE),
    "graphql 400": (400, "Problems parsing JSON"),
}


@dataclass
class Faults:
    """The faults to inject.

    Parameters
    ----------
    probabilities : mapping of str to float
        Share of requests per kind of fault (see `KINDS`).
    script : iterable of str or None
        Faults of the first requests, in order; None for no fault. Later faults are drawn by `probabilities`.
    seed : int
    timeout_seconds, slow_seconds : float
    retry_after : int
        Seconds in the header of ``403 retry-after``.
    clock_skew : float
        Seconds by which the server's clock is ahead, in ``Date`` and in reset times.
    """

    probabilities: Mapping[str, float] = field(default_factory=dict)
    script: Iterable[str | None] = ()
    seed: int = 0
    timeout_seconds: float = 30.0
    slow_seconds: float = 0.2
    retry_after: int = 1
    clock_skew: float = 0.0
    injected: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        unknown = {*self.probabilities, *(kind for kind in self.script if kind)} - set(KINDS)
        if unknown:
            raise ValueError(f"The fault {min(unknown)!r} is not one of {', '.join(KINDS)}.")
        self._script = list(self.script)
        self._random = random.Random(self.seed)  # noqa: S311 - repeatable, not secret

    def next(self, *, graphql: bool = False) -> str | None:
        """Return the fault of the next request, or None; `GRAPHQL_KINDS` apply to GraphQL only."""
        if self._script:
            kind = self._script.pop(0)
        else:
            draw, kind = self._random.random(), None
            for candidate, probability in self.probabilities.items():
                draw -= probability
                if draw < 0:
                    kind = candidate
                    break
        if kind in GRAPHQL_KINDS and not graphql:
            return None
        if kind is not None:
            self.injected[kind] += 1
        return kind

    async def replacement(self, kind: str, request: Request) -> Response | None:
        """Return the response to send without processing the request, or None for faults of `corrupt`."""
        if kind in ("500", "502", "504"):
            return Response(b"<html>Server Error</html>", int(kind), media_type="text/html")
        if kind in _ERRORS:
            status, message = _ERRORS[kind]
            headers = {"retry-after": str(self.retry_after)} if kind == "403 retry-after" else {}
            return Response(orjson.dumps({"message": message}), status, headers, "application/json")
        if kind == "untyped error":
            return Response(orjson.dumps({"data": None, "errors": [{"message": _SERVER_ERROR}]}))
        if kind in ("reset", "timeout"):
            if kind == "timeout":
                await asyncio.sleep(self.timeout_seconds)
            transport = request.scope.get("gh_assets.transport")
            if transport is not None:
                transport.abort()
            return Response(status_code=500)
        return None

    def corrupt(self, kind: str, response: Response) -> Response:
        """Inject a fault into a response."""
        if kind == "truncated" and response.status_code == 200:
            return _with_body(response, bytes(response.body[: len(response.body) // 2]))
        if kind == "wrong link" and "link" in response.headers:
            response.headers["link"] = '<http://127.0.0.1:9/nowhere?page=999999>; rel="next"'
        if kind == "slow":
            return _Slow(response, self.slow_seconds)
        if kind in ("no limits", "absurd limits"):
            self._corrupt_limits(kind, response)
        if kind in GRAPHQL_KINDS and response.status_code == 200:
            return self._corrupt_lists(kind, response)
        return response

    def _corrupt_limits(self, kind: str, response: Response) -> None:
        names = [name for name in response.headers if name.startswith("x-ratelimit-")]
        for name in names:
            del response.headers[name]
        if kind == "absurd limits" and names:
            reset = self._random.choice(["1672531200", "0", "4102444800", "99999999999999", "soon", "-1"])
            response.headers.update(
                {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}
            )

    def _corrupt_lists(self, kind: str, response: Response) -> Response:
        """Make parts of some lists in a GraphQL response fail, at any depth."""
        content = orjson.loads(response.body)
        lists = list(_lists_of(content.get("data") or {}))
        if not lists:
            self.injected[kind] -= 1
            return response
        errors = content.setdefault("errors", [])
        for holder, name, path in self._random.sample(lists, 1 + len(lists) // 10):
            error: dict[str, Any] = {"message": _SERVER_ERROR}
            if (type_ := self._random.choice([None, "INTERNAL", "RESOURCE_LIMITS_EXCEEDED"])) is not None:
                error["type"] = type_
            if kind == "failed entries":
                positions = range(len(holder[name]))
                for position in self._random.sample(positions, min(len(positions), self._random.choice([1, 3, 90]))):
                    holder[name][position] = None
                    errors.append(error | {"path": [*path, name, position, "node"]})
            elif kind == "null edges":
                holder[name] = None
                errors.append(error | {"path": [*path, name]})
            else:
                parent = content["data"]
                for part in path[:-1]:
                    parent = parent[part]
                parent[path[-1]] = None
                errors.append(error)
        if not errors:  # all lists were empty
            self.injected[kind] -= 1
            del content["errors"]
        return _with_body(response, orjson.dumps(content))


def _with_body(response: Response, content: bytes) -> Response:
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return Response(content, response.status_code, headers)


def _lists_of(data: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, list[str]]]:
    """Yield the lists of connections: the object that holds each, its key, and the path of the object."""
    for alias, node in data.items():
        for name, page in node.items() if isinstance(node, dict) else ():
            for entries in ("edges", "nodes"):
                if isinstance(page, dict) and isinstance(page.get(entries), list):
                    yield page, entries, [alias, name]


class _Slow(Response):
    """A response whose body is sent in two parts, with a pause."""

    def __init__(self, response: Response, seconds: float) -> None:
        super().__init__(bytes(response.body), response.status_code)
        self.raw_headers = response.raw_headers
        self.seconds = seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = len(self.body) // 2
        await send({"type": "http.response.body", "body": bytes(self.body[:half]), "more_body": True})
        await asyncio.sleep(self.seconds)
        await send({"type": "http.response.body", "body": bytes(self.body[half:])})


class FaultyProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which gives the application access to its transport so that it can reset connections."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.scope["gh_assets.transport"] = self.transport  # type: ignore[typeddict-unknown-key]
