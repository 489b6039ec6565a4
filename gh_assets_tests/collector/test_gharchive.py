"""Reading GH Archive: the same stars as a parser of every line, also from damaged files; days and what they lack."""

import datetime as dt
import gzip
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from gh_assets.collector import gharchive
from gh_assets.collector.gharchive import (
    ArchiveHour,
    DayReport,
    WantedRepositories,
    archive_hours,
    days_of,
    id_of_name,
    read_days,
    read_hour,
)
from gh_assets.errors import InputError, ServiceUnavailableError
from gh_assets.schemas import STAR_EVENTS
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.conftest import serving
from gh_assets_tests.support.gharchive import Event, packed, star_event
from gh_assets_tests.support.github import scripted
from gh_assets_tests.support.paths import CHECKOUT

START = dt.datetime(2015, 1, 1, 3, tzinfo=dt.UTC)


def old_star(repo: int | None = 7, login: str = "ann", **more: Any) -> Event:
    return {
        "type": "WatchEvent",
        "actor": login,
        "actor_attributes": {"login": login, "type": "User"},
        "repository": {"id": repo, "name": f"repo-{repo}", "owner": "owner", "watchers": 3},
        "payload": {"action": "started"},
        "created_at": "2012-03-10T22:00:00-08:00",
    } | more


def hour_of(content: bytes) -> ArchiveHour:
    return ArchiveHour(START, "a test", lambda: nullcontext(io.BytesIO(content)))


def pairs(content: bytes, wanted: WantedRepositories | None = None) -> list[tuple[Any, Any]]:
    table, _ = read_hour(hour_of(content), wanted)
    assert STAR_EVENTS.problem(table) is None
    return list(zip(table["repo_id"], table["user_id"], strict=True))


def test_stars_are_read_and_other_events_skipped() -> None:
    others = star_event(2, 6, type="PushEvent"), star_event(3, 7, type="ForkEvent")
    table, report = read_hour(hour_of(packed(star_event(1, 5), *others, star_event(4, 8), star_event(1, 5))))
    assert table.rows() == [
        (1, "owner/repo-1", 5, "user-5", dt.datetime(2015, 1, 1, 3, 0, 18, tzinfo=dt.UTC)),
        (4, "owner/repo-4", 8, "user-8", dt.datetime(2015, 1, 1, 3, 0, 18, tzinfo=dt.UTC)),
    ]
    assert (report.corrupt_lines, report.damage) == (0, None)


def test_the_name_of_the_event_in_a_text_is_not_a_star() -> None:
    issue = star_event(2, 6, type="IssuesEvent", payload={"title": 'a "WatchEvent" is a star: "type":"WatchEvent"'})
    assert pairs(packed(issue, star_event(1, 5), star_event(3, 9, payload={"action": "stopped"}))) == [(1, 5)]


def test_only_wanted_repositories_are_kept() -> None:
    nameless = old_star(None), old_star(None, repository={"name": "X", "owner": "o"})
    events = packed(star_event(1), star_event(2), old_star(3), *nameless)
    assert [repo for repo, _ in pairs(events, WantedRepositories(ids={2, 3}))] == [2, 3]
    assert len(pairs(events, WantedRepositories(names={"o/x"}))) == 1, "without an id the name decides, in any case"


def test_the_old_timeline_is_read() -> None:
    oldest = old_star(7, "bob", created_at="2011/02/12 00:00:01 -0800")
    table, report = read_hour(hour_of(packed(old_star(7, "Ann"), old_star(8, "ann"), oldest)))
    assert report.corrupt_lines == 0
    assert table["user_id"].to_list() == [id_of_name("ann"), id_of_name("ANN"), id_of_name("bob")]
    assert (table["user_id"] < 0).all(), "no user of GitHub has a negative id"
    assert [str(time) for time in table["starred_at"]] == [
        "2012-03-11 06:00:00+00:00", "2012-03-11 06:00:00+00:00", "2011-02-12 08:00:01+00:00",
    ]  # fmt: skip
    assert table["full_name"].to_list() == ["owner/repo-7", "owner/repo-8", "owner/repo-7"]


