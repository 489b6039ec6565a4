"""The refresher: promotions, unusable models, new data, and services that go down and come back."""

import gc
import json
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests

from gh_assets.embedded import servers as embedded
from gh_assets.registry import CHAMPION, PURPOSE, Promotion
from gh_assets.services.connections import asset_store
from gh_assets.serving.current_model import describe_current, load_current_model
from gh_assets.settings import Settings
from gh_assets_tests.support.embeddings import embeddings_of
from gh_assets_tests.support.served_home import (
    PEOPLE,
    SUBJECTS,
    UNCOLLECTED_LOGIN,
    Running,
    ServedHome,
    matrix_of,
    name_of,
    opened,
    rows_of,
    trained_on,
    with_github,
)
from gh_assets_tests.support.tcp import Gate
from gh_assets_tests.support.waiting import until


def version(server: Running) -> int:
    return int(server.get("/api/v1/model").json()["version"])


def wait_for_version(server: Running, number: int) -> None:
    until(lambda: version(server) == number, 60)


def wait_until_unavailable(server: Running, *names: str) -> None:
    """Wait until these services, and no others, do not respond."""
    until(lambda: server.get("/api/v1/model").json()["missing"] == list(names), 60)


def recommended(server: Running, login: str = "person-1") -> dict[str, Any]:
    """Return the recommendations for a user, with their warnings."""
    response = server.get(f"/api/v1/users/{login}/recommendations")
    assert response.status_code == 200
    return dict(response.json())


def test_promotion_and_rollback_take_effect_without_a_restart(own_served_home: ServedHome) -> None:
    own_served_home.register(trained_on(own_served_home.matrix, seed=7, weight=0.1), 0.35)
    with opened(own_served_home.settings) as server, own_served_home.registry() as registry:
        assert version(server) == 1
        before = recommended(server)
        registry.promote(Promotion("hybrid", 2, why="better"))
        wait_for_version(server, 2)
        after = recommended(server)
        assert after["model"]["version"] == 2
        assert after["recommendations"] != before["recommendations"]
        assert server.get("/api/v1/model").json()["why"] == "better"
        registry.rollback(why="worse after all")
        wait_for_version(server, 1)
        assert recommended(server) == before
        assert "worse after all" in server.get("/model").text
        text = server.get("/metrics").text
        assert "gh_assets_swaps_total 2.0" in text
        assert 'gh_assets_model{name="hybrid",version="1"} 1.0' in text
        assert 'version="2"' not in text


def test_new_embeddings_take_effect_without_a_restart(own_served_home: ServedHome) -> None:
    """The vectors say that the repository which the model does not know is about another subject than its text says."""
    rows, store = own_served_home.rows, asset_store(own_served_home.settings)
    unknown = rows[-len(SUBJECTS)]
    similar = f"/api/v1/repositories/{unknown['full_name']}/similar"

    def subjects(server: Running) -> set[str]:
        entries = server.get(similar).json()["similar"]
        return {entry["full_name"].partition("/")[0] for entry in entries}

    vectors = {row["repo_id"]: np.eye(len(SUBJECTS))[place % len(SUBJECTS)] for place, row in enumerate(rows)}
    with opened(own_served_home.settings) as server:
        assert subjects(server) == {SUBJECTS[0][0]}
        assert "<dd>TF-IDF</dd>" in server.get("/model").text
        store.write_table("repo_embeddings", embeddings_of(vectors | {unknown["repo_id"]: [0.0, 1.0]}))
        until(lambda: "<dd>sentence embeddings</dd>" in server.get("/model").text, 60)
        assert subjects(server) == {SUBJECTS[1][0]}
        new = {
            entry["full_name"]: {reason["full_name"].partition("/")[0] for reason in entry["because"]}
            for entry in recommended(server)["new"]
        }
        assert new[unknown["full_name"]] == {SUBJECTS[1][0]}


def test_replaced_snapshot_is_freed_at_once(own_served_home: ServedHome) -> None:
    """No reference cycle keeps it: a model may have a gigabyte, and frozen objects are not collected."""
    own_served_home.register(trained_on(own_served_home.matrix, seed=7), 0.35)
    with opened(own_served_home.settings) as server, own_served_home.registry() as registry:
        for path in ("/u/person-1?language=go", f"/r/{name_of(1)}", "/popular", "/model", "/api/v1/model"):
            assert server.get(path).status_code == 200
        gc.disable()
        try:
            replaced = weakref.ref(server.state.refresher.snapshot)
            registry.promote(Promotion("hybrid", 2, why="there"))
            wait_for_version(server, 2)
            server.get("/u/person-1")
            until(lambda: replaced() is None)
        finally:
            gc.enable()


