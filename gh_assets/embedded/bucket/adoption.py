"""Adoption of the buckets of version 0.x, which were folders of fake-gcs-server.

Their layout is ``gcs/BUCKET/NAME``; the description of an object is JSON in the extended attribute ``user.metadata`` of
its file.
"""

import datetime as dt
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import orjson

from gh_assets.embedded.bucket.files import Draft, Entry, Files, timestamp


def adopt(files: Files, old: Path) -> int:
    """Adopt the objects of a folder of fake-gcs-server, remove the folder, and return the number of objects.

    Files are linked, not copied. An interrupted adoption can be repeated.
    """
    if not old.is_dir():
        return 0
    buckets, objects = {}, []
    for folder in sorted(path for path in old.iterdir() if path.is_dir()):
        buckets[folder.name] = _written_at(folder)
        for path in sorted(file for file in folder.rglob("*") if file.is_file()):
            objects.append((_entry(folder, path), path))
    files.adopt(buckets, objects)
    shutil.rmtree(old)
    return len(objects)


def _entry(folder: Path, path: Path) -> Entry:
    status = path.stat()
    written = _written_at(path)
    attributes = _attributes(path)
    crc32c, md5 = attributes.get("Crc32c"), attributes.get("Md5Hash")
    if not crc32c or not md5:
        _, crc32c, md5 = Draft.of(path).checksums
    properties: dict[str, Any] = {"contentType": attributes.get("ContentType") or "application/octet-stream"}
    if attributes.get("Metadata"):
        properties["metadata"] = attributes["Metadata"]
    return Entry(
        bucket=folder.name,
        name=path.relative_to(folder).as_posix(),
        generation=int(attributes.get("Generation") or status.st_mtime_ns // 1000),
        metageneration=1,
        size=status.st_size,
        crc32c=crc32c,
        md5=md5,
        created=attributes.get("Created") or written,
        updated=attributes.get("Updated") or written,
        properties=properties,
        file=secrets.token_hex(16),
    )


def _attributes(path: Path) -> dict[str, Any]:
    try:
        attributes = orjson.loads(os.getxattr(path, "user.metadata"))
    except (OSError, AttributeError, orjson.JSONDecodeError):  # a file system or platform without attributes
        return {}
    return attributes if isinstance(attributes, dict) else {}


def _written_at(path: Path) -> str:
    return timestamp(dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC))
