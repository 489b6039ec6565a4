"""The product against Google's testbench of Cloud Storage, and every fault that it can make, at each kind of call."""

import datetime as dt
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from google.cloud.storage import blob

from gh_assets.embedded.supervision import release_all
from gh_assets.errors import GhAssetsError
from gh_assets.registry import ModelCard, ModelRegistry
from gh_assets.services.connections import open_mongo
from gh_assets.settings import load_settings
from gh_assets.storage import objects
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore, checksum, make_client
from gh_assets_tests.faults import storage_testbench as testbench
from gh_assets_tests.faults.storage_testbench import LONG, SURVIVED, Call, FaultInjector
from gh_assets_tests.support.commands import run_json, write_stars

pytestmark = [pytest.mark.slow, testbench.requires_testbench]

SMALL, LARGE = 400 << 10, 3 << 20
"""Sizes of an asset, and of a model that goes in a resumable upload."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    with testbench.running_testbench() as port:
        yield port


@pytest.fixture
def injector(upstream: int) -> Iterator[FaultInjector]:
    with closing(FaultInjector(upstream)) as injector:
        yield injector


def stores_of(upstream: int, *names: str) -> list[ObjectStore]:
    """Return buckets with a direct connection, created if needed."""
    client = make_client(endpoint=f"http://127.0.0.1:{upstream}")
    for name in names:
        if client.lookup_bucket(name) is None:
            client.create_bucket(name)
    return [ObjectStore(client, name) for name in names]


def damaged_objects(store: ObjectStore) -> list[str]:
    """Return the names of objects whose content does not match their checksum and size."""
    found = list(store.list(""))
    contents = [store.bucket.blob(one.name).download_as_bytes(checksum=None) for one in found]
    return [
        one.name
        for one, content in zip(found, contents, strict=True)
        if (checksum(content), len(content)) != (one.crc32c, one.size)
    ]


class BucketWork:
    """Work of the product on two buckets, with all kinds of calls."""

    def __init__(self, data: ObjectStore, models: ObjectStore, database: MongoDatabase, folder: Path) -> None:
        self.assets = AssetStore(data, keep=1)
        self.registry = ModelRegistry(models, database["models"])
        self.path, self.folder = folder / "weights.bin", folder

    def do(self, number: int) -> int:
        """Replace an asset and read it, save a model and read it; return the model's version."""
        content = bytes([number]) + os.urandom(SMALL)
        self.assets.write_bytes("thing", "bin", content)
        assert self.assets.read_bytes("thing", "bin") == content
        self.path.write_bytes(os.urandom(LARGE))
        model = self.registry.save(self.path, ModelCard("recvae", float(number)))
        copy = self.registry.download(model, self.folder / f"copy-{number}")
        assert copy.read_bytes() == self.path.read_bytes()
        return model.version

    def assert_whole(self) -> None:
        """Assert that all objects and models are as their checksums say."""
        assert damaged_objects(self.assets.objects) == damaged_objects(self.registry.store) == []
        assert [model.title for model in self.registry.list() if self.registry.verify(model) is not None] == []


