"""Which GitHub the data of a home come from: a real one, a file of stars or the synthetic world."""

from __future__ import annotations

from pathlib import Path

import pymongo

from gh_assets.collector.worlds import SYNTHETIC, identity_of_file
from gh_assets.embedded import servers as embedded
from gh_assets.errors import ConfigurationError, WorldMismatchError
from gh_assets.settings import GITHUB_COM_API, Settings
from gh_assets.storage.mongo import Collections, MongoDatabase


def has_only_archive(settings: Settings) -> bool:
    """Whether there is no GitHub to ask, only hours of GH Archive."""
    return settings.uses_standin and embedded.read_world(settings.home_path).archive


def world_identity(settings: Settings, standin: embedded.HomeWorld | None = None) -> tuple[str, str]:
    """Which GitHub the settings point to: an identity that is equal for equal worlds, and words for people.

    `standin` is a world to be served in place of the one that the home's stand-in serves now.
    """
    if not settings.uses_standin:
        return settings.github_api_url.rstrip("/"), f"GitHub at {settings.github_api_url}"
    world = standin or embedded.read_world(settings.home_path)
    if world.archive:
        # The same repositories and users as GitHub's own: with tokens the home goes on from there.
        return GITHUB_COM_API, "github.com, as GH Archive tells of it"
    if world.stars is None:
        return f"{SYNTHETIC}{world.seed}", f"the synthetic world (seed {world.seed})"
    path = Path(world.stars)
    try:
        identity = identity_of_file(path)
    except OSError as error:
        raise ConfigurationError(f"{path}, this home's world, cannot be read: {error.strerror}.") from error
    return identity, f"the stars of {path.name}"


def claim_world(settings: Settings, database: MongoDatabase, standin: embedded.HomeWorld | None = None) -> None:
    """Make sure that the data in this database come from one GitHub only.

    Ids of the synthetic world, of a file and of GitHub collide: mixing them would make wrong people out of them.

    Raises
    ------
    WorldMismatchError
        If the database holds data of another world.
    """
    identity, title = world_identity(settings, standin)
    claimed = database[Collections.META].find_one_and_update(
        {"_id": "world"},
        {"$setOnInsert": {"identity": identity, "title": title}},
        upsert=True,
        return_document=pymongo.ReturnDocument.AFTER,
    )
    if claimed is not None and claimed["identity"] != identity:
        raise WorldMismatchError(
            f"This home holds the data of {claimed['title']}; the data of {title} need a home of their own. Set "
            "GH_ASSETS_HOME to a new folder (and with your own services, other MONGO_DATABASE and GCS_BUCKET)."
        )
