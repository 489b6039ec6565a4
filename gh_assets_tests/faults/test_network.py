"""Every call to every server fails once, in every way: work succeeds or reports it, and acknowledged results hold."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo.errors import PyMongoError

from gh_assets.embedded import servers as embedded
from gh_assets.embedded.certificate import home_certificate
from gh_assets.errors import ConcurrentWriteError, GhAssetsError, StoredDataError
from gh_assets.registry import CHAMPION, PURPOSE, ModelCard, Promotion
from gh_assets.storage.object_reader import ObjectReader
from gh_assets.storage.objects import ABSENT
from gh_assets_tests.faults.proxy import FailAt, Fault, Plan, Proxy
from gh_assets_tests.faults.work import ServiceClients, content, table


class Unavailable(Plan):
    """The server does not respond."""

    def decide(self, number: int) -> Fault:
        return "refuse"


FAULTS: list[Fault] = ["refuse", "cut", "truncate", "delay", "duplicate", "damage"]


@pytest.fixture
def services(
    home: Path, tmp_path: Path, gcs_client, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ServiceClients, ServiceClients, list[Proxy]]]:
    """Clients behind proxies, clients with direct connections, and the proxies."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    from gh_assets.storage import objects

    # Google's policy with short waits.
    quick = DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.05, multiplier=2)
    monkeypatch.setattr(objects, "DEFAULT_RETRY", quick)
    mongo = int(embedded.mongo_uri(home).split(":")[2].split("/")[0])
    gcs = int(embedded.cloud_storage(home)[0].rsplit(":", 1)[1])
    proxies = [Proxy("mongo", mongo, Plan(), home_certificate(home)), Proxy("http", gcs, Plan())]
    name = secrets.token_hex(6)
    direct = ServiceClients(home, mongo, gcs, f"test_{name}", f"test-{name}", tmp_path / "direct")
    proxied = ServiceClients(
        home, proxies[0].port, proxies[1].port, f"test_{name}", f"test-{name}", tmp_path / "behind"
    )
    yield proxied, direct, proxies
    direct.client.drop_database(f"test_{name}")
    for clients in (proxied, direct):
        clients.close()
    for proxy in proxies:
        proxy.close()


def run_all_calls(clients: ServiceClients, number: int) -> dict[str, object]:
    """Make all kinds of calls until the first error, and return what was acknowledged."""
    done: dict[str, object] = {}
    try:
        folder = clients.folder / f"{number}"
        folder.mkdir()
        (folder / "weights.bin").write_bytes(content(number))
        saved = clients.registry.save(folder, ModelCard("recvae", float(number)), file_name="model", archive="gzip")
        done["save"] = saved.version
        done["promote"] = clients.registry.promote(Promotion("recvae", saved.version, why=f"{number}")).revision
        path = clients.registry.download(clients.registry.champion(), clients.folder / "out", unpack=True)
        assert (path / "weights.bin").read_bytes() == content(number)
        done["download"] = True
        clients.assets.write_table("anything", table(number))
        done["write"] = number
        assert clients.assets.read_table("anything").equals(table(number))
        done["read"] = True
    except (GhAssetsError, PyMongoError) as error:
        done["error"] = type(error).__name__
    return done


FAST = "refuse", "damage"
"""Faults in the fast tests; the others are slow tests."""


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=[pytest.mark.slow] * (fault not in FAST)) for fault in FAULTS]
)
def test_fault_at_any_call_is_survived_or_reported(
    services: tuple[ServiceClients, ServiceClients, list[Proxy]], fault: Fault
) -> None:
    proxied, direct, proxies = services
    plan = Plan()
    for proxy in proxies:
        proxy.plan = plan
    number = 1
    assert "error" not in run_all_calls(proxied, number)
    calls, reported = len(plan.calls), 0
    for at in range(1, calls + 1):
        number += 1
        plan = FailAt(at, fault)
        for proxy in proxies:
            proxy.plan = plan
        done = run_all_calls(proxied, number)
        reported += "error" in done
        registry = direct.registry
        if "save" in done:
            assert registry.get("recvae", int(str(done["save"]))).score == number
        for model in registry.list("recvae")[:2]:
            assert registry.verify(model) is None
        versions = [model.version for model in registry.list("recvae")]
        assert versions == list(range(len(versions), 0, -1))
        moves = registry.aliases.history(PURPOSE, CHAMPION)
        assert [move.revision for move in moves] == list(range(len(moves), 0, -1))
        if "promote" in done:
            assert any(move.revision == done["promote"] and move.why == f"{number}" for move in moves)
        if "write" in done:
            assert direct.assets.read_table("anything").equals(table(number))
        elif direct.assets.exists("anything", "parquet"):
            found = direct.assets.read_table("anything")
            assert found.equals(table(int(found["number"][0]))), "the table mixes two writes"
    number += 1
    for proxy in proxies:
        proxy.plan = Plan()
    assert "error" not in run_all_calls(proxied, number), "a rerun succeeds"
    if fault == "damage":
        assert reported == 0, "damaged content is read again"
    assert reported <= calls // 4, "drivers and clients retry: most faults are survived"
    print(f"{fault}: {calls} calls, {reported} faults were reported, the others survived")


