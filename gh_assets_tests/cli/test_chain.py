"""The whole chain by the command that people type, in a home of its own, on a small world."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
import requests
import zstandard

from gh_assets.cli import main
from gh_assets.collector.pipeline import CollectionState
from gh_assets.embedded import servers as embedded
from gh_assets.embedded.supervision import read_state
from gh_assets.instance.storage import open_instance
from gh_assets.registry import SERVED, ModelCard, ModelRegistry, Promotion
from gh_assets.services.connections import connect_gcs, connect_mongo, data_store, model_store, open_mongo
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets_tests.conftest import SETTINGS
from gh_assets_tests.support.commands import USERS, answer_json, command, fails, let_go, run_json, write_stars
from gh_assets_tests.support.pickles import parts_of, pickles_in


def contents(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Checksum of each object of the assets."""
    monkeypatch.setenv("GH_ASSETS_HOME", str(home))
    settings = load_settings()
    bucket = data_store(settings, connect_gcs(settings)).bucket
    return {blob.name: blob.crc32c for blob in bucket.list_blobs(prefix="assets/")}


def collected_stars(home: Path, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    """All stars, whichever source told of them."""
    monkeypatch.setenv("GH_ASSETS_HOME", str(home))
    settings = load_settings()
    store = AssetStore(data_store(settings, connect_gcs(settings)))
    tables = store.read_tables("stargazers", sorted(store.partitions("stargazers")))
    return pl.concat(tables.values()).drop("source")


class ChainRun:
    """A home in which the chain has run once."""

    def __init__(self, base: Path) -> None:
        self.home = base / "home"
        self.file = base / "stars.parquet"
        self.stars = write_stars(self.file)
        self.first = run_json(self.home, "run", "--stars", str(self.file), "--epochs", "4")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainRun]:
    ran = ChainRun(tmp_path_factory.mktemp("chain"))
    yield ran
    let_go(ran.home)


def test_status_has_the_figures_of_the_file(ran: ChainRun) -> None:
    status = run_json(ran.home, "status")
    repos, users = ran.stars["repo"].n_unique(), ran.stars["login"].n_unique()
    assert (status["repos"], status["partitions"], status["users"]) == (repos, repos, users)
    assert status["stars"] == ran.stars.height
    assert status["matrix"] == {"rows": users, "cols": repos, "nnz": ran.stars.height}
    assert status["partition_outcomes"] == {"ok": repos}
    assert status["runs"] == {"SUCCESS": 2}
    models = {model["name"]: model for model in status["models"]}
    baselines = models.keys() - {"recvae", "hybrid"}
    assert len(baselines) <= 1
    assert all(models[name]["score"] > models["hybrid"]["score"] for name in baselines), "only where it is the best"
    hybrid, model = models["hybrid"], models["recvae"]
    assert sum("champion" in entry["aliases"] for entry in status["models"]) == 1
    assert {"name", "tag", "score", "metric", "time", "object", "size"} <= model.keys()
    assert (model["name"], model["metric"]) == ("recvae", "ndcg@100")
    assert (hybrid["name"], hybrid["metric"]) == ("hybrid", "ndcg@100")
    assert {"ndcg@100", "popularity ndcg@100"} <= model["metrics"].keys()
    assert {"ndcg@100", "recvae ndcg@100", "ease ndcg@100"} <= hybrid["metrics"].keys()
    # Four epochs are few: it may well be said that RecVAE is not the best.
    assert set(ran.first["run"]["checks_failed"]) <= {"leaderboard: recvae_is_the_best"}