def test_no_request_fails_or_mixes_models_during_changes(own_served_home: ServedHome) -> None:
    """The second model has other names of repositories, so that a response made of both models is noticed."""
    other = trained_on(own_served_home.matrix, seed=3)
    second_names = np.array([f"second/{number}" for number in range(len(other.full_names))])
    own_served_home.register(replace(other, full_names=second_names), 0.35)
    stop = threading.Event()
    faults: list[str] = []
    seen: set[int] = set()

    def request(number: int) -> None:
        with requests.Session() as session:
            turn = 0
            while not stop.is_set():
                turn += 1
                response = session.get(
                    f"{server.url}/api/v1/users/person-{(number * 31 + turn) % PEOPLE}/recommendations", timeout=30
                )
                if response.status_code != 200:
                    faults.append(response.text)
                    continue
                document = response.json()
                entries = document["recommendations"]
                names = [entry["full_name"] for entry in entries]
                names += [reason["full_name"] for entry in entries for reason in entry["because"]]
                seen.add(document["model"]["version"])
                second = [name.startswith("second/") for name in names]
                if not (all(second) if document["model"]["version"] == 2 else not any(second)):
                    faults.append(f"mixed: {names}")

    with opened(own_served_home.settings) as server, own_served_home.registry() as registry:
        with ThreadPoolExecutor(6) as executor:
            requesting = [executor.submit(request, number) for number in range(6)]
            try:
                for _ in range(3):
                    registry.promote(Promotion("hybrid", 2, why="there"))
                    wait_for_version(server, 2)
                    registry.rollback(why="and back")
                    wait_for_version(server, 1)
            finally:
                stop.set()
        assert [future.result() for future in requesting] == [None] * 6
    assert faults == []
    assert seen == {1, 2}


def test_newer_data_take_effect_without_a_restart(own_served_home: ServedHome) -> None:
    with opened(own_served_home.settings) as server:
        assert server.get(f"/api/v1/repositories?q={name_of(0)}").json()[0]["description"].startswith("Draw")
        own_served_home.write_repositories(rows_of({0: {"description": "Something else"}}))
        until(lambda: server.get(f"/api/v1/repositories?q={name_of(0)}").json()[0]["description"] == "Something else")
        matrix = matrix_of(own_served_home.rows, seed=9)
        asset_store(own_served_home.settings).write_matrix("user_item_matrix", matrix)
        until(lambda: server.get("/api/v1/model").json()["stars"] == matrix.stars.nnz)


def test_corrupt_champion_is_not_served(own_served_home: ServedHome, tmp_path: Path) -> None:
    own_served_home.register(trained_on(own_served_home.matrix, seed=5), 0.4)
    broken = own_served_home.models[-1]
    with own_served_home.registry() as registry:
        path = tmp_path / "junk"
        path.write_bytes(b"junk" * 1000)
        registry.store.write(broken.object, path)
        with opened(own_served_home.settings) as server:
            current = registry.aliases.current(PURPOSE, CHAMPION)
            registry.aliases.promote(Promotion(broken.name, broken.version, why="untried", by="a test"), after=current)
            until(lambda: server.state.refresher.problem)
            assert version(server) == 1
            response = until(lambda: (document := recommended(server))["warnings"] and document)
            assert response["model"]["version"] == 1
            assert response["warnings"] == ["hybrid 2 cannot be loaded: the next best serves in its place."]
            assert response["warnings"][0] in server.get("/u/person-1").text
            registry.rollback(why="it cannot be read")
            until(lambda: recommended(server)["warnings"] == [])
            own_served_home.register(trained_on(own_served_home.matrix, seed=6), 0.41)
            registry.promote(Promotion("hybrid", 3, why="whole"))
            wait_for_version(server, 3)


@pytest.mark.parametrize("promoted", [True, False], ids=["champion", "best"])
def test_server_that_starts_with_an_unusable_model_serves_the_next_best(
    own_served_home: ServedHome, promoted: bool
) -> None:
    """Without a champion, the model with the best score is the unusable one."""
    settings = own_served_home.settings.model_copy(update={"mongo_database": f"broken_{promoted}"})
    served_home = ServedHome(
        settings, own_served_home.matrix, own_served_home.rows, own_served_home.folder / f"broken-{promoted}"
    )
    for seed, score in ((1, 0.2), (2, 0.3), (3, 0.9)):
        served_home.register(trained_on(served_home.matrix, seed=seed), score)
    with served_home.registry() as registry:
        if promoted:
            for number in (1, 2, 3):
                registry.promote(Promotion("hybrid", number, why=f"number {number}"))
        registry.store.delete(served_home.models[2].object)
        with opened(settings) as server:
            assert version(server) == 2
            assert recommended(server)["warnings"] == ["hybrid 3 cannot be loaded: the next best serves in its place."]
            assert recommended(server)["recommendations"]
        current = describe_current(registry)
    assert current is not None
    assert (current["model"], current["champion"]) == ("hybrid 2", promoted)
    model = load_current_model(settings)
    assert model.registered.version == 2
    assert model.warnings[0].startswith("hybrid 3 cannot be loaded and is skipped: There is no object")


