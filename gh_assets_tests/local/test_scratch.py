"""Scratch folders: they go with who made them, however that ended."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gh_assets.local.scratch import PREFIX, Scratch, clear_dead_scratch
from gh_assets_tests.support.paths import CHECKOUT

MAKER = """
import sys
from gh_assets.local.scratch import Scratch
with Scratch() as folder:
    (folder / "half a model").write_bytes(b"1")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_what_a_killed_process_left_goes_with_the_next_and_what_is_in_use_stays(place: Path) -> None:
    (place / "gh-assets-of-somebody").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        with Scratch() as mine:
            assert clear_dead_scratch() == []
            assert sorted(place.iterdir()) == sorted([mine, theirs, place / "gh-assets-of-somebody"])
        process.kill()
    assert (theirs / "half a model").exists(), "kill -9 leaves it behind"
    with Scratch() as mine:
        assert sorted(place.iterdir()) == sorted([mine, place / "gh-assets-of-somebody"])


def test_it_goes_with_the_object_and_with_an_error(place: Path) -> None:
    made = Scratch()
    assert made.path.is_dir()
    del made
    with pytest.raises(ValueError, match="an error"), Scratch():
        raise ValueError("an error")
    assert list(place.iterdir()) == []


def test_a_link_of_that_name_is_not_followed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("target")
    (target / "precious").write_text("1")
    (place / f"{PREFIX}link").symlink_to(target)
    assert clear_dead_scratch() == []
    assert (target / "precious").exists()