def test_runs_of_the_command_belong_to_the_code_location(ran: ChainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The UI shows a run on its timeline and beside its job only where it knows which code location it is of."""
    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))
    with open_instance() as instance:
        runs = list(instance.get_runs())
        of_jobs = list(instance.get_runs(dg.RunsFilter(tags={".dagster/repository": "__repository__@gh_assets"})))
    assert len(runs) >= 2
    assert {run.run_id for run in of_jobs} == {run.run_id for run in runs}
    for run in runs:
        assert run.remote_job_origin is not None
        assert run.remote_job_origin.job_name == run.job_name
        assert run.remote_job_origin.location_name == "gh_assets"


def test_the_leaderboard_has_every_recommender(ran: ChainRun) -> None:
    board = ran.first["run"]["leaderboard"]
    assert set(board) == {"recvae", "hybrid", "popularity", "itemknn", "ease", "ials", "multvae"}
    scores = [metrics["ndcg@100"] for metrics in board.values()]
    assert scores == sorted(scores, reverse=True)
    by_name = {model["name"]: model for model in answer_json(ran.home, "status")["models"]}
    for name in ("recvae", "hybrid"):
        assert board[name]["ndcg@100"] == pytest.approx(by_name[name]["score"]), "the same users were held out"


def test_a_second_run_asks_for_nothing_twice_and_changes_no_byte(
    ran: ChainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))
    url, token = embedded.github_standin(ran.home)
    own = {"authorization": f"Bearer {token}"}
    database = connect_mongo(load_settings())
    before = contents(ran.home, monkeypatch)
    documents = {
        name: list(database[name].find().sort("_id")) for name in ("users", "repos", "stargazer_state", "models")
    }
    served = requests.get(f"{url}/__standin__", headers=own, timeout=10).json()["served"]
    second = run_json(ran.home, "run", "--stars", str(ran.file), "--epochs", "4")
    after = requests.get(f"{url}/__standin__", headers=own, timeout=10).json()["served"]
    assert after.get("stargazers", 0) == served.get("stargazers", 0)
    assert after.get("repository", 0) == served.get("repository", 0), "unchanged metadata answer 304"
    assert contents(ran.home, monkeypatch) == before
    for name, expected in documents.items():
        assert list(database[name].find().sort("_id")) == expected, f"documents of {name} changed"
    database.client.close()
    assert second["models"] == ran.first["models"], "the same data are not trained again"


def test_nothing_is_pickled(ran: ChainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that a whole run stores: every object of both buckets, to the last layer of each archive."""
    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))
    settings = load_settings()
    client = connect_gcs(settings)
    seen, layers = set(), 0
    for store in (data_store(settings, client), model_store(settings, client)):
        for name in store.names(""):
            content = store.read(name)
            assert pickles_in(name, content) == []
            layers += len([*parts_of(name, content)])
            seen.add(name.split("/")[0 if store.name == settings.gcs_model_bucket else 1].split(".")[0])
    assert {"stargazers", "users", "user_item_matrix", "leaderboard", "recommendations", "recvae", "hybrid"} <= seen
    assert layers > 50


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_would_be_found_in_any_layer(protocol: int) -> None:
    content = pickle.dumps({"weights": [1.0, 2.0]}, protocol)
    arrays, table, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(arrays, objects=np.array([{"a": 1}], object), plain=np.arange(3))
    pl.DataFrame({"plain": ["x"], "bytes": [content]}).write_parquet(table)
    with tarfile.open(fileobj=archive, mode="w:gz") as packed:
        entry = tarfile.TarInfo("model.bin")
        entry.size = len(content)
        packed.addfile(entry, io.BytesIO(content))
    assert pickles_in("x", content) == ["x"]
    assert pickles_in("x", arrays.getvalue()) == ["x/objects.npy"]
    assert pickles_in("x", table.getvalue()) == ["x: bytes"]
    assert pickles_in("x", archive.getvalue()) == ["x unpacked/model.bin"]
    assert pickles_in("x", zstandard.compress(content)) == ["x unpacked"]
    assert pickles_in("x", b'{"config": 1}') == pickles_in("x", b"") == []


