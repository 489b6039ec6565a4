"""The process of the embedded Cloud Storage, which `gh_assets.embedded.servers` starts."""

import argparse
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from gh_assets.embedded.bucket.adoption import adopt
from gh_assets.embedded.bucket.app import BucketServer
from gh_assets.embedded.bucket.files import Files
from gh_assets.local.home import keep_private


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Cloud Storage of one home")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the listening socket")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the buckets")
    parser.add_argument("--old-folder", type=Path, required=True, help="folder of the buckets of version 0.x")
    parser.add_argument("--token-file", type=Path, required=True, help="file with the bearer token of requests")
    options = parser.parse_args(arguments)
    keep_private()
    files = Files(options.folder)
    adopt(files, options.old_folder)
    server = BucketServer(files, options.token_file.read_text(encoding="utf-8").strip())
    config = uvicorn.Config(
        server, log_level="warning", access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=2
    )
    # uvicorn's own option `fd` assumes a Unix socket, for which it does not disable Nagle's algorithm.
    uvicorn.Server(config).run([socket.socket(fileno=options.fd)])
    files.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
