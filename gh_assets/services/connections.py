"""Connections to MongoDB, Cloud Storage and GitHub, or to their embedded counterparts, according to the settings."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pymongo
import requests
from pydantic import SecretStr
from pymongo.errors import ConfigurationError as MongoConfigurationError
from pymongo.errors import InvalidURI, OperationFailure, PyMongoError

from gh_assets.embedded import servers as embedded
from gh_assets.errors import AuthenticationError, ConfigurationError, ServiceUnavailableError
from gh_assets.github.client import AppCredentials, GitHubClient
from gh_assets.github.ledger import MongoLedger
from gh_assets.github.retries import RetryPolicy
from gh_assets.settings import DEFAULT_AWESOME_LISTS, GITHUB_COM_API, Settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.migrations import migrate
from gh_assets.storage.mongo import Collections, MongoDatabase, mongo_reason
from gh_assets.storage.objects import CloudStorageClient, ObjectStore, make_client

MONGO_SECONDS = 15.0
"""Default timeout for selecting a MongoDB server."""


def connect_mongo(settings: Settings, seconds: float | None = None) -> MongoDatabase:
    """Connect to the project's database, and migrate it.

    Parameters
    ----------
    settings : Settings
    seconds : float, optional
        Timeout of this and every later call, by default `MONGO_SECONDS`.

    Raises
    ------
    ConfigurationError, AuthenticationError, ServiceUnavailableError
        Without the connection string, which may contain a password.
    """
    if settings.mongo_uri is None:
        uri, where = embedded.mongo_uri(settings.home_path), "the embedded MongoDB"
    else:
        uri, where = settings.mongo_uri.get_secret_value(), "the MongoDB of MONGO_URI"
    wait = int(1000 * (MONGO_SECONDS if seconds is None else seconds))
    defaults: dict[str, Any] = {"appname": "gh_assets", "w": "majority", "retryWrites": True, "retryReads": True}
    defaults |= {"serverSelectionTimeoutMS": wait, "connectTimeoutMS": wait}
    # Options of the connection string take precedence; pymongo prefers keyword arguments.
    given = {option.partition("=")[0].lower() for option in re.split("[&;]", uri.partition("?")[2])}
    options = {name: value for name, value in defaults.items() if name.lower() not in given}
    try:
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri, tz_aware=True, **options)
    except (InvalidURI, MongoConfigurationError, ValueError) as error:
        raise ConfigurationError(
            f"MONGO_URI is not a valid connection string ({type(error).__name__}): "
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
    database = client[settings.mongo_database]
    try:
        migrate(database)
    except BaseException:
        client.close()
        raise
    return database


@contextmanager
def open_mongo(settings: Settings) -> Iterator[MongoDatabase]:
    """Connect to the project's database for the duration of the block; see `connect_mongo`."""
    database = connect_mongo(settings)
    try:
        yield database
    finally:
        database.client.close()


def connect_gcs(settings: Settings) -> CloudStorageClient:
    """Create a client of Google Cloud Storage, or of the embedded server."""
    connections = settings.workers + 2
    if not settings.uses_embedded_gcs:
        return make_client(settings.gcs_project, connections=connections)
    endpoint, token = embedded.cloud_storage(settings.home_path)
    return make_client(settings.gcs_project, endpoint, SecretStr(token), connections)


def data_store(settings: Settings, client: CloudStorageClient | None = None) -> ObjectStore:
    """Return the bucket of the assets."""
    return ObjectStore(client or connect_gcs(settings), settings.data_bucket, create=settings.uses_embedded_gcs)


def asset_store(settings: Settings, client: CloudStorageClient | None = None) -> AssetStore:
    """Return the typed store of the assets."""
    return AssetStore(data_store(settings, client), settings.workers, settings.keep_versions)


def model_store(settings: Settings, client: CloudStorageClient | None = None) -> ObjectStore:
    """Return the bucket of the models."""
    return ObjectStore(client or connect_gcs(settings), settings.gcs_model_bucket, create=settings.uses_embedded_gcs)


def connect_github(
    settings: Settings,
    database: MongoDatabase | None = None,
    *,
    max_requests: int | None = None,
    policy: RetryPolicy | None = None,
) -> GitHubClient:
    """Create a client of GitHub, or of the home's stand-in if no token is set.

    Parameters
    ----------
    settings : Settings
    database : pymongo database, optional
        Database through which processes share their quota.
    max_requests : int, optional
        Maximum number of requests.
    policy : RetryPolicy, optional
        By default that of the collector.

    Raises
    ------
    ConfigurationError
        If GITHUB_API_URL is set without a token, or the tokens cannot be read.
    """
    ledger = MongoLedger(database[Collections.GITHUB_BUDGETS]) if database is not None else None
    policy = policy or RetryPolicy(in_flight=settings.workers)
    url, tokens, apps = settings.github_api_url, settings.github_tokens(), []
    if settings.github_app_id is not None:
        key = settings.github_app_key()
        apps.append(AppCredentials(settings.github_app_id, settings.github_app_installations, key))
    if settings.uses_standin:
        if url != GITHUB_COM_API:
            raise ConfigurationError("GITHUB_API_URL is set, but no token: set GITHUB_TOKENS, too.")
        url, token = embedded.github_standin(settings.home_path)
        tokens = [SecretStr(token)]
        policy = replace(policy, points_a_minute={})  # the stand-in is not shared, so requests need no pace
    return GitHubClient(url, tokens, apps=apps, policy=policy, ledger=ledger, max_requests=max_requests)


def awesome_lists(settings: Settings, client: GitHubClient) -> list[str]:
    """Return the awesome lists of the settings, by default those of the stand-in or the default lists."""
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
