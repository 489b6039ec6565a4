"""Days of GH Archive: hours that are combined, read again, missing or damaged, and stored days."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from starlette.requests import Request
from starlette.responses import Response

from gh_assets.collector.archive_days import DayReport, days_of, read_days, read_star_events
from gh_assets.collector.gharchive import WantedRepositories
from gh_assets.collector.star_sources.base import RepositoryRef
from gh_assets.errors import InputError
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import STAR_EVENTS
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.conftest import serving
from gh_assets_tests.support.commands import stored_file
from gh_assets_tests.support.gharchive import Event, packed, star_event
from gh_assets_tests.support.github import scripted

DAY = dt.date(2024, 5, 1)


def star(repo: int, user: int, minute: int, hour: int = 0) -> Event:
    return star_event(repo, user, f"{DAY}T{hour:02d}:{minute:02d}:00Z")


def write(folder: Path, hour: int, *events: Event) -> Path:
    path = folder / f"{DAY}-{hour}.json.gz"
    path.write_bytes(packed(*events))
    return path


def read_day(
    places: list[str], base: str = "", before: Callable[[dt.date], pl.DataFrame | None] = lambda _: None, **options: Any
) -> tuple[DayReport, pl.DataFrame]:
    ((report, table),) = read_days([DAY], places, base, before, **options)
    assert STAR_EVENTS.problem(table) is None
    return report, table


def test_hours_are_combined_into_a_day_without_duplicate_stars(tmp_path: Path) -> None:
    write(tmp_path, 0, star(1, 7, 5), star(2, 7, 6))
    write(tmp_path, 13, star(1, 7, 5, 13), star(1, 8, 1, 13))
    report, table = read_day([str(tmp_path)])
    assert (report.hours, report.stars, report.corrupt_lines, report.problems) == (2, 3, 0, [])
    assert table.select("repo_id", "user_id").rows() == [(1, 7), (2, 7), (1, 8)]


def test_more_hours_are_added_to_a_day_and_the_same_hours_change_nothing(tmp_path: Path) -> None:
    first = write(tmp_path, 0, star(1, 7, 5))
    second = write(tmp_path, 1, star(1, 8, 5, 1))
    _, table = read_day([str(first)])
    _, both = read_day([str(second)], before=lambda _: table)
    assert both["user_id"].to_list() == [7, 8]
    _, again = read_day([str(first)], before=lambda _: both)
    assert again.equals(both)
    # An hour that is read again replaces its earlier stars.
    write(tmp_path, 1, star(1, 9, 5, 1))
    _, corrected = read_day([str(second)], before=lambda _: both)
    assert corrected["user_id"].to_list() == [7, 9]


def test_missing_and_damaged_hours_are_reported_and_the_others_read(tmp_path: Path) -> None:
    write(tmp_path, 3, star(1, 7, 5, 3))
    whole = write(tmp_path, 4, *(star(1, user, 5, 4) for user in range(1, 2000)))
    whole.write_bytes(whole.read_bytes()[:-3000])
    report, table = read_day([], str(tmp_path))
    assert report.hours == 2
    assert 100 < table.height < 2000
    assert len(report.problems) == 23
    assert sum("does not exist" in problem for problem in report.problems) == 22
    assert sum("cut off" in problem for problem in report.problems) == 1
    assert "2 hours" in report.summary()


def test_hours_are_read_from_an_address_and_from_a_bucket(tmp_path: Path, objects: ObjectStore) -> None:
    content = write(tmp_path, 5, star(1, 7, 5, 5)).read_bytes()

    def respond(request: Request) -> Response:
        there = request.url.path == f"/archive/{DAY}-5.json.gz"
        return Response(content) if there else Response(status_code=404)

    with serving(scripted([respond])) as url:
        report, table = read_day([], f"{url}/archive/")
        assert (report.hours, len(report.problems), table.height) == (1, 23, 1)

    objects.write(f"archive/{DAY}-5.json.gz", content)
    report, table = read_day([], f"gs://{objects.name}/archive", open_gs=objects.open_in_bucket)
    assert (report.hours, len(report.problems), table.height) == (1, 23, 1)
    assert read_day([f"gs://{objects.name}/archive/{DAY}-5.json.gz"], open_gs=objects.open_in_bucket)[0].hours == 1


def test_a_day_without_hours_and_a_missing_named_hour_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no hour of {DAY} at {tmp_path}"):
        read_day([], str(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        read_day([str(tmp_path / f"{DAY}-7.json.gz")])
    with pytest.raises(InputError, match="does not say which hour"):
        days_of(["gs://bucket/some.json.gz"])
    assert days_of(["gs://b/2024-05-01-{0..3}.json.gz", "https://x/2024-05-02-3.json.gz"]) == [DAY, dt.date(2024, 5, 2)]


def test_only_wanted_repositories_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 0, star(1, 7, 5), star(2, 7, 6))
    wanted = WantedRepositories.of_documents(
        [{"repo_id": 2, "names": ["owner/repo-2"]}, {"repo_id": None, "names": []}]
    )
    _, table = read_day([str(tmp_path)], wanted=wanted)
    assert table["repo_id"].to_list() == [2]


AT = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
STORED = [
    (1, "a/b", 5, "five", AT),
    (2, "c/d", 5, "five", AT),
    (None, "A/B", -9, "old", AT),
    (3, "a/b", 6, "six", AT),  # another repository that had the same name
]


@pytest.fixture
def stored(asset_store: AssetStore) -> AssetStore:
    """A store with two days, the first star of `STORED` and the others."""
    for day, rows in (("2024-05-01", STORED[:1]), ("2024-05-02", STORED[1:])):
        asset_store.write_table(STAR_EVENTS.name, pl.DataFrame(rows, schema=STAR_EVENTS.dtypes, orient="row"), day)
    return asset_store


def test_stored_stars_of_some_repositories_are_read(stored: AssetStore) -> None:
    wanted = [RepositoryRef(1, "a/b", "a/b", 5, Outcome.OK), RepositoryRef(2, "c/d", "c/d", 5, Outcome.OK)]
    assert read_star_events(stored).rows() == STORED
    assert read_star_events(stored, wanted).rows() == STORED[:3]


def test_a_damaged_day_is_left_out_with_a_warning(
    stored: AssetStore, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored_file(home, stored.objects.name, "assets/star_events/2024-05-01.parquet").write_bytes(b"garbage")
    assert read_star_events(stored).rows() == STORED[1:]
    assert "2024-05-01 of star_events is restored" in caplog.text
    assert stored.partitions("star_events") == {"2024-05-02"}, "the job read_archive reads it again"
