"""Every call to every server fails once, in every way: work succeeds or reports it, and acknowledged results hold."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo.errors import PyMongoError

from gh_assets.errors import ConcurrentWriteError, GhAssetsError, StoredDataError
from gh_assets.registry import CHAMPION, PURPOSE, Promotion
from gh_assets.storage.objects import ABSENT
from gh_assets_tests.faults.conftest import ProxiedServers
from gh_assets_tests.faults.proxy import FAULTS, Fault, Plan, fail_at
from gh_assets_tests.faults.work import WORKS, ServiceClients, table

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def proxied(servers: ProxiedServers, quick_retries: None) -> Iterator[ServiceClients]:
    """Clients behind the proxies."""
    clients = ServiceClients(*servers.addresses)
    yield clients
    clients.close()


def work_until_error(servers: ProxiedServers, proxied: ServiceClients, number: int) -> str | None:
    """Do all kinds of work until the first error; return its name."""
    try:
        for name in ("save", "promote", "download", "write_table"):
            servers.started[name].append(number)
            servers.acknowledged[name].append(WORKS[name](proxied, number))
        assert proxied.assets.read_table("anything").equals(table(number))
    except (GhAssetsError, PyMongoError) as error:
        return type(error).__name__
    return None


FAST = "refuse", "damage"
"""Faults in the fast tests; the others are slow tests."""


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=[pytest.mark.slow] * (fault not in FAST)) for fault in FAULTS]
)
def test_any_fault_is_survived_or_reported(servers: ProxiedServers, proxied: ServiceClients, fault: Fault) -> None:
    plan = Plan()
    servers.plan(plan)
    assert work_until_error(servers, proxied, 1) is None
    calls, reported = len(plan.calls), 0
    for at in range(1, calls + 1):
        servers.plan(fail_at(at, fault))
        reported += work_until_error(servers, proxied, at + 1) is not None
        servers.check()
    servers.plan(Plan())
    assert work_until_error(servers, proxied, calls + 2) is None, "a rerun succeeds"
    registry = servers.direct.registry
    assert [registry.verify(model) for model in registry.list()] == [None] * len(registry.list())
    if fault == "damage":
        assert reported == 0, "damaged content is read again"
    assert reported <= calls // 4, "drivers and clients retry: most faults are survived"
    print(f"{fault}: {calls} calls, {reported} faults were reported, the others survived")


def test_promotion_with_a_lost_response_is_not_made_twice(servers: ProxiedServers, proxied: ServiceClients) -> None:
    WORKS["save"](proxied, 1)
    servers.mongo.plan = plan = Plan()
    proxied.registry.promote(Promotion("recvae", 1, why="first"))
    servers.mongo.plan = fail_at(plan.calls.index("insert models_aliases") + 1, "cut")
    try:
        move = proxied.registry.promote(Promotion("recvae", 1, why="second"))
        assert move.revision == 2
    except (PyMongoError, ConcurrentWriteError):
        pytest.fail("the driver did not retry the write")
    moves = servers.direct.registry.aliases.history(PURPOSE, CHAMPION)
    assert [move.why for move in moves] == ["second", "first"]


def test_write_with_a_lost_response_is_not_a_conflict(servers: ProxiedServers, proxied: ServiceClients) -> None:
    store, direct = proxied.objects, servers.direct.objects
    present = direct.write("a", b"old")
    servers.gcs.plan = fail_at(1, "cut")
    written = store.write("a", b"new", if_generation=present.generation, metadata={"k": "v"})
    assert written == direct.describe("a")
    assert (direct.read("a"), written.metadata) == (b"new", {"k": "v"})
    servers.gcs.plan = fail_at(1, "cut")
    store.copy(written, "b", if_generation=ABSENT)
    assert direct.read("b") == b"new"
    servers.gcs.plan = Plan()
    for other, metadata in ((b"new", {"k": "another"}), (b"other", {"k": "v"})):
        with pytest.raises(ConcurrentWriteError):
            store.write("a", other, if_generation=ABSENT, metadata=metadata)
        with pytest.raises(ConcurrentWriteError):
            store.copy(written, "b", if_generation=ABSENT, metadata={"k": "another"})
    assert direct.describe("a") == written


def test_interrupted_download_is_resumed(servers: ProxiedServers, proxied: ServiceClients, tmp_path: Path) -> None:
    whole = bytes(range(256)) * 20_000
    servers.direct.objects.write("large", whole)
    servers.gcs.plan = plan = Plan(lambda number: "truncate" if number <= 2 else "pass")
    sha256 = proxied.objects.read_to("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == whole
    assert sha256 == hashlib.sha256(whole).hexdigest()
    starts = [int(call.rpartition(" from ")[2]) if " from " in call else 0 for call in plan.calls]
    assert len(starts) == 3
    assert 0 == starts[0] < len(whole) // 3 < starts[1] < starts[2] < len(whole), (
        "each attempt requests the remaining bytes only"
    )


def test_download_never_mixes_two_versions(servers: ProxiedServers, proxied: ServiceClients, tmp_path: Path) -> None:
    store = servers.direct.objects
    store.write("large", bytes(1 << 20))

    def replace_before_the_second(number: int) -> Fault:
        if number == 2:
            store.write("large", b"1" * (1 << 20))
        return "truncate" if number == 1 else "pass"

    servers.gcs.plan = Plan(replace_before_the_second)
    with pytest.raises(StoredDataError, match="large"):
        proxied.objects.read_to("large", tmp_path / "copy")
