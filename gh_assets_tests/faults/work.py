"""The work of the processes that the tests kill, by name; each reports what was acknowledged."""

import datetime as dt
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pymongo
import scipy.sparse as sp
from pydantic import SecretStr

from gh_assets.embedded import servers as embedded
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import ModelCard, ModelRegistry, Promotion
from gh_assets.registry.cache import ModelCache
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.objects import ObjectStore, make_client
from gh_assets_tests.faults.proxy import traced_steps
from gh_assets_tests.support.matrices import with_ids

ROWS = 400


class ServiceClients:
    """Clients of the services at given ports: registry, assets and cache."""

    def __init__(self, home: Path, mongo: int, gcs: int, database: str, bucket: str, folder: Path) -> None:
        options = "serverMonitoringMode=poll&w=majority&serverSelectionTimeoutMS=5000&socketTimeoutMS=5000"
        uri = f"{embedded.mongo_uri_at(home, mongo)}&{options}"
        self.client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri, tz_aware=True)
        token = SecretStr((home / "run" / "bucket-token").read_text())
        self.objects = ObjectStore(make_client(endpoint=f"http://127.0.0.1:{gcs}", token=token), bucket, create=True)
        self.registry = ModelRegistry(self.objects, self.client[database]["models"])
        self.assets = AssetStore(ObjectStore(self.objects.client, f"{bucket}-data", create=True), workers=2)
        self.cache = ModelCache(folder / "cache")
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        self.client.close()
        self.objects.client.close()


def content(number: int) -> bytes:
    return b"model %d\n" % number * 500


def table(number: int) -> pl.DataFrame:
    """Return a table whose rows all have its number, so that a mixture of two tables is detected."""
    return pl.DataFrame({"number": [number] * ROWS, "row": range(ROWS)})


def matrix(number: int) -> UserItemMatrix:
    return with_ids(sp.csr_array(np.eye(4, 5 + number % 7, dtype=np.float32)))


def save(clients: ServiceClients, number: int) -> object:
    folder = clients.folder / f"to save {number}"
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(content(number))
    model = clients.registry.save(folder, ModelCard("recvae", float(number)), file_name="model", archive="gzip")
    return [model.version, number]


def save_again(clients: ServiceClients, _number: int) -> int:
    """Save the same bytes again; their object exists and may be orphaned."""
    path = clients.folder / "same.bin"
    path.write_bytes(content(0))
    return clients.registry.save(path, ModelCard("same", 0.5)).version


def promote(clients: ServiceClients, number: int) -> object:
    model = clients.registry.latest("recvae")
    move = clients.registry.promote(Promotion(model.name, model.version, why=f"work {number}"))
    return [move.revision, move.version, f"work {number}"]


def rollback(clients: ServiceClients, number: int) -> object:
    move = clients.registry.rollback(why=f"work {number}")
    return [move.revision, move.version, f"work {number}"]


def delete(clients: ServiceClients, number: int) -> object:
    path = clients.folder / "to delete.bin"
    path.write_bytes(content(number))
    version = clients.registry.save(path, ModelCard("deleted", 0.5)).version
    clients.registry.delete("deleted", version, why=f"work {number}")
    return version


def sweep(clients: ServiceClients, _number: int) -> object:
    return len(clients.registry.sweep(dt.timedelta(0)))


def download(clients: ServiceClients, _number: int) -> object:
    model = clients.registry.best("recvae")
    path = clients.registry.download(model, clients.folder / "out", unpack=True)
    assert (path / "weights.bin").read_bytes() == content(int(model.score or 0))
    with clients.cache.fetched(clients.registry, model) as kept:
        assert (kept / "weights.bin").read_bytes() == content(int(model.score or 0))
    clients.cache.save_selection("best", model)
    return model.version


def write_table(clients: ServiceClients, number: int) -> object:
    clients.assets.write_table("anything", table(number))
    return number


def write_partitions(clients: ServiceClients, number: int) -> object:
    tables = ((f"owner/{name}", table(number)) for name in "abc")
    return [stored.name for stored in clients.assets.write_tables("parts", tables)] and number


def write_matrix(clients: ServiceClients, number: int) -> object:
    clients.assets.write_matrix("user_item_matrix", matrix(number))
    return number


MODEL_WORK = (save, save_again, promote, rollback, delete, sweep, download)
ASSET_WORK = (write_table, write_partitions, write_matrix)
WORKS: dict[str, Callable[[ServiceClients, int], object]] = {work.__name__: work for work in (*MODEL_WORK, *ASSET_WORK)}


def run(
    name: str, number: int, addresses: tuple[Path, int, int, str, str, Path], results: Connection, steps: socket.socket
) -> None:
    """Do the work in a process of its own, with every step traced, and send the acknowledged result."""
    clients = ServiceClients(*addresses)
    results.send("ready")
    results.recv()
    with traced_steps(steps):
        result = WORKS[name](clients, number)
    results.send(result)
    results.recv()
    os._exit(0)  # the driver's threads would take half a second to end
