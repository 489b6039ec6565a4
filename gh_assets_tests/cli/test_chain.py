"""Tests of the whole chain, run by the command in a home of its own on a small world."""

import io
import os
import pickle
import signal
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
import requests
import zstandard

from gh_assets.assets.definition import REPO_PARTITIONS
from gh_assets.automation.jobs import range_tags, refresh_job, repos_job
from gh_assets.cli import main
from gh_assets.cli.chain import execute
from gh_assets.collector.state import CollectionState
from gh_assets.definitions import build_definitions
from gh_assets.embedded import servers as embedded
from gh_assets.embedded.guardian import read_state
from gh_assets.embedded.servers import HomeWorld, choose_world
from gh_assets.errors import WorldMismatchError
from gh_assets.instance.configuration import open_instance
from gh_assets.recommender.models.hybrid import MODELS
from gh_assets.registry import SERVED, ModelCard, Promotion, open_registry
from gh_assets.services.connections import asset_store, connect_gcs, data_store, model_store, open_mongo
from gh_assets.settings import Settings, load_settings
from gh_assets_tests.cli.conftest import Failure
from gh_assets_tests.support.chain_runs import ChainRun, latest_materialization
from gh_assets_tests.support.commands import USERS, answer_json, run_json, started
from gh_assets_tests.support.pickles import parts_of, pickles_in


def materialize(instance: dg.DagsterInstance, asset: str, **options: Any) -> None:
    job = build_definitions(load_settings()).resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(asset_selection=[dg.AssetKey(asset)], instance=instance, **options).success


def settings_of(home: Path) -> Settings:
    return load_settings().model_copy(update={"home": home})


def contents(home: Path) -> dict[str, str]:
    """Return the checksum of each object of the assets."""
    bucket = data_store(settings_of(home)).bucket
    return {blob.name: blob.crc32c for blob in bucket.list_blobs(prefix="assets/")}


def collected_stars(home: Path) -> pl.DataFrame:
    """Return all collected stars, whatever their source."""
    store = asset_store(settings_of(home))
    tables = store.read_tables("stargazers", sorted(store.partitions("stargazers")))
    return pl.concat(tables.values()).drop("source")


def test_runs_of_the_command_belong_to_the_code_location(chain_run: ChainRun) -> None:
    """The UI shows a run on its timeline and with its job only if it knows the code location of the run."""
    with open_instance(load_settings()) as instance:
        runs = list(instance.get_runs())
        of_jobs = list(instance.get_runs(dg.RunsFilter(tags={".dagster/repository": "__repository__@gh_assets"})))
    assert len(runs) >= 2
    assert {run.run_id for run in of_jobs} == {run.run_id for run in runs}
    for run in runs:
        assert run.remote_job_origin is not None
        assert run.remote_job_origin.job_name == run.job_name
        assert run.remote_job_origin.location_name == "gh_assets"


def test_the_leaderboard_has_every_recommender(chain_run: ChainRun) -> None:
    board = chain_run.first["run"]["leaderboard"]
    assert set(board) == set(MODELS)
    scores = [metrics["ndcg@100"] for metrics in board.values()]
    assert scores == sorted(scores, reverse=True)
    by_name = {model["name"]: model for model in answer_json("status")["models"]}
    for name in ("recvae", "hybrid"):
        assert board[name]["ndcg@100"] == pytest.approx(by_name[name]["score"]), "the same users were held out"


def test_second_run_sends_no_request_twice_and_changes_no_byte(chain_run: ChainRun) -> None:
    url, token = embedded.github_standin(chain_run.home)

    def served() -> list[int]:
        own = {"authorization": f"Bearer {token}"}
        numbers = requests.get(f"{url}/__standin__", headers=own, timeout=10).json()["served"]
        return [numbers.get(kind, 0) for kind in ("stargazers", "repository", "star_history")]

    with open_mongo(load_settings()) as database:

        def stored() -> dict[str, list[Any]]:
            names = ("users", "repos", "stargazer_state", "star_history_state", "models")
            return {name: list(database[name].find().sort("_id")) for name in names}

        before = served(), contents(chain_run.home), stored()
        second = run_json(chain_run.home, "run", "--stars", str(chain_run.file), "--epochs", "4")
        assert (served(), contents(chain_run.home), stored()) == before, "unchanged metadata answer 304"
    assert second["models"] == chain_run.first["models"], "the same data are not trained again"


