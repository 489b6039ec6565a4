"""Files of stars."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from gh_assets.collector.stars_file import read_stars_file
from gh_assets.errors import InputError


def write(path: Path, **columns: list[object]) -> Path:
    table = pl.DataFrame(columns)
    table.write_parquet(path) if path.suffix == ".parquet" else table.write_csv(path)
    return path


@pytest.mark.parametrize("name", ["stars.parquet", "stars.csv"])
def test_ids_are_given_by_first_appearance_and_doubles_are_dropped(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, repo=["b/x", "A/y", "a/Y", "b/x"], login=["Zoe", "ann", "zoe", "zoe"])
    assert read_stars_file(path).rows() == [
        ("b/x", "Zoe", 1, 1, None),
        ("A/y", "ann", 2, 2, None),
        ("A/y", "Zoe", 2, 1, None),
    ]


def test_ids_and_times_of_the_file_are_kept(tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.csv",
        repo=["a/b", "a/b", "a/b"],
        login=["x", "y", "z"],
        repo_id=[9, 9, 9],
        user_id=[4, 5, 6],
        starred_at=["2020-01-02T03:04:05Z", "2020-01-02T03:04:05+01:00", None],
    )
    table = read_stars_file(path)
    assert table["user_id"].to_list() == [4, 5, 6]
    assert [str(moment) for moment in table["starred_at"]] == [
        "2020-01-02 03:04:05+00:00",
        "2020-01-02 02:04:05+00:00",
        "None",
    ]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"repo": ["a/b"]}, "no column 'login'; it has: repo"),
        ({"repo": [1], "login": ["x"]}, "column 'repo' .* not text"),
        ({"repo": ["a/b", None], "login": ["x", "y"]}, "column 'repo' .* 1 empty values"),
        ({"repo": ["ab"], "login": ["x"]}, "names a repository 'ab': not owner/name"),
        ({"repo": ["a/b"], "login": ["x"], "user_id": ["seven"]}, "column 'user_id' .* whole number"),
        ({"repo": ["a/b"], "login": ["x"], "starred_at": ["yesterday"]}, "'starred_at' .* no time"),
    ],
)
def test_a_wrong_file_is_one_error_that_names_what(
    tmp_path: Path, columns: dict[str, list[object]], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_stars_file(write(tmp_path / "s.parquet", **columns))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.csv does not exist"):
        read_stars_file(tmp_path / "gone.csv")
    with pytest.raises(InputError, match=r"neither \.parquet nor \.csv"):
        read_stars_file(tmp_path / "stars.xlsx")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"bad\.parquet cannot be read as parquet"):
        read_stars_file(tmp_path / "bad.parquet")
    pl.DataFrame({"repo": [], "login": []}, schema={"repo": pl.String, "login": pl.String}).write_parquet(
        tmp_path / "none.parquet"
    )
    with pytest.raises(InputError, match="has no stars in it"):
        read_stars_file(tmp_path / "none.parquet")
