"""The bucket's process: ``python -m gh_assets.embedded.bucket``, as `gh_assets.embedded.servers` starts it."""

from __future__ import annotations

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
    parser.add_argument("--folder", type=Path, required=True, help="where buckets lie")
    parser.add_argument("--old-folder", type=Path, required=True, help="where version 0.x had them")
    parser.add_argument("--token-file", type=Path, required=True, help="file with the token that requests carry")
    options = parser.parse_args(arguments)
    keep_private()
    files = Files(options.folder)
    adopt(files, options.old_folder)
    server = BucketServer(files, options.token_file.read_text(encoding="utf-8").strip())
    config = uvicorn.Config(
        server,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    # Not by uvicorn's own `fd`, which takes every socket for one of the kind that has no Nagle's delays to turn off.
    uvicorn.Server(config).run([socket.socket(fileno=options.fd)])
    files.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