def test_joined_events_of_a_line_are_separated() -> None:
    line = json.dumps(old_star(1)) + json.dumps(star_event(2, 3, type="PushEvent")) + json.dumps(old_star(4, "bob"))
    assert [repo for repo, _ in pairs(gzip.compress(line.encode()))] == [1, 4]


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"WatchEvent"',
        b'{"type":"WatchEvent"}',
        b'["WatchEvent"]',
        b"WatchEvent",
        b'{"type":"WatchEvent","actor":{"login":"a"},"repo":{"id":1,"name":"no-owner"},"created_at":"2015-01-01T00:00:00Z"}',
        b'{"type":"WatchEvent","actor":{"login":""},"repo":{"id":1,"name":"a/b"},"created_at":"2015-01-01T00:00:00Z"}',
        b'{"type":"WatchEvent","actor":{"login":"a"},"repo":{"id":1,"name":"a/b"},"created_at":"yesterday"}',
        b'{"type":"WatchEvent","actor":{"login":"a"},"repo":{"id":1,"name":"a/b"}}',
        b'{"type":"WatchEvent","actor":"\xff\xfe","repo"',
    ],
)
def test_a_corrupt_line_is_counted_and_the_rest_is_read(line: bytes) -> None:
    table, report = read_hour(hour_of(packed(star_event(1, 5), line, star_event(2, 6))))
    assert table["repo_id"].to_list() == [1, 2]
    assert report.corrupt_lines == 1


numbers, kinds = st.integers(1, 5), st.sampled_from(["WatchEvent", "PushEvent"])
events = st.lists(st.builds(star_event, numbers, numbers, type=kinds, pad=st.text(max_size=60)), max_size=30)


@given(events=events, chunk=st.integers(1, 200), members=st.integers(1, 3), end=st.sampled_from([b"\n", b""]))
def test_chunks_and_members_do_not_change_the_stars(events: list[Event], chunk: int, members: int, end: bytes) -> None:
    text = b"\n".join(json.dumps(event).encode() for event in events) + end
    step = len(text) // members + 1
    content = b"".join(gzip.compress(text[i : i + step]) for i in range(0, len(text) + 1, step))
    expected = list(dict.fromkeys((e["repo"]["id"], e["actor"]["id"]) for e in events if e["type"] == "WatchEvent"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gharchive, "CHUNK", chunk)
        assert pairs(content) == expected


@given(cut=st.integers(0, 2000), flip=st.none() | st.integers(10, 2000))
def test_a_damaged_file_gives_the_stars_before_its_damage_and_reports_it(cut: int, flip: int | None) -> None:
    whole = [(n, n) for n in range(1, 200)]
    content = packed(*(star_event(n, n, pad=os.urandom(8).hex()) for n in range(1, 200)))
    broken = bytearray(content[: min(cut, len(content) - 1)])
    if flip is not None and flip < len(broken):
        broken[flip] ^= 0xFF
    table, report = read_hour(hour_of(bytes(broken)))
    assert report.damage is not None
    # A flipped bit may garble the text after it, so its stars are only compared without one.
    if flip is None:
        assert list(zip(table["repo_id"], table["user_id"], strict=True)) == whole[: table.height]


def test_an_endless_line_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gharchive, "MAX_LINE", 10_000)
    endless = b'{"type":"WatchEvent",' + b" " * 1_000_000
    table, report = read_hour(hour_of(packed(star_event(1, 1), endless, star_event(2, 2))))
    assert table["repo_id"].to_list() == [1, 2]
    assert report.corrupt_lines >= 1


# -- places of hours -----------------------------------------------------------------------------------------------


def test_places_are_files_folders_and_ranges(tmp_path: Path) -> None:
    for hour in range(12):
        (tmp_path / f"2015-01-01-{hour}.json.gz").write_bytes(packed(star_event(hour + 1)))
    (tmp_path / "notes.txt").write_text("no hour")
    assert len(archive_hours([str(tmp_path)])) == 12
    some = archive_hours([f"{tmp_path}/2015-01-01-{{9..11}}.json.gz", f"{tmp_path}/2015-01-01-0.json.gz"])
    assert [hour.start.hour for hour in some] == [0, 9, 10, 11]
    assert [read_hour(hour)[0]["repo_id"].to_list() for hour in some] == [[1], [10], [11], [12]]


