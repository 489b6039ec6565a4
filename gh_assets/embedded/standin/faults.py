"""Faults that the stand-in injects, by probability and by script: what networks and GitHub do on a bad day."""

from __future__ import annotations

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

_WENT_WRONG = (
    "Something went wrong while executing your query. This may be the result of a timeout, or it could be a GitHub "
    "bug. Please include `AAAA:1111` when reporting this issue."
)

_REFUSALS = {
    "401": (401, "Bad credentials"),
    "403 abuse": (
        403,
        "You have triggered an abuse detection mechanism. Please wait a few minutes before you try again.",
    ),
    "graphql 400": (400, "Problems parsing JSON"),
}


@dataclass
class Faults:
    """Which requests fail, and how.

    Parameters
    ----------
    probabilities : mapping of str to float
        For each kind of `KINDS`, the share of requests that fail so.
    script : iterable of str or None
        What happens to the first requests, one after another, before probabilities decide; None: nothing.
    seed : int
    timeout_seconds, slow_seconds : float
    retry_after : int
        Seconds that ``403 retry-after`` asks for.
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
            raise ValueError(f"The fault {min(unknown)!r} is none of {', '.join(KINDS)}.")
        self._script = list(self.script)
        self._random = random.Random(self.seed)  # noqa: S311 - to be repeatable, not secret

    def next(self, *, graphql: bool = False) -> str | None:
        """What happens to the next request; what only GraphQL can answer happens to no other."""
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

    async def instead(self, kind: str, request: Request) -> Response | None:
        """The answer that is given without looking at the request; None if it is looked at first (see `spoil`)."""
        if kind in ("500", "502", "504"):
            return Response(b"<html>Server Error</html>", int(kind), media_type="text/html")
        if kind in _REFUSALS:
            status, words = _REFUSALS[kind]
            return Response(orjson.dumps({"message": words}), status, media_type="application/json")
        if kind == "untyped error":
            return Response(orjson.dumps({"data": None, "errors": [{"message": _WENT_WRONG}]}))
        if kind in ("403", "403 retry-after"):
            message = {"message": "You have exceeded a secondary rate limit. Please wait a few minutes."}
            headers = {"retry-after": str(self.retry_after)} if kind == "403 retry-after" else {}
            return Response(orjson.dumps(message), 403, headers, "application/json")
        if kind in ("reset", "timeout"):
            if kind == "timeout":
                await asyncio.sleep(self.timeout_seconds)
            transport = request.scope.get("gh_assets.transport")
            if transport is not None:
                transport.abort()
            return Response(status_code=500)
        return None

    def spoil(self, kind: str, response: Response) -> Response:
        """An answer with a fault in it."""
        if kind == "truncated" and response.status_code == 200:
            content = bytes(response.body)
            spoilt = Response(content[: len(content) // 2], response.status_code, media_type=response.media_type)
            for name, value in response.headers.items():
                if name != "content-length":
                    spoilt.headers[name] = value
            return spoilt
        if kind == "wrong link" and "link" in response.headers:
            response.headers["link"] = '<http://127.0.0.1:9/nowhere?page=999999>; rel="next"'
        if kind == "slow":
            return _Slow(response, self.slow_seconds)
        if kind in ("no limits", "absurd limits"):
            self._spoil_limits(kind, response)
        if kind in GRAPHQL_KINDS and response.status_code == 200:
            return self._spoil_lists(kind, response)
        return response

    def _spoil_limits(self, kind: str, response: Response) -> None:
        named = [name for name in response.headers if name.startswith("x-ratelimit-")]
        for name in named:
            del response.headers[name]
        if kind == "absurd limits" and named:
            reset = self._random.choice(["1672531200", "0", "4102444800", "99999999999999", "soon", "-1"])
            response.headers.update(
                {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}
            )

    def _spoil_lists(self, kind: str, response: Response) -> Response:
        """An answer of GraphQL in which parts of some lists failed, at whatever depth."""
        answer = orjson.loads(response.body)
        lists = list(_lists_of(answer.get("data") or {}))
        if not lists:
            self.injected[kind] -= 1
            return response
        errors = answer.setdefault("errors", [])
        for holder, name, path in self._random.sample(lists, 1 + len(lists) // 10):
            error: dict[str, Any] = {"message": _WENT_WRONG}
            if (type_ := self._random.choice([None, "INTERNAL", "RESOURCE_LIMITS_EXCEEDED"])) is not None:
                error["type"] = type_
            if kind == "failed entries":
                places = range(len(holder[name]))
                for place in self._random.sample(places, min(len(places), self._random.choice([1, 3, 90]))):
                    holder[name][place] = None
                    errors.append(error | {"path": [*path, name, place, "node"]})
            elif kind == "null edges":
                holder[name] = None
                errors.append(error | {"path": [*path, name]})
            else:
                above = answer["data"]
                for part in path[:-1]:
                    above = above[part]
                above[path[-1]] = None
                errors.append(error)
        if not errors:  # all of them were empty
            self.injected[kind] -= 1
            del answer["errors"]
        spoilt = Response(orjson.dumps(answer), media_type=response.media_type)
        spoilt.headers.update({n: v for n, v in response.headers.items() if n != "content-length"})
        return spoilt


def _lists_of(data: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, list[str]]]:
    """The lists in connections: what holds each, under which name, and the path to the holder."""
    for alias, node in data.items():
        for name, page in node.items() if isinstance(node, dict) else ():
            for entries in ("edges", "nodes"):
                if isinstance(page, dict) and isinstance(page.get(entries), list):
                    yield page, entries, [alias, name]


class _Slow(Response):
    """An answer whose body comes in two parts."""

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
    """uvicorn's protocol that lets the application reset its connection."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.scope["gh_assets.transport"] = self.transport  # type: ignore[typeddict-unknown-key]