def test_run_and_status_say_who_serves_and_why_the_newest_does_not(
    ran: ChainRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ran.first["serving"]
    champion = next(model for model in ran.first["models"] if "champion" in model["aliases"])
    assert (told["model"], told["champion"]) == (f"{champion['name']} {champion['version']}", True)
    assert told["outcome"] == "promoted"
    assert f"{told['model']} is better than popularity for" in told["why"]
    assert "was ahead of" in told["decision"]
    assert told["newest"] == f"{ran.first['models'][0]['name']} 1"
    now = answer_json(ran.home, "status")["serving"]
    assert now.keys() == told.keys()
    assert now["model"] == told["model"]
    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))
    main(["status"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"serves {told['model']} (the champion):" in said
    assert f"newest model {told['newest']}:" in said


def test_recommendations_are_new_to_the_user_and_explained_by_own_stars(ran: ChainRun) -> None:
    mine = set(ran.stars.filter(pl.col("login") == "Login-7")["repo"])
    answer = answer_json(ran.home, "recommend", "login-7", "-n", "10")
    assert answer["known_stars"] == len(mine)
    assert [entry["rank"] for entry in answer["recommendations"]] == list(range(1, 11))
    for entry in answer["recommendations"]:
        assert entry["full_name"] not in mine
        assert {reason["full_name"] for reason in entry["because"]} <= mine
        assert 0 < sum(reason["share"] for reason in entry["because"]) <= 1.001


def test_command_and_asset_agree(ran: ChainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))
    settings = load_settings()
    table = AssetStore(data_store(settings, connect_gcs(settings))).read_table("recommendations")
    assert table["login"].n_unique() == USERS
    mine = table.filter(pl.col("login") == "Login-7").sort("rank").head(10)
    answer = answer_json(ran.home, "recommend", "Login-7", "-n", "10")
    assert [entry["full_name"] for entry in answer["recommendations"]] == mine["full_name"].to_list()
    because = [[reason["full_name"] for reason in entry["because"]] for entry in answer["recommendations"]]
    assert because == mine["because"].to_list()
    starred = set(zip(ran.stars["login"], ran.stars["repo"], strict=True))
    assert not starred & set(zip(table["login"], table["full_name"], strict=True)), "somebody got what they starred"


def test_repositories_in_place_of_a_login(ran: ChainRun) -> None:
    answer = answer_json(ran.home, "recommend", "--repos", "owner4/REPO-9,Owner2/repo-12,no/such", "-n", "5")
    assert answer["known_stars"] == 2
    assert answer["warnings"] == ["Not known, ignored: no/such."]
    names = {entry["full_name"] for entry in answer["recommendations"]}
    assert len(names) == 5
    assert not names & {"Owner4/repo-9", "Owner2/repo-12"}


def test_anybody_gets_popular_ones_and_is_told_so(ran: ChainRun) -> None:
    answer = answer_json(ran.home, "recommend", "--popular", "-n", "5")
    assert {entry["kind"] for entry in answer["recommendations"]} == {"popular"}
    assert len(answer["recommendations"]) == 5
    assert any("what many starred" in warning for warning in answer["warnings"])


def test_the_model_is_downloaded(ran: ChainRun, tmp_path: Path) -> None:
    done = command(ran.home, "models", "download", "--directory", str(tmp_path), "--unpack")
    folder = Path(done.stdout.strip())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "index.json", "weights.safetensors"]
    one = answer_json(ran.home, "models", "download", "recvae", "1", "--directory", str(tmp_path / "one"))
    assert (one["name"], one["version"]) == ("recvae", 1)
    assert Path(one["path"]) == tmp_path / "one" / "recvae.tar.gz"


