"""ASGI applications, served in a thread of this process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from gh_assets.embedded.standin.faults import FaultyProtocol


@contextmanager
def in_thread(server: uvicorn.Server) -> Iterator[None]:
    """Run a server in a thread until the end of the block, which begins when it has started."""
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def serving(app: object, **more: Any) -> Iterator[str]:
    """Serve an ASGI application on 127.0.0.1 in a thread; yield its URL."""
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        host="127.0.0.1",
        port=0,
        log_level="error",
        access_log=False,
        lifespan="off",
        http=FaultyProtocol,
        date_header=False,
        **more,
    )
    server = uvicorn.Server(config)
    with in_thread(server):
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
