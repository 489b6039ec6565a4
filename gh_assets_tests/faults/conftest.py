"""The servers of a home behind proxies, and what must hold for work on them after any fault."""

import secrets
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from gh_assets.embedded import servers as embedded
from gh_assets.embedded.certificate import home_certificate
from gh_assets.registry import CHAMPION, PURPOSE
from gh_assets.storage import objects
from gh_assets_tests.faults.proxy import Plan, Proxy
from gh_assets_tests.faults.work import ROWS, ServiceClients, content, matrix, table


@dataclass
class ProxiedServers:
    """MongoDB and Cloud Storage of a home behind proxies, and the results of work that were acknowledged so far.

    Attributes
    ----------
    database, bucket : str
    folder : Path
    mongo, gcs : Proxy
    direct : ServiceClients
        Clients that are connected to the servers without the proxies.
    started : dict
        Numbers of the work that was started, by its name.
    acknowledged : dict
        Results of the work that was not interrupted, by its name.
    """

    home: Path
    database: str
    bucket: str
    folder: Path
    mongo: Proxy
    gcs: Proxy
    direct: ServiceClients
    started: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    acknowledged: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    @property
    def addresses(self) -> tuple[Path, int, int, str, str, Path]:
        """Arguments of `ServiceClients` behind the proxies."""
        return self.home, self.mongo.port, self.gcs.port, self.database, self.bucket, self.folder / "work"

    def plan(self, plan: Plan) -> None:
        """Follow a plan at both proxies."""
        self.mongo.plan = self.gcs.plan = plan

    def check(self) -> None:
        """Check the invariants that hold at any time."""
        self._check_models()
        self._check_champion()
        self._check_assets()
        work = self.folder / "work"
        # Files with their final name are complete.
        for folder in (*work.glob("out/model"), *work.glob("cache/*/model")):
            found = (folder / "weights.bin").read_bytes()
            assert found == content(int(found[6:].split()[0]))

    def _check_models(self) -> None:
        registry = self.direct.registry
        models = registry.list()
        for model in models:
            assert registry.problem(model) is None
        for name in ("recvae", "same", "deleted"):
            versions = [int(d["version"]) for d in registry.documents.find({"name": name}, {"version": 1})]
            assert sorted(versions) == list(range(1, len(versions) + 1)), name
        by_version = {(model.name, model.version): model for model in models}
        for version, number in self.acknowledged["save"]:
            assert by_version["recvae", version].score == number
        for version in self.acknowledged["save_again"]:
            assert ("same", version) in by_version
        for version in self.acknowledged["delete"]:
            assert ("deleted", version) not in by_version
        newest = [model for model in models if model.name == "recvae"]
        if newest:
            # Only the newest model may have been affected by the last fault.
            model = max(newest, key=lambda model: model.version)
            path = registry.download(model, self.folder / "check", unpack=True)
            assert (path / "weights.bin").read_bytes() == content(int(model.score or 0))

    def _check_champion(self) -> None:
        moves = self.direct.registry.aliases.history(PURPOSE, CHAMPION)
        assert [move.revision for move in moves] == list(range(len(moves), 0, -1))
        by_revision = {move.revision: (move.version, move.why) for move in moves}
        for revision, *move in self.acknowledged["promote"] + self.acknowledged["rollback"]:
            assert by_revision[revision] == tuple(move)
        if moves:
            assert self.direct.registry.champion().version == moves[0].version

    def _check_assets(self) -> None:
        data = self.direct.assets
        if data.objects.describe("assets/anything.parquet") is not None:
            found = data.read_table("anything")
            number = self._is_one("write_table", int(found["number"][0]))
            assert found.equals(table(number)), "the table mixes two writes"
        for name, found in data.read_tables("parts", data.partitions("parts")).items():
            assert found.height == ROWS, name
            assert found.equals(table(self._is_one("write_partitions", int(found["number"][0]))))
        if data.objects.describe("assets/user_item_matrix.npz") is not None:
            columns = data.read_matrix("user_item_matrix").stars.shape[1]
            numbers = [n for n in self.started["write_matrix"] if matrix(n).stars.shape[1] == columns]
            assert numbers, "no process wrote this matrix"

    def _is_one(self, work: str, number: int) -> int:
        """Check that a number is of the last acknowledged work, or of work that started later; return it."""
        assert number >= max(self.acknowledged[work], default=0)
        assert number in self.started[work]
        return number


@pytest.fixture
def servers(home: Path, tmp_path: Path, gcs_client: storage.Client) -> Iterator[ProxiedServers]:
    mongo, gcs = (urlsplit(url).port or 0 for url in (embedded.mongo_uri(home), embedded.cloud_storage(home)[0]))
    proxies = Proxy("mongo", mongo, Plan(), home_certificate(home)), Proxy("http", gcs, Plan())
    name = secrets.token_hex(6)
    database, bucket = f"test_{name}", f"test-{name}"
    direct = ServiceClients(home, mongo, gcs, database, bucket, tmp_path / "direct")
    yield ProxiedServers(home, database, bucket, tmp_path, *proxies, direct)
    for proxy in proxies:
        proxy.close()
    direct.client.drop_database(database)
    direct.close()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's policy with short waits."""
    quick = DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.05, multiplier=2)
    monkeypatch.setattr(objects, "DEFAULT_RETRY", quick)