@pytest.fixture
def tasks(
    upstream: int, injector: FaultInjector, database: MongoDatabase, tmp_path: Path
) -> Iterator[tuple[BucketWork, BucketWork]]:
    """Work behind the injector and with a direct connection; the latter has been done twice, for earlier versions."""
    name = database.name.replace("_", "-")
    data, models = stores_of(upstream, f"{name}-data", f"{name}-models")
    direct = BucketWork(data, models, database, tmp_path)
    for number in (1, 2):
        direct.do(number)
    client = make_client(endpoint=injector.url)
    behind = ObjectStore(client, data.name), ObjectStore(client, models.name)
    yield BucketWork(*behind, database, tmp_path), direct
    for store in (data, models):
        for found in list(store.names("")):
            store.delete(found)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads in several small chunks."""
    monkeypatch.setattr(objects, "UPLOAD_CHUNK", 1 << 20)
    monkeypatch.setattr(blob, "_MAX_MULTIPART_SIZE", 1 << 20)


class Once:
    """One fault, at the first call of a kind at which it occurs."""

    def __init__(self, kind: str, fault: str, injector: FaultInjector) -> None:
        self.kind, self.fault, self.injector = kind, fault, injector
        self.interrupted = False

    def __call__(self, call: Call) -> str | None:
        if self.fault.endswith("/retry-1") and not self.interrupted:
            self.interrupted = call.kind == "read"
            return "header:return-503-after-256K" if self.interrupted else None
        self.injector.wait_for_others()
        occurred = f"{self.kind} {self.fault}" in self.injector.faults()
        return self.fault if call.kind == self.kind and not occurred and testbench.fits(self.fault, call) else None


@pytest.mark.usefixtures("quick_retries", "small_chunks")
@pytest.mark.parametrize(
    ("kind", "fault"),
    [(kind, fault) for kind, faults in SURVIVED.items() for fault in faults] + [("read", fault) for fault in LONG],
)
def test_fault_of_the_testbench_is_survived(
    injector: FaultInjector, tasks: tuple[BucketWork, BucketWork], kind: str, fault: str
) -> None:
    work, direct = tasks
    injector.plan = Once(kind, fault, injector)
    assert work.do(3) == 3
    assert injector.settle()[f"{kind} {fault}"] == 1
    assert len(direct.registry.list()) == 3
    direct.assert_whole()
    (version,) = direct.assets.versions("assets/thing.bin")
    assert direct.assets.objects.read(version.object.name)[0] == 2


@pytest.mark.usefixtures("quick_retries", "small_chunks")
@pytest.mark.parametrize("fault", testbench.REFUSED)
@pytest.mark.parametrize("kind", SURVIVED)
def test_permanent_error_is_reported_and_leaves_nothing_incomplete(
    injector: FaultInjector, tasks: tuple[BucketWork, BucketWork], kind: str, fault: str
) -> None:
    work, direct = tasks
    injector.plan = Once(kind, fault, injector)
    with pytest.raises(GhAssetsError):
        work.do(3)
    assert injector.settle()[f"{kind} {fault}"] == 1
    assert direct.assets.read_bytes("thing", "bin")[0] in (2, 3)
    direct.assert_whole()
    assert work.do(4) == len(direct.registry.list()), "a rerun succeeds"


# -- a complete run with undo, backup and restoration ------------------------------------------------------------------


class Mix:
    """Every third call of each kind fails, with all faults in turn."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.faults = {kind: itertools.cycle(faults) for kind, faults in SURVIVED.items()}

    def __call__(self, call: Call) -> str | None:
        self.calls[call.kind] += 1
        if self.calls[call.kind] % 3 != 1:
            return None
        fault = next(self.faults[call.kind])
        return fault if testbench.fits(fault, call) else None


def lost_objects(injector: FaultInjector, stores: list[ObjectStore]) -> list[str]:
    """Return acknowledged objects that are missing, older or different."""
    acknowledged: dict[tuple[str, str], dict[str, Any]] = {}
    for answer in injector.answers:
        if answer.call.kind == "delete":
            acknowledged.pop((answer.call.bucket, answer.call.name), None)
        elif (written := answer.written) is not None:
            acknowledged[written["bucket"], written["name"]] = written
    assert acknowledged
    present = {(store.name, found.name): found for store in stores for found in store.list("")}
    missing = []
    for place, written in acknowledged.items():
        found = present.get(place)
        if found is None or found.generation < int(written["generation"]):
            missing.append(f"{place}: {found}")
        elif found.generation == int(written["generation"]) and found.crc32c != written["crc32c"]:
            missing.append(f"{place}: another content")
    return missing


