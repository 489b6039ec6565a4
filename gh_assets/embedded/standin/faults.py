"""Faults that the stand-in injects, by probability and by script: what networks and GitHub do on a bad day."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gh_assets.embedded.standin.kinds import KINDS


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

    def next(self) -> str | None:
        """What happens to the next request."""
        if self._script:
            kind = self._script.pop(0)
        else:
            draw, kind = self._random.random(), None
            for candidate, probability in self.probabilities.items():
                draw -= probability
                if draw < 0:
                    kind = candidate
                    break
        if kind is not None:
            self.injected[kind] += 1
        return kind

    async def instead(self, kind: str, request: Request) -> Response | None:
        """The answer that is given without looking at the request; None if it is looked at first (see `spoil`)."""
        if kind in ("500", "502", "504"):
            return Response(b"<html>Server Error</html>", int(kind), media_type="text/html")
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
        return response


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
