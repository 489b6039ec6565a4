"""Serving the application: `gh-assets serve`. Slow and malformed clients are dealt with here, below the application."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gh_assets.errors import ConfigurationError
from gh_assets.settings import Settings, split_words
from gh_assets.web.app import build_app
from gh_assets.web.logs import log_json
from gh_assets.web.safety import LOCAL, MOST_ADDRESS

HEAD_SECONDS = 10.0
"""How long a request's head may take: whoever opens connections and says nothing gets no more."""

MOST_HEAD = 2 * MOST_ADDRESS

CONNECTIONS = 1000
"""Connections at once; more are told that it is too much."""

STOP_SECONDS = 15
"""How long requests that have begun may take when the server stops."""


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 with a limit on how long a head may take, and how large it may be."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MOST_HEAD and not self.transport.is_closing():
            self._end(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        if self._head_timer is None:
            self._head_bytes = 0
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._stop_waiting()
        super().on_headers_complete()

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._end(b"408 Request Timeout")

    def _end(self, status: bytes) -> None:
        self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()


def configuration(settings: Settings, host: str, port: int, **more: Any) -> uvicorn.Config:
    """How the application is served.

    Parameters
    ----------
    settings : Settings
    host, port : str, int
        Where it listens.
    """
    # Listening to others means that names are given to it elsewhere: then only the settings can say which.
    hosts = (*LOCAL, host, *settings.serve_hosts) if host in LOCAL or settings.serve_hosts else ()
    proxies = split_words(settings.trusted_proxies or "")
    return uvicorn.Config(
        build_app(settings, hosts=hosts),
        host=host,
        port=port,
        http=PatientProtocol,
        ws="none",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies or None,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=STOP_SECONDS,
        **more,
    )


class AnnouncingServer(uvicorn.Server):
    """Says where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, tell: Callable[[str], None]) -> None:
        super().__init__(config)
        self._tell = tell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                self._tell(f"http://{f'[{host}]' if ':' in host else host}:{port}")


def serve(settings: Settings, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Serve until somebody ends it; requests that have begun are answered.

    Parameters
    ----------
    settings : Settings
    host, port : str, int
        Where to listen; port 0: any that is free.
    tell : callable
        Told the address.

    Raises
    ------
    ConfigurationError
        If nobody can listen there.
    """
    log_json()
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass  # uvicorn itself would only log why it cannot
    except OSError as error:
        raise ConfigurationError(f"Nobody can listen on {host} port {port}: {os.strerror(error.errno or 0)}.") from None
    AnnouncingServer(configuration(settings, host, port), tell).run()