def test_the_models_command_shows_moves_and_verifies(
    ran: ChainRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything by the command, and put back as it was."""
    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))

    def asked(*arguments: str) -> Any:
        main([*arguments, "--json"])
        return json.loads(capsys.readouterr().out)

    listed = asked("models", "list")
    champion = next(model for model in listed if "champion" in model["aliases"])
    assert asked("models", "show")["object"] == champion["object"]
    whole = asked("models", "show", "recvae")
    assert whole["lineage"]["matrix"].startswith("gs://gh-assets/assets/user_item_matrix")
    assert (whole["data"]["stars"], whole["direction"]) == (ran.stars.height, "max")
    low, high = whole["intervals"]["ndcg@100"]
    assert low < whole["score"] < high
    assert all(finding["ok"] for finding in asked("models", "verify"))
    assert asked("models", "sweep") == []
    other = next(model for model in listed if model["object"] != champion["object"])
    moved = asked("models", "promote", other["name"], str(other["version"]), "--why", "a try", "--by", "me")
    assert (moved["name"], moved["by"], moved["why"]) == (other["name"], "me", "a try")
    served = asked("recommend", "--repos", str(ran.stars["repo"][0]))["model"]
    assert (served["name"], served["version"]) == (other["name"], other["version"])
    back = asked("models", "rollback", "--why", "it was a try")
    assert (back["name"], back["version"]) == (champion["name"], champion["version"])
    history = asked("models", "history")
    assert [move["action"] for move in history[:2]] == ["rollback", "promote"]
    code, said = fails(["models", "delete", champion["name"], str(champion["version"]), "--why", "by mistake"], capsys)
    assert code == 1
    assert "is the champion to recommend repositories" in said
    for arguments in (["list"], ["show"], ["history"], ["verify", "--quick"], ["sweep", "--dry-run"]):
        main(["models", *arguments])
        assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recommend", "nobody-at-all"], "'nobody-at-all' is not among the 160 collected users"),
        (["recommend", "--repos", "no/such,also/not"], "The model knows none of no/such, also/not"),
        (["recommend", "--repos", "not a repo"], "is no repository: give owner/name"),
        (["run", "--stars", "missing.parquet"], "missing.parquet does not exist"),
        (["run", "--awesome", "missing.md"], "'missing.md' is neither a file that exists nor owner/name"),
        (["run", "--source", "file"], "--source file needs the file"),
        (["models", "download", "other"], "No scored model 'other' is registered (registered: "),
    ],
)
def test_what_a_person_gets_wrong_is_one_line_and_exit_code_1(
    ran: ChainRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))
    code, said = fails(arguments, capsys)
    assert code == 1
    assert words in said


@pytest.mark.parametrize(
    "arguments", [["recommend"], ["recommend", "a", "--repos", "b/c"], ["run", "--max-pages", "0"], ["nonsense"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Error:" in capsys.readouterr().err


def test_an_empty_list_is_one_line(
    ran: ChainRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))
    empty = tmp_path / "empty.md"
    empty.write_text("# Nothing\n")
    code, said = fails(["run", "--awesome", str(empty)], capsys)
    assert code == 1
    assert "links to no repository on GitHub" in said


def test_another_world_needs_another_home(
    ran: ChainRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))
    other = tmp_path / "other.csv"
    pl.DataFrame({"repo": ["a/b"], "login": ["x"]}).write_csv(other)
    code, said = fails(["run", "--stars", str(other)], capsys)
    assert code == 1
    assert "This home holds the data of the stars of stars.parquet" in said
    assert answer_json(ran.home, "status")["world"] == "the stars of stars.parquet"


@pytest.mark.slow
def test_a_run_killed_while_collecting_goes_on_and_ends_with_the_same_data(
    ran: ChainRun, fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By REST: a page of one repository a request, so that there is something to be killed in.
    arguments = ["run", "--stars", str(ran.file), "--epochs", "4", "--source", "stargazers"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gh_assets", *arguments],
        env={name: value for name, value in os.environ.items() if name not in SETTINGS}
        | {"GH_ASSETS_HOME": str(fresh_home), "GH_ASSETS_WORKERS": "1"},
        cwd=fresh_home.parent,
        stderr=subprocess.DEVNULL,
    )

    def collected() -> int:
        """How many repositories' stars the stand-in has served; -1 before it runs."""
        for state in (fresh_home / "run").glob("github-*.json"):
            port = read_state(state.with_suffix("")).get("port")
            own = {"authorization": f"Bearer {(fresh_home / 'run' / 'standin-token').read_text()}"}
            try:
                return int(
                    requests.get(f"http://127.0.0.1:{port}/__standin__", headers=own, timeout=1)
                    .json()["served"]
                    .get("stargazers", 0)
                )
            except requests.RequestException:
                return -1
        return -1

    while collected() < 10 and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it had ended before it was killed"
    rerun = run_json(fresh_home, *arguments)
    assert rerun["stars"] == ran.stars.height
    expected, found = contents(ran.home, monkeypatch), contents(fresh_home, monkeypatch)
    assert found.keys() == expected.keys()
    # These hold times: of reading, of asking.
    stars = {name for name in found if name.startswith(("assets/stargazers/", "assets/collection_plan."))}
    assert {name: found[name] for name in found.keys() - stars} == {
        name: expected[name] for name in found.keys() - stars
    }
    assert collected_stars(fresh_home, monkeypatch).equals(collected_stars(ran.home, monkeypatch))
    monkeypatch.setenv("GH_ASSETS_HOME", str(fresh_home))
    database = connect_mongo(load_settings())
    states = CollectionState(database).load().values()
    assert {state.outcome.value for state in states} == {"ok"}
    assert rerun["models"][0]["sha256"] != ""
    database.client.close()
    let_go(fresh_home)


@pytest.mark.slow
def test_the_file_source_gives_the_same_stars(ran: ChainRun, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_json(fresh_home, "run", "--stars", str(ran.file), "--source", "file", "--epochs", "1")
    expected, found = contents(ran.home, monkeypatch), contents(fresh_home, monkeypatch)
    for name in ("assets/users.parquet", "assets/user_item_matrix.npz"):
        assert found[name] == expected[name]
    let_go(fresh_home)


def test_a_partition_that_no_list_names_does_not_look_as_if_it_were_collected(
    ran: ChainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))
    from gh_assets.definitions import defs

    with open_instance() as instance:
        instance.add_dynamic_partitions("repo", ["typed/by-hand"])
        try:
            job = defs.resolve_implicit_global_asset_job_def()
            job.execute_in_process(
                asset_selection=[dg.AssetKey("stargazers")], partition_key="typed/by-hand", instance=instance
            )
            event = instance.get_latest_materialization_event(dg.AssetKey("stargazers"))
            assert event is not None
            assert event.asset_materialization is not None
            metadata = event.asset_materialization.metadata
            assert (event.asset_materialization.partition, metadata["outcome"].value) == ("typed/by-hand", "unlisted")
            assert "No list names this repository" in str(metadata["reason"].value)
            assert answer_json(ran.home, "status")["partition_outcomes"]["unlisted"] == 1
        finally:
            instance.delete_dynamic_partition("repo", "typed/by-hand")


def test_a_blocking_check_ends_the_command_in_its_own_sentence(
    ran: ChainRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))
    database = connect_mongo(load_settings())
    newest = max(database["models"].find({"name": {"$in": list(SERVED)}}), key=lambda model: model["time"])
    try:
        database["models"].update_one({"_id": newest["_id"]}, {"$set": {"data.users": 10 * USERS}})
        code, said = fails(["run", "--stars", str(ran.file), "--epochs", "4"], capsys)
    finally:
        database["models"].update_one({"_id": newest["_id"]}, {"$set": {"data.users": USERS}})
        database.client.close()
    assert code == 1
    words = " ".join(said.split())
    assert "The check matrix_is_like_the_last of user_item_matrix did not pass" in words
    trained = f"{newest['name']} {newest['version']} was trained on {10 * USERS:,}."
    assert f"There are only {USERS} users, but {trained}" in words
    assert "If that is intended, run" in words
    assert "gh-assets run --accept-matrix" in words
    assert "users_share 0.1" in words