def test_promotion_with_a_lost_response_is_not_made_twice(
    services: tuple[ServiceClients, ServiceClients, list[Proxy]],
) -> None:
    proxied, direct, proxies = services
    folder = proxied.folder / "model.bin"
    folder.write_bytes(b"x")
    proxied.registry.save(folder, ModelCard("recvae", 0.5))
    plan = Plan()
    proxies[0].plan = plan
    proxied.registry.promote(Promotion("recvae", 1, why="first"))
    at = plan.calls.index("insert models_aliases") + 1
    proxies[0].plan = FailAt(at, "cut")
    try:
        move = proxied.registry.promote(Promotion("recvae", 1, why="second"))
        assert move.revision == 2
    except (PyMongoError, ConcurrentWriteError):
        pytest.fail("the driver did not retry the write")
    assert [move.why for move in direct.registry.aliases.history(PURPOSE, CHAMPION)] == ["second", "first"]


def test_write_with_a_lost_response_is_not_a_conflict(
    services: tuple[ServiceClients, ServiceClients, list[Proxy]],
) -> None:
    proxied, direct, proxies = services
    present = direct.objects.write("a", b"old")
    proxies[1].plan = FailAt(1, "cut")
    written = proxied.objects.write("a", b"new", if_generation=present.generation, metadata={"k": "v"})
    assert written == direct.objects.describe("a")
    assert (direct.objects.read("a"), written.metadata) == (b"new", {"k": "v"})
    proxies[1].plan = FailAt(1, "cut")
    proxied.objects.copy(written, "b", if_generation=ABSENT)
    assert direct.objects.read("b") == b"new"
    proxies[1].plan = Plan()
    for other, metadata in ((b"new", {"k": "another"}), (b"other", {"k": "v"})):
        with pytest.raises(ConcurrentWriteError):
            proxied.objects.write("a", other, if_generation=ABSENT, metadata=metadata)
        with pytest.raises(ConcurrentWriteError):
            proxied.objects.copy(written, "b", if_generation=ABSENT, metadata={"k": "another"})
    assert direct.objects.describe("a") == written


def test_interrupted_download_is_resumed(
    services: tuple[ServiceClients, ServiceClients, list[Proxy]], tmp_path: Path
) -> None:
    proxied, direct, proxies = services
    whole = bytes(range(256)) * 20_000
    direct.objects.write("large", whole)

    class Twice(Plan):
        def decide(self, number: int) -> Fault:
            return "truncate" if number <= 2 else "pass"

    proxies[1].plan = plan = Twice()
    sha256 = proxied.objects.read_to("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == whole
    assert sha256 == hashlib.sha256(whole).hexdigest()
    starts = [int(call.rpartition(" from ")[2]) if " from " in call else 0 for call in plan.calls]
    assert len(starts) == 3
    assert 0 == starts[0] < len(whole) // 3 < starts[1] < starts[2] < len(whole), (
        "each attempt requests the remaining bytes only"
    )


def test_download_never_mixes_two_versions(
    services: tuple[ServiceClients, ServiceClients, list[Proxy]], tmp_path: Path
) -> None:
    proxied, direct, proxies = services
    direct.objects.write("large", bytes(1 << 20))

    class Replaced(Plan):
        def decide(self, number: int) -> Fault:
            if number == 2:
                direct.objects.write("large", b"1" * (1 << 20))
            return "truncate" if number == 1 else "pass"

    proxies[1].plan = Replaced()
    with pytest.raises(StoredDataError, match="large"):
        proxied.objects.read_to("large", tmp_path / "copy")


def test_missing_bucket_is_an_error(
    services: tuple[ServiceClients, ServiceClients, list[Proxy]], tmp_path: Path
) -> None:
    from gh_assets.errors import ConfigurationError
    from gh_assets.registry import ModelRegistry
    from gh_assets.storage.objects import ObjectStore

    _, direct, _ = services
    path = tmp_path / "model.bin"
    path.write_bytes(b"x")
    registry = ModelRegistry(ObjectStore(direct.objects.client, "no-such-bucket"), direct.registry.documents)
    with pytest.raises(ConfigurationError, match=r"The bucket of gs://no-such-bucket/.* does not exist: create it"):
        registry.save(path, ModelCard("recvae", 0.5))
    assert registry.list() == []


def test_unavailable_servers_are_an_error(
    services: tuple[ServiceClients, ServiceClients, list[Proxy]], tmp_path: Path
) -> None:
    from gh_assets.errors import ServiceUnavailableError

    proxied, _, proxies = services
    path = tmp_path / "model.bin"
    path.write_bytes(b"x")
    model = proxied.registry.save(path, ModelCard("recvae", 0.5))
    proxied.objects._retry = proxied.objects._retry.with_timeout(0.2)
    client = proxied.objects.client
    client.reader = ObjectReader(client._credentials, client.api_endpoint, retry_seconds=0.2)
    for proxy in proxies:
        proxy.plan = Unavailable()
    with pytest.raises(ServiceUnavailableError, match="Run again: nothing is lost"):
        proxied.objects.describe(model.object)
    with pytest.raises(ServiceUnavailableError):
        proxied.registry.download(model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
