"""Tests of `gh-assets status`."""

import datetime as dt

import pytest

from gh_assets.cli import main
from gh_assets.collector.feeds import FeedState
from gh_assets.collector.history_state import HistoryState, HistoryStates
from gh_assets.collector.state import CollectionState, RepositoryState
from gh_assets.github.outcomes import Outcome
from gh_assets.services.connections import open_mongo
from gh_assets.settings import load_settings
from gh_assets_tests.support.chain_runs import ChainRun
from gh_assets_tests.support.commands import answer_json, run_json


def test_status_has_the_figures_of_the_file(chain_run: ChainRun) -> None:
    status = run_json(chain_run.home, "status")
    repos, users = chain_run.stars["repo"].n_unique(), chain_run.stars["login"].n_unique()
    assert (status["repos"], status["partitions"], status["users"]) == (repos, repos, users)
    assert status["stars"] == chain_run.stars.height
    assert status["matrix"] == {"rows": users, "cols": repos, "nnz": chain_run.stars.height}
    assert status["partition_outcomes"] == {"ok": repos}
    assert status["runs"] == {"SUCCESS": 3}, "two of the chain, and one that read the star histories"
    models = {model["name"]: model for model in status["models"]}
    baselines = models.keys() - {"recvae", "hybrid"}
    assert len(baselines) <= 1, "only the best one, if it is certainly better than the hybrid for the validation users"
    hybrid, model = models["hybrid"], models["recvae"]
    assert sum("champion" in entry["aliases"] for entry in status["models"]) == 1
    assert {"name", "tag", "score", "metric", "time", "object", "size"} <= model.keys()
    assert (model["name"], model["metric"]) == ("recvae", "ndcg@100")
    assert (hybrid["name"], hybrid["metric"]) == ("hybrid", "ndcg@100")
    assert {"ndcg@100", "popularity ndcg@100"} <= model["metrics"].keys()
    assert {"ndcg@100", "recvae ndcg@100", "ease ndcg@100"} <= hybrid["metrics"].keys()
    # After four epochs, RecVAE may not be the best model.
    assert chain_run.first["run"]["checks_failed"] == [], "nothing is wrong with a first run"


def test_run_and_status_explain_which_model_serves(chain_run: ChainRun, capsys: pytest.CaptureFixture[str]) -> None:
    serving = chain_run.first["serving"]
    champion = next(model for model in chain_run.first["models"] if "champion" in model["aliases"])
    assert (serving["model"], serving["champion"]) == (f"{champion['name']} {champion['version']}", True)
    assert serving["outcome"] == "promoted"
    assert f"{serving['model']} is better than popularity for" in serving["why"]
    assert "was ahead of" in serving["decision"]
    assert serving["newest"] == f"{chain_run.first['models'][0]['name']} 1"
    now = answer_json("status")["serving"]
    assert now.keys() == serving.keys()
    assert now["model"] == serving["model"]
    main(["status"])
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"serves {serving['model']} (the champion):" in output
    assert f"newest model {serving['newest']}:" in output


@pytest.mark.usefixtures("fresh_home")
def test_status_counts_feeds_with_gaps_and_complete_histories(capsys: pytest.CaptureFixture[str]) -> None:
    now = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)
    unread = FeedState(next_look_at=now)
    looked = FeedState(next_look_at=now, looked_at=now, gap_count=1)
    feeds = [None, unread, looked, looked.model_copy(update={"has_new_gap": True})]
    known = {"outcome": Outcome.OK, "asked_at": now, "read_until": now}
    histories = [known | {"complete": True}, known, known, known | {"outcome": Outcome.GONE, "read_until": None}]
    names = [{"repo_id": number, "partition": f"a/{number}", "full_name": f"a/{number}"} for number in range(4)]
    with open_mongo(load_settings()) as database:
        states = zip(names, feeds, strict=True)
        CollectionState(database).save(
            [RepositoryState(**name, outcome=Outcome.OK, asked_at=now, feed=feed) for name, feed in states]
        )
        HistoryStates(database).save([HistoryState(**a, **b) for a, b in zip(names, histories, strict=True)])
    status = answer_json("status")
    assert (status["feeds"], status["feeds_with_gaps"]) == (2, 1)
    assert (status["histories"], status["histories_complete"]) == (3, 1)
    main(["status"])
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "event feeds 2 1 with gaps at the last look" in output
    assert "star histories 3 1 complete" in output
