"""The homes of version 0.x kept their buckets in folders of fake-gcs-server: its objects are taken over once.

Its layout: ``gcs/BUCKET/NAME``, the name as it is; what is said of an object stands in the file's extended attribute
``user.metadata`` as JSON.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import orjson

from gh_assets.embedded.bucket.files import Draft, Entry, Files, encoded


def adopt(files: Files, old: Path) -> int:
    """Take over what lies in a folder of fake-gcs-server, which is then removed; gives how many objects it was.

    The files are linked. Cut off at any moment, it can be done again.
    """
    if not old.is_dir():
        return 0
    buckets, objects = {}, []
    for folder in sorted(path for path in old.iterdir() if path.is_dir()):
        buckets[folder.name] = _text(dt.datetime.fromtimestamp(folder.stat().st_mtime, dt.UTC))
        for path in sorted(found for found in folder.rglob("*") if found.is_file()):
            objects.append((_entry(folder, path), path))
    files.adopt(buckets, objects)
    shutil.rmtree(old)
    return len(objects)


def _entry(folder: Path, path: Path) -> Entry:
    status = path.stat()
    written = _text(dt.datetime.fromtimestamp(status.st_mtime, dt.UTC))
    said = _reported(path)
    if not said.get("Crc32c") or not said.get("Md5Hash"):
        draft = Draft.of(path)
        said |= {"Crc32c": encoded(draft.crc32c.to_bytes(4, "big")), "Md5Hash": encoded(draft.md5.digest())}
    properties: dict[str, Any] = {"contentType": said.get("ContentType") or "application/octet-stream"}
    if said.get("Metadata"):
        properties["metadata"] = said["Metadata"]
    return Entry(
        bucket=folder.name,
        name=path.relative_to(folder).as_posix(),
        generation=int(said.get("Generation") or status.st_mtime_ns // 1000),
        metageneration=1,
        size=status.st_size,
        crc32c=said["Crc32c"],
        md5=said["Md5Hash"],
        created=said.get("Created") or written,
        updated=said.get("Updated") or written,
        properties=properties,
        file=secrets.token_hex(16),
    )


def _reported(path: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(os.getxattr(path, "user.metadata"))
    except (OSError, AttributeError, orjson.JSONDecodeError):  # a file system or a platform without attributes
        return {}
    return found if isinstance(found, dict) else {}


def _text(moment: dt.datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
