"""Connections to MongoDB, Cloud Storage and GitHub as the settings say: the real one, or the embedded one.

The one place that decides between them. Dagster's resources, the registry's functions and the CLI all come here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymongo
import requests
from pydantic import SecretStr
from pymongo.database import Database
from pymongo.errors import ConfigurationError as MongoConfigurationError
from pymongo.errors import InvalidURI, OperationFailure, PyMongoError, WriteConcernError

from gh_assets.embedded import servers as embedded
from gh_assets.errors import (
    AuthenticationError,
    ConfigurationError,
    InputError,
    ServiceUnavailableError,
    WorldMismatchError,
)
from gh_assets.github.client import AppCredentials, GitHubClient
from gh_assets.github.ledger import MongoLedger
from gh_assets.github.rate_limits import RetryPolicy
from gh_assets.settings import DEFAULT_AWESOME_LISTS, GITHUB_COM_API, Settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.objects import CloudStorageClient, ObjectStore, make_client

MONGO_SECONDS = 15.0
"""How long MongoDB is waited for."""

_WORDS_OF_THE_SERVER = {13, 18, 20, 59, 64, 72, 79, 91, 100, 115, 189, 8000, 10107, 11600}
"""Codes of refusals that are about rights, commands, write concerns and the server's state, never about a document."""

_SYNTHETIC, _OF_A_FILE = "synthetic ", "file "
"""How the identities begin of worlds whose ids are made up."""

MongoDatabase = Database[dict[str, Any]]


def connect_mongo(settings: Settings, seconds: float | None = None) -> MongoDatabase:
    """The project's database, reached and answering; waited for at most so long, at every call.

    Parameters
    ----------
    settings : Settings
    seconds : float, optional
        `MONGO_SECONDS`, if not given.

    Raises
    ------
    ConfigurationError, AuthenticationError, ServiceUnavailableError
        None repeats the connection string: it may hold a password.
    """
    if settings.mongo_uri is None:
        uri, where = embedded.mongo_uri(settings.home_path), "the embedded MongoDB"
    else:
        uri, where = settings.mongo_uri.get_secret_value(), "the MongoDB of MONGO_URI"
    wait = int(1000 * (MONGO_SECONDS if seconds is None else seconds))
    defaults: dict[str, Any] = {
        "appname": "gh_assets",
        "w": "majority",
        "retryWrites": True,
        "retryReads": True,
        "serverSelectionTimeoutMS": wait,
        "connectTimeoutMS": wait,
    }
    # What the connection string says wins: pymongo would have it the other way round.
    said = {option.partition("=")[0].lower() for option in re.split("[&;]", uri.partition("?")[2])}
    own = {name: value for name, value in defaults.items() if name.lower() not in said}
    try:
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri, tz_aware=True, **own)
    except (InvalidURI, MongoConfigurationError, ValueError) as error:
        raise ConfigurationError(
            f"MONGO_URI is no valid connection string ({type(error).__name__}): "
            "it has the form mongodb://user:password@host:port/."
        ) from None
    try:
        client.admin.command("ping")
    except OperationFailure as error:
        client.close()
        raise AuthenticationError(f"{where} refused: {mongo_reason(error)}. Check MONGO_URI.") from None
    except PyMongoError as error:
        hosts = ", ".join(f"{host}:{port}" for host, port in sorted(client.topology_description.server_descriptions()))
        client.close()
        raise ServiceUnavailableError(
            f"{where} at {hosts} does not answer ({type(error).__name__}). Start it, or correct MONGO_URI; "
            "unset it to use the embedded server."
        ) from None
    from gh_assets.storage.migrations import migrate  # which builds on this module

    database = client[settings.mongo_database]
    try:
        migrate(database)
    except BaseException:
        client.close()
        raise
    return database


def mongo_reason(error: PyMongoError) -> str:
    """What MongoDB says of a refusal: code, name and, where no document can be in it, its words."""
    if not isinstance(error, OperationFailure):
        return type(error).__name__
    details = error.details or {}
    concern = details.get("writeConcernError") if isinstance(error, WriteConcernError) else None
    stated = concern if isinstance(concern, dict) else details
    name = str(stated.get("codeName") or type(error).__name__)
    words = str(stated.get("errmsg") or "").split("\n")[0][:200].rstrip(".")
    # A duplicate key or a document that is not valid is repeated by the server, and may be about a person.
    told = f": {words}" if words and error.code in _WORDS_OF_THE_SERVER else ""
    return f"{name}{'' if error.code is None else f' (code {error.code})'}{told}"


@contextmanager
def open_mongo(settings: Settings) -> Iterator[MongoDatabase]:
    """The project's database for the length of a block; see `connect_mongo`."""
    database = connect_mongo(settings)
    try:
        yield database
    finally:
        database.client.close()


def connect_gcs(settings: Settings) -> CloudStorageClient:
    """A Cloud Storage client: Google's with its own credentials, or of the embedded server."""
    connections = settings.workers + 2
    if not settings.uses_embedded_gcs:
        return make_client(settings.gcs_project, connections=connections)
    endpoint, token = embedded.cloud_storage(settings.home_path)
    return make_client(settings.gcs_project, endpoint, SecretStr(token), connections)