def test_nothing_is_pickled(chain_run: ChainRun) -> None:
    """Every object in both buckets is checked, down to the innermost layer of each archive."""
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


def test_unlisted_partition_is_not_reported_as_collected(chain_run: ChainRun) -> None:
    with open_instance(load_settings()) as instance:
        instance.add_dynamic_partitions("repo", ["typed/by-hand"])
        try:
            materialize(instance, "stargazers", partition_key="typed/by-hand")
            latest = latest_materialization(instance, "stargazers")
            assert (latest.partition, latest.metadata["outcome"].value) == ("typed/by-hand", "unlisted")
            assert "No list names this repository" in str(latest.metadata["reason"].value)
            assert answer_json("status")["partition_outcomes"]["unlisted"] == 1
        finally:
            instance.delete_dynamic_partition("repo", "typed/by-hand")


def test_blocking_check_is_explained_by_its_description(chain_run: ChainRun, failure: Failure) -> None:
    with open_mongo(load_settings()) as database:
        models = database["models"]
        newest = max(models.find({"name": {"$in": list(SERVED)}}), key=lambda model: model["time"])
        try:
            models.update_one({"_id": newest["_id"]}, {"$set": {"data.users": 10 * USERS}})
            message = failure("run", "--stars", str(chain_run.file), "--epochs", "4")
        finally:
            models.update_one({"_id": newest["_id"]}, {"$set": {"data.users": USERS}})
    assert "The check matrix_is_like_the_last of user_item_matrix did not pass" in message
    trained = f"{newest['name']} {newest['version']} was trained on {10 * USERS:,}."
    assert f"There are only {USERS} users, but {trained}" in message
    assert "If that is intended, run" in message
    assert "gh-assets run --accept-matrix" in message
    assert "users_share 0.1" in message


