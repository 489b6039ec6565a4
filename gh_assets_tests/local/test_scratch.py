"""Tests of scratch folders, which are removed however their process ends."""

import tempfile
from pathlib import Path

import pytest

from gh_assets.local.scratch import PREFIX, Scratch, clear_dead_scratch
from gh_assets_tests.support.commands import script

PROGRAM = """
import sys
from gh_assets.local.scratch import Scratch
with Scratch() as folder:
    (folder / "half a model").write_bytes(b"1")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_folder_of_a_killed_process_is_removed_by_the_next_one_and_a_used_one_is_not(temporary_folder: Path) -> None:
    foreign = temporary_folder / "gh-assets-of-another"
    foreign.mkdir()
    with script(PROGRAM) as process:
        assert process.stdout is not None
        other = Path(process.stdout.readline().strip())
        with Scratch() as own:
            assert clear_dead_scratch() == []
            assert sorted(temporary_folder.iterdir()) == sorted([own, other, foreign])
        process.kill()
    assert (other / "half a model").exists(), "the kill leaves it"
    with Scratch() as own:
        assert sorted(temporary_folder.iterdir()) == sorted([own, foreign])


def test_folder_is_removed_with_its_object_and_after_an_error(temporary_folder: Path) -> None:
    scratch = Scratch()
    assert scratch.path.is_dir()
    del scratch
    with pytest.raises(ValueError, match="an error"), Scratch():
        raise ValueError("an error")
    assert list(temporary_folder.iterdir()) == []


def test_link_with_the_prefix_is_not_followed(temporary_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("target")
    (target / "precious").write_text("1")
    (temporary_folder / f"{PREFIX}link").symlink_to(target)
    assert clear_dead_scratch() == []
    assert (target / "precious").exists()