def test_a_champion_that_cannot_be_loaded_stops_no_asset(
    ran: ChainRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A newer hybrid of another format, promoted by hand: the gate, the recommendations and the command go on."""
    from gh_assets.definitions import defs

    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))
    settings = load_settings()
    before = answer_json(ran.home, "status")["serving"]["model"]
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "index.json").write_text('{"model": "transformer"}')
    with open_mongo(settings) as database, open_instance() as instance:
        registry = ModelRegistry(model_store(settings), database["models"])
        data = registry.latest("hybrid").data
        strange = registry.save(
            tmp_path / "strange", ModelCard("hybrid", 0.99, metric="ndcg@100", data=data), archive="gzip"
        )
        registry.promote(Promotion("hybrid", strange.version, why="a try"))
        for job, asset in (("judge_models", "champion"), ("recommend", "recommendations")):
            assert defs.resolve_job_def(job).execute_in_process(instance=instance).success
            event = instance.get_latest_materialization_event(dg.AssetKey(asset))
            assert event is not None
            assert event.asset_materialization is not None
            metadata = event.asset_materialization.metadata
            (words,) = [str(words) for words in metadata["skipped"].value]  # type: ignore[union-attr]
            assert words.startswith(f"{strange.title} cannot be loaded and is skipped: ")
            assert metadata["champion" if asset == "champion" else "model"].value == before
        main(["recommend", "--popular"])
        captured = capsys.readouterr()
        assert f"{strange.title} cannot be loaded and is skipped" in " ".join(captured.err.split())
        told = answer_json(ran.home, "status")["serving"]
        assert (told["model"], told["champion"], len(told["skipped"])) == (before, True, 1)
        registry.rollback(why="it was a try")
        registry.delete("hybrid", strange.version, why="it was a try")


def test_a_model_that_was_trained_before_and_cannot_be_loaded_is_trained_again(
    ran: ChainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gh_assets.assets.hybrid_model import hybrid_model
    from gh_assets.definitions import defs

    monkeypatch.setenv("GH_ASSETS_HOME", str(ran.home))
    settings = load_settings()
    with open_mongo(settings) as database, open_instance() as instance:
        registry = ModelRegistry(model_store(settings), database["models"])
        before = registry.latest("hybrid")
        database["models"].update_one({"name": "hybrid", "version": before.version}, {"$set": {"sha256": "0" * 64}})
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            asset_selection=[hybrid_model.key], instance=instance
        )
        assert result.success
        again = registry.latest("hybrid")
        assert again.version > before.version
        assert registry.verify(again) is None
