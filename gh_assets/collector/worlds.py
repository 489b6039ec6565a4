"""Worlds with made-up ids, whose data are never mixed with others, identified by the content of a file."""

import hashlib
from pathlib import Path

from gh_assets.errors import InputError, WorldMismatchError
from gh_assets.storage.mongo import Collections, MetaId, MongoDatabase

SYNTHETIC, OF_A_FILE = "synthetic ", "file "
"""Prefixes of the identities of worlds with made-up ids."""


def identity_of_file(path: Path) -> str:
    """Return the identity of the world of a file of stars, which depends on its content alone."""
    with path.open("rb") as file:
        return f"{OF_A_FILE}{hashlib.file_digest(file, 'sha256').hexdigest()}"


def is_world_of(database: MongoDatabase, stars: Path) -> bool:
    """Return whether the data in the database come from this file of stars; False if they are GitHub's.

    Raises
    ------
    WorldMismatchError
        If they come from another world with made-up ids: no row of the file could be matched to it.
    InputError
        If the file cannot be read.
    """
    claimed = database[Collections.META].find_one({"_id": MetaId.WORLD})
    if claimed is None or not claimed["identity"].startswith((SYNTHETIC, OF_A_FILE)):
        return False
    try:
        same = claimed["identity"] == identity_of_file(stars)
    except OSError as error:
        raise InputError(f"The stars file {stars} cannot be read: {error.strerror}.") from error
    if not same:
        raise WorldMismatchError(
            f"This home holds the data of {claimed['title']}, whose ids are made up: the stars of {stars.name} cannot "
            "be added to them. Set GH_ASSETS_HOME to a new folder (and with your own services, other MONGO_DATABASE "
            f"and GCS_BUCKET), and run gh-assets run --stars {stars.name} there, or set GITHUB_TOKENS."
        )
    return True
