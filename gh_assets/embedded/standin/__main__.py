"""The process of the embedded stand-in; its command for users is ``gh-assets github-standin``."""

import argparse
import datetime as dt
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.faults import FaultyProtocol
from gh_assets.embedded.standin.large import large_world
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.synthetic import synthetic_world
from gh_assets.embedded.standin.world import World, read_world
from gh_assets.errors import GhAssetsError


def generate_world(name: str, seed: int, **size: int) -> World:
    """Generate the ``synthetic`` world or a ``large`` one, with numbers of repositories and users other than usual.

    The stars of a large one go on arriving until the end of the year, and in December until that of the next one: it
    is the same after a restart.
    """
    if name == "synthetic":
        return synthetic_world(seed, **size)
    now = dt.datetime.now(dt.UTC)
    next_year = (now + dt.timedelta(days=31)).year + 1
    world = large_world(seed, **size, until=int(dt.datetime(next_year, 1, 1, tzinfo=dt.UTC).timestamp()))
    world.advance(now.timestamp())
    return world


def serve(standin: Standin, *, port: int = 0, fd: int | None = None) -> None:
    """Serve on 127.0.0.1, or on a listening socket, until the process is stopped."""
    config = uvicorn.Config(
        standin.app(),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,  # the stand-in sends its own time
        http=FaultyProtocol,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(None if fd is None else [socket.socket(fileno=fd)])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="GitHub stand-in of gh_assets")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the listening socket")
    parser.add_argument("--token-file", type=Path, required=True, help="file with the accepted tokens, one a line")
    parser.add_argument("--stars", type=Path)
    parser.add_argument("--awesome", type=Path, action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=Limits.requests, help="requests an hour and token")
    options = parser.parse_args(arguments)
    try:
        world = synthetic_world(options.seed) if options.stars is None else read_world(options.stars, options.awesome)
    except GhAssetsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - its log, which the error message of its start quotes
        return 1
    tokens = options.token_file.read_text(encoding="utf-8").split()
    serve(Standin(world, tokens, Limits(requests=options.limit)), fd=options.fd)
    return 0


if __name__ == "__main__":
    sys.exit(main())
