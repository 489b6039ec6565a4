"""Tests of `gh-assets tune`."""

from pathlib import Path

import pytest

from gh_assets_tests.support.commands import run_json, write_stars


@pytest.mark.slow
def test_search_is_recorded_and_later_runs_use_its_hyperparameters(fresh_home: Path, tmp_path: Path) -> None:
    stars = tmp_path / "stars.parquet"
    write_stars(stars)
    run_json(fresh_home, "run", "--stars", str(stars), "--epochs", "2")
    tuned = run_json(fresh_home, "tune", "--minutes", "0.05", "--epochs", "2")
    assert (tuned["name"], tuned["tag"], tuned["metric"]) == ("recvae", "tuned", "ndcg@100")
    trials = tuned["config"]["search"]["trials"]
    assert trials[0]["parameters"]["gamma"] == 0.005, "the defaults are tried first"
    best = max((trial for trial in trials if trial["score"] is not None), key=lambda trial: trial["score"])
    assert tuned["config"]["search"]["score"] == best["score"]
    again = run_json(fresh_home, "run", "--stars", str(stars), "--epochs", "2")
    newest = next(model for model in again["models"] if model["name"] == "recvae" and not model["tag"])
    for name, value in best["parameters"].items():
        assert newest["config"][name] == value
