"""Tests of `gh-assets models`."""

from pathlib import Path

import pytest

from gh_assets.cli import main
from gh_assets_tests.cli.conftest import Failure
from gh_assets_tests.support.chain_runs import ChainRun
from gh_assets_tests.support.commands import answer_json, command


def test_models_are_downloaded_and_unpacked(chain_run: ChainRun, tmp_path: Path) -> None:
    done = command(chain_run.home, "models", "download", "--directory", str(tmp_path), "--unpack")
    folder = Path(done.stdout.strip())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "index.json", "weights.safetensors"]
    one = answer_json("models", "download", "recvae", "1", "--directory", str(tmp_path / "one"))
    assert (one["name"], one["version"]) == ("recvae", 1)
    assert Path(one["path"]) == tmp_path / "one" / "recvae.tar.zst"


def test_models_are_shown_promoted_rolled_back_and_verified(
    chain_run: ChainRun, failure: Failure, capsys: pytest.CaptureFixture[str]
) -> None:
    """The home ends as it began."""
    listed = answer_json("models", "list")
    champion = next(model for model in listed if "champion" in model["aliases"])
    assert answer_json("models", "show")["object"] == champion["object"]
    whole = answer_json("models", "show", "recvae")
    assert whole["lineage"]["matrix"].startswith("gs://gh-assets/assets/user_item_matrix")
    assert (whole["data"]["stars"], whole["direction"]) == (chain_run.stars.height, "max")
    low, high = whole["intervals"]["ndcg@100"]
    assert low < whole["score"] < high
    assert all(finding["ok"] for finding in answer_json("models", "verify"))
    assert answer_json("models", "sweep") == []
    other = next(model for model in listed if model["object"] != champion["object"])
    moved = answer_json("models", "promote", other["name"], str(other["version"]), "--why", "a test", "--by", "me")
    assert (moved["name"], moved["by"], moved["why"]) == (other["name"], "me", "a test")
    served = answer_json("recommend", "--repos", str(chain_run.stars["repo"][0]))["model"]
    assert (served["name"], served["version"]) == (other["name"], other["version"])
    back = answer_json("models", "rollback", "--why", "it was a test")
    assert (back["name"], back["version"]) == (champion["name"], champion["version"])
    history = answer_json("models", "history")
    assert [move["action"] for move in history[:2]] == ["rollback", "promote"]
    refusal = failure("models", "delete", champion["name"], str(champion["version"]), "--why", "by mistake")
    assert "is the champion to recommend repositories" in refusal
    for arguments in (["list"], ["show"], ["history"], ["verify", "--quick"], ["sweep", "--dry-run"]):
        main(["models", *arguments])
        assert capsys.readouterr().out.strip()


def test_download_of_an_unknown_name_lists_the_registered_ones(chain_run: ChainRun, failure: Failure) -> None:
    assert "No scored model 'other' is registered (registered: " in failure("models", "download", "other")