def test_unloadable_champion_stops_no_asset(
    chain_run: ChainRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a newer hybrid of an unknown format, promoted by hand, promotion, recommendations and command continue."""
    settings = load_settings()
    before = answer_json("status")["serving"]["model"]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "index.json").write_text('{"model": "transformer"}')
    with open_registry(settings) as registry, open_instance(settings) as instance:
        data = registry.latest("hybrid").data
        broken = registry.save(
            tmp_path / "broken", ModelCard("hybrid", 0.99, metric="ndcg@100", data=data), archive="gzip"
        )
        registry.promote(Promotion("hybrid", broken.version, why="a test"))
        for job, asset in (("judge_models", "champion"), ("recommend", "recommendations")):
            assert build_definitions(settings).resolve_job_def(job).execute_in_process(instance=instance).success
            metadata = latest_materialization(instance, asset).metadata
            (message,) = [str(message) for message in metadata["skipped"].value]  # type: ignore[union-attr]
            assert message.startswith(f"{broken.title} cannot be loaded and is skipped: ")
            assert metadata["champion" if asset == "champion" else "model"].value == before
        main(["recommend", "--popular"])
        captured = capsys.readouterr()
        assert f"{broken.title} cannot be loaded and is skipped" in " ".join(captured.err.split())
        serving = answer_json("status")["serving"]
        assert (serving["model"], serving["champion"], len(serving["skipped"])) == (before, True, 1)
        registry.rollback(why="it was a test")
        registry.delete("hybrid", broken.version, why="it was a test")


def test_unloadable_model_is_trained_again(chain_run: ChainRun) -> None:
    with open_registry(load_settings()) as registry, open_instance(load_settings()) as instance:
        before = registry.latest("hybrid")
        registry.documents.update_one({"name": "hybrid", "version": before.version}, {"$set": {"sha256": "0" * 64}})
        materialize(instance, "hybrid_model")
        again = registry.latest("hybrid")
        assert again.version > before.version
        assert registry.verify(again) is None


@pytest.mark.slow
def test_killed_run_resumes_and_ends_with_the_same_data(chain_run: ChainRun, fresh_home: Path) -> None:
    # By REST: a page of one repository a request, so that there is something to be killed in.
    arguments = ["run", "--stars", str(chain_run.file), "--epochs", "4", "--source", "stargazers"]
    process = started(
        fresh_home, *arguments, environment={"GH_ASSETS_WORKERS": "1"}, stderr=subprocess.DEVNULL, stdout=None
    )

    def collected() -> int:
        """Return how many repositories' stars the stand-in has served; -1 before it runs."""
        for state in (fresh_home / "run").glob("github-*.json"):
            port = read_state(state.with_suffix("")).get("port")
            own = {"authorization": f"Bearer {(fresh_home / 'run' / 'standin-token').read_text()}"}
            with suppress(requests.RequestException):
                answer = requests.get(f"http://127.0.0.1:{port}/__standin__", headers=own, timeout=1).json()
                return int(answer["served"].get("stargazers", 0))
        return -1

    while collected() < 10 and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it had ended before it was killed"
    rerun = run_json(fresh_home, *arguments)
    assert rerun["stars"] == chain_run.stars.height
    expected, actual = contents(chain_run.home), contents(fresh_home)
    assert actual.keys() == expected.keys()
    # Stars and plan contain the times of reading.
    different = [name for name in actual if actual[name] != expected[name]]
    assert all(name.startswith(("assets/stargazers/", "assets/collection_plan.")) for name in different)
    assert collected_stars(fresh_home).equals(collected_stars(chain_run.home))
    with open_mongo(settings_of(fresh_home)) as database:
        states = CollectionState(database).load().values()
    assert {state.outcome.value for state in states} == {"ok"}
    assert rerun["models"][0]["sha256"] != ""


@pytest.mark.slow
def test_file_source_yields_the_same_stars(chain_run: ChainRun, fresh_home: Path) -> None:
    run_json(fresh_home, "run", "--stars", str(chain_run.file), "--source", "file", "--epochs", "1")
    expected, actual = contents(chain_run.home), contents(fresh_home)
    for name in ("assets/users.parquet", "assets/user_item_matrix.npz"):
        assert actual[name] == expected[name]


def test_launchpad_refuses_a_file_of_another_world(fresh_home: Path, tmp_path: Path) -> None:
    own, other = tmp_path / "own.csv", tmp_path / "other.csv"
    own.write_text("repo,login\na/b,ann\na/c,bob\n")
    other.write_text("repo,login\na/b,zoe\n")
    choose_world(fresh_home, HomeWorld(str(own)))
    defs = build_definitions(load_settings())
    with open_instance(load_settings()) as instance:
        execute(defs, repos_job.name, instance, {})
        partitions = instance.get_dynamic_partitions(str(REPO_PARTITIONS.name))
        assert sorted(partitions) == ["a/b", "a/c"]
        config = {"stargazers": {"config": {"source": "file", "stars_file": str(other)}}}
        with pytest.raises(WorldMismatchError, match=r"data of the stars of own\.csv, whose ids are made up"):
            execute(defs, refresh_job.name, instance, config, range_tags(partitions[0], partitions[-1]))
    with open_mongo(load_settings()) as database:
        assert database["users"].count_documents({}) == database["stargazer_state"].count_documents({}) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stars", "missing.parquet"], "missing.parquet does not exist"),
        (["--awesome", "missing.md"], "'missing.md' is neither a file that exists nor owner/name"),
        (["--awesome", "empty.md"], "links to no repository on GitHub"),
        (["--source", "file"], "--source file needs the file"),
    ],
)
def test_wrong_input_is_explained_in_one_line(
    chain_run: ChainRun, failure: Failure, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty.md").write_text("# Nothing\n")
    assert message in failure("run", *arguments)


def test_another_world_needs_another_home(chain_run: ChainRun, failure: Failure, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    pl.DataFrame({"repo": ["a/b"], "login": ["x"]}).write_csv(other)
    assert "This home holds the data of the stars of stars.parquet" in failure("run", "--stars", str(other))
    assert answer_json("status")["world"] == "the stars of stars.parquet"