def test_without_a_champion_the_best_model_serves(own_served_home: ServedHome) -> None:
    settings = own_served_home.settings.model_copy(update={"mongo_database": "another"})
    served_home = ServedHome(settings, own_served_home.matrix, own_served_home.rows, own_served_home.folder / "more")
    with opened(settings, loaded=False) as server:
        assert server.get("/readyz").status_code == 503
        refused = server.get("/api/v1/model")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        assert "There is no model yet" in server.get("/popular").text
        assert server.get("/").status_code == 200
        assert server.get("/healthz").status_code == 200
        served_home.register(trained_on(own_served_home.matrix), 0.2)
        until(lambda: server.get("/readyz").status_code == 200)


# -- services that go and come back -----------------------------------------------------------------------------------


@pytest.fixture
def gates(own_served_home: ServedHome, github: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Gate]]:
    """Proxies in front of the three services, which can be shut."""
    home = own_served_home.settings.home_path
    mongo = Gate(urlsplit(embedded.mongo_uri(home)).port or 0)
    endpoint, token = embedded.cloud_storage(home)
    gcs = Gate(urlsplit(endpoint).port or 0)
    hub = Gate(urlsplit(github).port or 0)
    monkeypatch.setattr(embedded, "mongo_uri", lambda home: embedded.mongo_uri_at(home, mongo.port))
    monkeypatch.setattr(embedded, "cloud_storage", lambda _: (f"http://127.0.0.1:{gcs.port}", token))
    monkeypatch.setattr("gh_assets.serving.service_monitor.ANSWER_TIMEOUT", 1.0)
    gates = {"MongoDB": mongo, "Cloud Storage": gcs, "GitHub": hub}
    yield gates
    for gate in gates.values():
        gate.shut()


def test_requests_are_answered_while_services_fail_one_after_another(
    own_served_home: ServedHome, gates: dict[str, Gate]
) -> None:
    settings: Settings = with_github(own_served_home.settings, f"http://127.0.0.1:{gates['GitHub'].port}")
    with opened(settings) as server:
        wait_until_unavailable(server)
        before = recommended(server, "person-6")
        gone: list[str] = []
        for name, gate in gates.items():
            gate.shut()
            gone.append(name)
            wait_until_unavailable(server, *gone)
            ready = server.get("/readyz")
            assert (ready.status_code, ready.json()["ready"]) == (200, True)
            document = recommended(server, "person-6")
            assert document["recommendations"] == before["recommendations"]
            assert f"{' and '.join(gone)} cannot be reached" in document["warnings"][0]
            assert "cannot be reached" in server.get("/u/person-6").text
        lookup = server.get(f"/api/v1/users/{UNCOLLECTED_LOGIN}/recommendations")
        assert (lookup.status_code, lookup.json()["error"]["code"]) == (503, "github_away")
        verdict = {"person": "someone", "repo": before["recommendations"][0]["full_name"], "verdict": "known"}
        stored = server.post("/api/v1/feedback", json=verdict)
        assert stored.status_code == 204, "it is kept on this machine until Mongo is back"
        fewer = server.get("/api/v1/users/person-6/recommendations?person=someone").json()
        assert fewer["recommendations"][0]["full_name"] == before["recommendations"][1]["full_name"]
        for gate in gates.values():
            gate.open()
            gone.pop(0)
            wait_until_unavailable(server, *gone)
        assert recommended(server, "person-6")["warnings"] == before["warnings"]
        until(lambda: server.get(f"/api/v1/users/{UNCOLLECTED_LOGIN}/recommendations").status_code == 200, 30)
        until(lambda: server.database["feedback"].find_one({"said.person": "someone"}))
        own_served_home.register(trained_on(own_served_home.matrix, seed=11), 0.5)
        with own_served_home.registry() as registry:
            registry.promote(Promotion("hybrid", 2, why="after all that"))
        wait_for_version(server, 2)


def test_server_that_starts_without_mongo_serves_the_cached_model(
    own_served_home: ServedHome, gates: dict[str, Gate]
) -> None:
    with opened(own_served_home.settings):
        pass
    gates["MongoDB"].shut()
    with opened(own_served_home.settings) as server:
        assert version(server) == 1
        assert recommended(server, "person-6")
        wait_until_unavailable(server, "MongoDB")
        gates["MongoDB"].open()
        wait_until_unavailable(server)


def test_embedded_servers_that_are_killed_come_back(own_served_home: ServedHome) -> None:
    """Both embedded servers are killed by SIGKILL."""
    with opened(own_served_home.settings) as server:
        for key in ("mongo", "bucket"):
            state = next((own_served_home.settings.home_path / "run").glob(f"{key}*.json"))
            pid = json.loads(state.read_text())["server_pid"]
            os.kill(pid, signal.SIGKILL)
        assert recommended(server, "person-6")
        own_served_home.register(trained_on(own_served_home.matrix, seed=12), 0.5)
        with own_served_home.registry() as registry:
            registry.promote(Promotion("hybrid", 2, why="after a kill"))
        wait_for_version(server, 2)
        wait_until_unavailable(server)