def stars_in(store: ObjectStore) -> dict[str, list[str]]:
    """Return the logins of stargazers by repository."""
    assets = AssetStore(store)
    tables = assets.read_tables("stargazers", sorted(assets.partitions("stargazers")))
    return {name.lower(): sorted(table["login"].str.to_lowercase()) for name, table in tables.items()}


def contents(stores: list[ObjectStore]) -> list[tuple[int, str, str]]:
    """Return bucket, name and SHA-256 of every object."""
    return [
        (number, found.name, hashlib.sha256(store.bucket.blob(found.name).download_as_bytes()).hexdigest())
        for number, store in enumerate(stores)
        for found in store.list("")
    ]


def test_complete_run_loses_nothing_behind_all_faults(
    upstream: int, injector: FaultInjector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other, stars = tmp_path / "home", tmp_path / "other", tmp_path / "stars.parquet"
    truth = write_stars(stars).unique().group_by("repo").agg(pl.col("login").str.to_lowercase().sort())
    known = {repo.lower(): logins for repo, logins in truth.iter_rows()}
    assert max(map(len, known.values())) > 100, "some repositories have a second page"
    buckets, restored = ("run-data", "run-models"), ("restored-data", "restored-models")
    stores, copies = stores_of(upstream, *buckets), stores_of(upstream, *restored)
    injector.plan = Mix()

    def services(names: tuple[str, str]) -> dict[str, str]:
        return {"STORAGE_EMULATOR_HOST": injector.url, "GCS_BUCKET": names[0], "GCS_MODEL_BUCKET": names[1]}

    for name, value in services(buckets).items():
        monkeypatch.setenv(name, value)
    own = services(buckets)

    def gh_assets(*arguments: str, at: Path = home, **environment: str) -> Any:
        return run_json(at, *arguments, **own | environment)

    gh_assets("run", "--stars", str(stars), "--epochs", "1", "--max-pages", "1")
    before, moment = stars_in(stores[0]), dt.datetime.now(dt.UTC)
    assert {repo: len(logins) for repo, logins in before.items()} == {
        repo: min(len(logins), 100) for repo, logins in known.items()
    }
    found = gh_assets("run", "--stars", str(stars), "--epochs", "1", "--full")
    assert stars_in(stores[0]) == known
    assert found["stars"] == found["matrix"]["nnz"] == sum(map(len, known.values()))
    monkeypatch.setenv("GH_ASSETS_HOME", str(home))
    large = tmp_path / "own.bin"
    large.write_bytes(os.urandom(LARGE * 3))
    with open_mongo(load_settings()) as database:  # a large model, which needs a resumable upload
        registry = ModelRegistry(ObjectStore(make_client(endpoint=injector.url), buckets[1]), database["models"])
        registry.save(large, ModelCard("own", 0.1))
    verified = gh_assets("models", "verify")
    assert len(verified) > 3
    assert all(model["ok"] for model in verified), verified
    assert gh_assets("data", "undo", "stargazers", "--before", moment.isoformat())
    assert stars_in(stores[0]) == before

    copied = gh_assets("data", "backup", str(tmp_path / "copy"))
    back = services(restored)
    assert gh_assets("data", "restore", str(tmp_path / "copy"), at=other, **back) == copied
    assert contents(copies) == contents(stores)
    assert gh_assets("models", "verify", at=other, **back) == verified
    statuses = (gh_assets("status", at=at, **where) for at, where in ((home, own), (other, back)))
    original, copy = ([model["sha256"] for model in status["models"]] for status in statuses)
    assert copy == original

    occurred = injector.settle()
    assert lost_objects(injector, stores + copies) == []
    assert [damaged_objects(store) for store in stores + copies] == [[]] * 4
    for kind, count in occurred.most_common():
        print(f"{count:4d} {kind}")
    print(f"{len(injector.answers)} calls, {occurred.total()} faults, 0 objects lost, 0 damaged")
    assert {kind.split(" ")[0] for kind in occurred} >= SURVIVED.keys() - {"delete"}
    for place in (home, other):
        release_all(place)