def test_ranges_keep_their_zeros() -> None:
    hours = archive_hours(["http://127.0.0.1:9/2015-{01..02}-{09..10}-{0..1}.json.gz"])
    assert len(hours) == 8
    assert hours[0].location == "http://127.0.0.1:9/2015-01-09-0.json.gz"


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["missing-2015-01-01-0.json.gz"], "does not exist"),
        (["http://127.0.0.1:9/events.json.gz"], "does not say which hour it is"),
        (["http://127.0.0.1:9/2015-13-01-0.json.gz"], "does not say which hour it is"),
        (["gs://bucket/2015-01-01-0.json.gz"], "no client for buckets"),
        ([], "No hour"),
        (["empty"], r"no \.json\.gz files"),
        (["a", "b"], "is given twice"),
    ],
)
def test_places_without_an_hour_or_with_it_twice_are_errors(places: list[str], message: str) -> None:
    for folder in map(Path, ("a", "b", "empty")):
        folder.mkdir()
        if folder.name != "empty":
            (folder / "2015-01-01-0.json.gz").write_bytes(packed(star_event()))
    with pytest.raises(InputError, match=message):
        read_hour(archive_hours(places)[0])


def test_an_hour_is_read_by_http_after_faults_and_a_cut_connection() -> None:
    content = packed(*(star_event(n, n) for n in range(1, 50)))
    cut = Response(content[:100], headers={"content-length": str(len(content))})
    with serving(scripted([Response(status_code=503), cut, Response(content)])) as url:
        (hour,) = archive_hours([f"{url}/2015-01-01-3.json.gz?key=secret"])
        table, report = read_hour(hour)
    assert (table.height, report.damage) == (49, None)
    assert "secret" not in hour.location


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, InputError, r"has no http.*2015-01-01-3\.json\.gz\."),
        (503, ServiceUnavailableError, r"could not be read to its end in 4 tries \(HTTPError\)"),
    ],
)
def test_missing_and_unreadable_hours_are_clear_errors(status: int, error: type[Exception], message: str) -> None:
    with serving(scripted([Response(status_code=status)])) as url, pytest.raises(error, match=message):
        read_hour(archive_hours([f"{url}/2015-01-01-3.json.gz"])[0])


REAL = CHECKOUT.parent / "shared" / "data" / "gharchive" / "2015-01-01-0.json.gz"


@pytest.mark.skipif(
    not REAL.exists() or shutil.which("jq") is None, reason="needs the real hour beside the checkout, and jq"
)
def test_a_real_hour_has_the_stars_that_jq_counts() -> None:
    query = 'select(.type=="WatchEvent") | "\\(.repo.id) \\(.actor.id)"'
    counted = subprocess.run(f"zcat {REAL} | jq -r '{query}' | sort -u", shell=True, capture_output=True, text=True)
    expected = {tuple(int(number) for number in line.split()) for line in counted.stdout.splitlines()}
    table, report = read_hour(archive_hours([str(REAL)])[0])
    assert set(zip(table["repo_id"], table["user_id"], strict=True)) == expected
    assert (report.damage, report.corrupt_lines) == (None, 0)


# -- days ----------------------------------------------------------------------------------------------------------

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
    kinds = [sum(kind in problem for problem in report.problems) for kind in ("", "does not exist", "cut off")]
    assert kinds == [23, 22, 1]
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


def test_a_day_has_only_the_stars_of_wanted_repositories(tmp_path: Path) -> None:
    write(tmp_path, 0, star(1, 7, 5), star(2, 7, 6))
    wanted = WantedRepositories.of_documents(
        [{"repo_id": 2, "names": ["owner/repo-2"]}, {"repo_id": None, "names": []}]
    )
    _, table = read_day([str(tmp_path)], wanted=wanted)
    assert table["repo_id"].to_list() == [2]
