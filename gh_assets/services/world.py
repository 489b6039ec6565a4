"""The world of a home: the GitHub server, file of stars or synthetic world that its data come from."""

from pathlib import Path

import pymongo

from gh_assets.collector.worlds import SYNTHETIC, identity_of_file
from gh_assets.embedded import servers as embedded
from gh_assets.errors import ConfigurationError, WorldMismatchError
from gh_assets.settings import GITHUB_COM_API, Settings
from gh_assets.storage.mongo import Collections, MetaId, MongoDatabase


def has_only_archive(settings: Settings) -> bool:
    """Whether the home has no GitHub server, only hours of GH Archive."""
    return settings.uses_standin and embedded.read_world(settings.home_path).archive


def github_site(settings: Settings) -> str | None:
    """Return the web site of the repositories, such as `https://github.com`; None if they are synthetic."""
    if settings.uses_standin:
        world = embedded.read_world(settings.home_path)
        return "https://github.com" if world.stars is not None or world.archive else None
    if settings.github_api_url.rstrip("/") == GITHUB_COM_API:
        return "https://github.com"
    # GitHub Enterprise serves its pages beside its API; the pages of any other API are unknown.
    base, api, _ = settings.github_api_url.rstrip("/").partition("/api/v3")
    return base if api else None


def world_identity(settings: Settings, standin: embedded.HomeWorld | None = None) -> tuple[str, str]:
    """Return the identity and the title of the world that the settings select.

    Parameters
    ----------
    settings : Settings
    standin : HomeWorld, optional
        World of the stand-in, by default the one that the home has chosen.

    Returns
    -------
    identity : str
        Equal for equal worlds.
    title : str
        Description for users.

    Raises
    ------
    ConfigurationError
        If the file of the world cannot be read.
    """
    if not settings.uses_standin:
        return settings.github_api_url.rstrip("/"), f"GitHub at {settings.github_api_url}"
    world = standin or embedded.read_world(settings.home_path)
    if world.archive:
        # GH Archive has the same repositories and users, so the home can continue with tokens.
        return GITHUB_COM_API, "github.com, by GH Archive"
    if world.stars is None:
        return f"{SYNTHETIC}{world.seed}", f"the synthetic world (seed {world.seed})"
    path = Path(world.stars)
    try:
        identity = identity_of_file(path)
    except OSError as error:
        raise ConfigurationError(f"{path}, this home's world, cannot be read: {error.strerror}.") from error
    return identity, f"the stars of {path.name}"


def claim_world(settings: Settings, database: MongoDatabase, standin: embedded.HomeWorld | None = None) -> None:
    """Record the world of the database, or check that it is the same.

    The ids of different worlds collide, so mixing them would join the stars of unrelated users.

    Raises
    ------
    WorldMismatchError
        If the database holds data of another world.
    """
    identity, title = world_identity(settings, standin)
    meta, claim = database[Collections.META], {"$setOnInsert": {"identity": identity, "title": title}}
    after = pymongo.ReturnDocument.AFTER
    claimed = meta.find_one_and_update({"_id": MetaId.WORLD}, claim, upsert=True, return_document=after)
    if claimed is not None and claimed["identity"] != identity:
        raise WorldMismatchError(
            f"This home holds the data of {claimed['title']}; the data of {title} need a separate home. Set "
            "GH_ASSETS_HOME to a new folder (and, with your own services, MONGO_DATABASE and GCS_BUCKET)."
        )
