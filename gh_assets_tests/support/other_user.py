"""Attacks by another user of the machine: ``python -m gh_assets_tests.support.other_user HOME PORT…``, as root.

The process drops root's rights as `setpriv --reuid=nobody --clear-groups` does. It knows paths and ports but no secret,
and tries the files of the home, Google's JSON API (also with names that leave the folder), MongoDB's wire protocol and
GitHub's endpoints. It prints, as JSON, the accesses that succeeded.
"""

import json
import os
import socket
import struct
import sys
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import bson

NOT_FOUND = 65_534

MARK = "an intruder was here"

CLIMBING = "../../../../../../../../../../tmp/gh-assets-intruder"

HTTP = [
    ("GET", "/storage/v1/b?project=x"),
    ("GET", "/storage/v1/b/gh-assets/o"),
    ("GET", "/storage/v1/b/gh-assets/o/secret?alt=media"),
    ("GET", "/download/storage/v1/b/gh-assets/o/secret?alt=media"),
    ("GET", "/gh-assets/secret"),
    ("GET", "/_internal/config"),
    ("PUT", "/_internal/config"),
    ("POST", "/storage/v1/b"),
    ("POST", "/upload/storage/v1/b/gh-assets/o?uploadType=media&name=secret"),
    ("POST", f"/upload/storage/v1/b/gh-assets/o?uploadType=media&name={CLIMBING}"),
    ("POST", "/upload/storage/v1/b/gh-assets/o?uploadType=resumable&name=secret"),
    ("DELETE", "/storage/v1/b/gh-assets/o/secret"),
    ("DELETE", "/storage/v1/b/gh-assets"),
    ("GET", "/__standin__"),
    ("GET", "/__standin__/clock"),
    ("POST", "/__standin__/clock"),
    ("GET", "/rate_limit"),
    ("GET", "/user"),
    ("GET", "/users/person-1/starred"),
    ("POST", "/graphql"),
]

COMMANDS: list[dict[str, Any]] = [
    {"listDatabases": 1, "$db": "admin"},
    {"find": "users", "filter": {}, "$db": "gh_assets"},
    {"insert": "users", "documents": [{"_id": MARK}], "$db": "gh_assets"},
    {"delete": "users", "deletes": [{"q": {}, "limit": 0}], "$db": "gh_assets"},
    {"dropDatabase": 1, "$db": "gh_assets"},
    {"createUser": "intruder", "pwd": "x", "roles": ["root"], "$db": "admin"},
    {"shutdown": 1, "force": True, "$db": "admin"},
]


def give_up_rights() -> None:
    """Become a user without any rights."""
    "localhost".encode("idna")  # imported lazily, perhaps from a folder that only root can read
    os.setgroups([])
    os.setgid(NOT_FOUND)
    os.setuid(NOT_FOUND)


def files(home: Path) -> list[str]:
    """Return the files of a home that can be listed, read or written."""
    got = []
    for path in (home, home / "run", home / "bucket", home / "mongo", home / "run" / "bucket-token"):
        with suppress(OSError):
            got.append(f"saw {[entry.name for entry in path.iterdir()] if path.is_dir() else path.read_bytes()[:9]!r}")
        with suppress(OSError):
            (path / "intruder").write_text(MARK)
            got.append(f"wrote into {path}")
    return got


def http(port: int) -> list[str]:
    """Return the requests that succeeded."""
    got = []
    for method, path in HTTP:
        for headers in ({}, {"Authorization": "Bearer standin"}, {"Origin": "http://evil.example"}):
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            with suppress(OSError, HTTPException):
                connection.request(method, path, MARK if method in ("POST", "PUT") else None, headers)
                response = connection.getresponse()
                body = response.read(200)
                if response.status < 400 or response.getheader("access-control-allow-origin"):
                    got.append(f"{method} {path}: {response.status} {body!r}")
            connection.close()
    return got


def mongo(port: int) -> list[str]:
    """Return the commands that succeeded."""
    got = []
    for command in COMMANDS:
        document = bson.encode(command)
        message = struct.pack("<iiiiIB", 21 + len(document), 1, 0, 2013, 0, 0) + document
        with (
            suppress(OSError, ValueError, bson.errors.BSONError),
            socket.create_connection(("127.0.0.1", port), 5) as link,
        ):
            link.settimeout(5)
            link.sendall(message)
            response = link.recv(1 << 16)
            if len(response) > 21 and bson.decode(response[21:]).get("ok") == 1:
                got.append(f"{next(iter(command))}: ok")
    return got


if __name__ == "__main__":
    give_up_rights()
    found = files(Path(sys.argv[1])) + [one for port in sys.argv[2:] for one in http(int(port)) + mongo(int(port))]
    sys.stdout.write(json.dumps(found))