def data_store(settings: Settings, client: CloudStorageClient | None = None) -> ObjectStore:
    """The bucket of the assets' data."""
    return ObjectStore(client or connect_gcs(settings), settings.data_bucket, create=settings.uses_embedded_gcs)


def asset_store(settings: Settings, client: CloudStorageClient | None = None) -> AssetStore:
    """Typed access to the assets' data."""
    return AssetStore(data_store(settings, client), settings.workers, settings.keep_versions)


def model_store(settings: Settings, client: CloudStorageClient | None = None) -> ObjectStore:
    """The bucket of the models."""
    return ObjectStore(client or connect_gcs(settings), settings.gcs_model_bucket, create=settings.uses_embedded_gcs)


def connect_github(
    settings: Settings,
    database: MongoDatabase | None = None,
    *,
    max_requests: int | None = None,
    policy: RetryPolicy | None = None,
) -> GitHubClient:
    """A client of GitHub, or of the home's stand-in when no token is set.

    Parameters
    ----------
    settings : Settings
    database : pymongo database, optional
        Shares the quota with all other processes that use the same database.
    max_requests : int, optional
        Ask at most so often.
    policy : RetryPolicy, optional
        How patient it is; else as the collector.

    Raises
    ------
    ConfigurationError
        If GITHUB_API_URL is set without a token, or the tokens cannot be read.
    """
    ledger = MongoLedger(database["github_budgets"]) if database is not None else None
    policy = policy or RetryPolicy(in_flight=settings.workers)
    if not settings.uses_standin:
        apps = []
        if settings.github_app_id is not None:
            key = settings.github_app_key()
            apps.append(AppCredentials(settings.github_app_id, settings.github_app_installations, key))
        tokens = settings.github_tokens()
        return GitHubClient(
            settings.github_api_url, tokens, apps=apps, policy=policy, ledger=ledger, max_requests=max_requests
        )
    if settings.github_api_url != GITHUB_COM_API:
        raise ConfigurationError("GITHUB_API_URL is set, but no token: set GITHUB_TOKENS, too.")
    url, token = embedded.github_standin(settings.home_path)
    # Nobody else uses it: there is no pace to keep.
    policy = replace(policy, points_a_minute={})
    return GitHubClient(url, [SecretStr(token)], policy=policy, ledger=ledger, max_requests=max_requests)


def has_only_archive(settings: Settings) -> bool:
    """Whether there is no GitHub to ask, only hours of GH Archive."""
    return settings.uses_standin and embedded.read_world(settings.home_path).archive


def awesome_lists(settings: Settings, client: GitHubClient) -> list[str]:
    """The lists to read: those of the settings, else the stand-in's own, else three well-known ones."""
    if settings.awesome_lists:
        return settings.awesome_lists
    if settings.uses_standin:
        try:
            _, token = embedded.github_standin(settings.home_path)
            headers = {"authorization": f"Bearer {token}"}
            accounting = requests.get(f"{client.api_url}/__standin__", headers=headers, timeout=30).json()
        except requests.RequestException as error:
            raise ServiceUnavailableError(
                f"The GitHub stand-in does not answer ({type(error).__name__}). Run again."
            ) from None
        return [str(name) for name in accounting["lists"]]
    return list(DEFAULT_AWESOME_LISTS)


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
        return f"{_SYNTHETIC}{world.seed}", f"the synthetic world (seed {world.seed})"
    path = Path(world.stars)
    try:
        identity = identity_of_file(path)
    except OSError as error:
        raise ConfigurationError(f"{path}, this home's world, cannot be read: {error.strerror}.") from error
    return identity, f"the stars of {path.name}"


def identity_of_file(path: Path) -> str:
    """The identity of the world that a file of stars makes: that of its content, wherever it lies."""
    with path.open("rb") as file:
        return f"{_OF_A_FILE}{hashlib.file_digest(file, 'sha256').hexdigest()}"


def claim_world(settings: Settings, database: MongoDatabase, standin: embedded.HomeWorld | None = None) -> None:
    """Make sure that the data in this database come from one GitHub only.

    Ids of the synthetic world, of a file and of GitHub collide: mixing them would make wrong people out of them.

    Raises
    ------
    WorldMismatchError
        If the database holds data of another world.
    """
    identity, title = world_identity(settings, standin)
    claimed = database["meta"].find_one_and_update(
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


def is_world_of(database: MongoDatabase, stars: Path) -> bool:
    """Whether the data in this database are of that very file of stars; False if they are GitHub's.

    Raises
    ------
    WorldMismatchError
        If they are of another world whose ids are made up: no row of the file could be matched to it.
    InputError
        If the file cannot be read.
    """
    claimed = database["meta"].find_one({"_id": "world"})
    if claimed is None or not claimed["identity"].startswith((_SYNTHETIC, _OF_A_FILE)):
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
