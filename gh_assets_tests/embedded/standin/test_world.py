"""Tests of worlds from files."""

from pathlib import Path

import polars as pl

from gh_assets.embedded.standin.world import list_name, read_world


def test_world_is_read_from_stars_and_lists(tmp_path: Path) -> None:
    table = pl.DataFrame({"repo": ["b/x", "a/y", "b/x"], "login": ["u1", "u1", "u2"]})
    table.write_csv(tmp_path / "stars.csv")
    world = read_world(tmp_path / "stars.csv")
    assert (len(world.logins), world.star_count, world.lists) == (2, 3, ["standin/awesome-all"])
    text = world.by_name["standin/awesome-all"].readme or ""
    assert "github.com/b/x" in text
    assert "github.com/a/y" in text
    (tmp_path / "vinta-awesome-python.md").write_text("[y](https://github.com/a/y)")
    world = read_world(tmp_path / "stars.csv", [tmp_path / "vinta-awesome-python.md"])
    assert world.lists == ["vinta/awesome-python"]
    assert list_name(Path("plain.md")) == "awesome/plain"
