"""A home that the version before 1.0 wrote is opened: same champion, same recommendations, nothing collected anew.

`cases/homes/before-1.0.tar.zst` holds such a home: 24 repositories and 80 users of an invented file of stars, a small
RecVAE and hybrid, and what `status` and `recommend` of that version printed.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from gh_assets.embedded.supervision import release_all
from gh_assets_tests.support.commands import command, run_json
from gh_assets_tests.support.paths import CHECKOUT

HOME = CHECKOUT / "gh_assets_tests" / "cases" / "homes" / "before-1.0.tar.zst"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("before")
    content = io.BytesIO(zstandard.ZstdDecompressor().decompressobj().decompress(HOME.read_bytes()))
    with tarfile.open(fileobj=content) as archive:
        archive.extractall(folder, filter="data")
    world = folder / "home" / "world.json"
    world.write_text(json.dumps(json.loads(world.read_text()) | {"stars": str(folder / "stars.csv")}))
    yield folder
    release_all(folder / "home")


def before(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def test_a_home_of_the_version_before_shows_the_same_data_and_champion(unpacked: Path) -> None:
    expected, shown = before(unpacked, "status"), run_json(unpacked / "home", "status")
    for key in ("world", "repos", "repo_outcomes", "partition_outcomes", "star_sources", "stars", "users", "matrix"):
        assert shown[key] == expected[key], key
    assert shown["models"] == expected["models"]
    assert shown["serving"] == expected["serving"]


def test_a_home_of_the_version_before_gives_the_same_recommendations(unpacked: Path) -> None:
    expected, shown = before(unpacked, "recommend"), run_json(unpacked / "home", "recommend", "user-0")
    lists = [document["recommendations"] for document in (shown, expected)]
    assert [entry["full_name"] for entry in lists[0]] == [entry["full_name"] for entry in lists[1]]
    now, then = ([reason for entry in entries for reason in entry["because"]] for entries in lists)
    assert [reason["full_name"] for reason in now] == [reason["full_name"] for reason in then]
    shares = [reason["share"] for reason in then]
    # Sums may be added up in another order.
    assert [reason["share"] for reason in now] == pytest.approx(shares, rel=1e-5)
    assert shown["model"] == expected["model"]


@pytest.mark.slow
def test_a_run_in_a_home_of_the_version_before_collects_nothing_anew(unpacked: Path) -> None:
    done = command(unpacked / "home", "run", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert "repos: 24 of 24" in done.stderr
    assert "stargazers:" not in done.stderr, "no list is read again"
    shown, expected = run_json(unpacked / "home", "status"), before(unpacked, "status")
    assert shown["stars"] == expected["stars"]
    assert shown["partition_outcomes"] == expected["partition_outcomes"]
