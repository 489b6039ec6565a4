"""Days of GH Archive, and the stars and repositories that they tell of."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gh_assets.collector.archive_days import days_of, read_days
from gh_assets.collector.collection import read_star_events
from gh_assets.collector.gharchive import WantedRepositories, id_of_name
from gh_assets.collector.pipeline import CollectionState, collect_stargazers
from gh_assets.collector.repositories import KnownRepositories
from gh_assets.collector.star_sources.base import CollectionTask, RepositoryRef
from gh_assets.collector.star_sources.gharchive import ArchivedStars, repositories_of_events
from gh_assets.errors import InputError, StoredDataError
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import REPOS, STAR_EVENTS
from gh_assets.storage.asset_store import PartitionTables
from gh_assets_tests.conftest import serving
from gh_assets_tests.support.commands import stored_file

DAY = dt.date(2024, 5, 1)


def star(repo: int, user: int, minute: int, hour: int = 0, name: str | None = None) -> dict[str, object]:
    return {
        "type": "WatchEvent",
        "actor": {"id": user, "login": f"user-{user}"},
        "repo": {"id": repo, "name": name or f"owner/repo-{repo}"},
        "payload": {"action": "started"},
        "created_at": f"{DAY}T{hour:02d}:{minute:02d}:00Z",
    }


def write(folder: Path, hour: int, events: list[dict[str, object]], day: dt.date = DAY) -> Path:
    path = folder / f"{day}-{hour}.json.gz"
    path.write_bytes(gzip.compress(b"".join(json.dumps(event).encode() + b"\n" for event in events)))
    return path


def nothing(_: dt.date) -> None:
    return None


def read_day(places: list[str], base: str = "", before=nothing, **options):
    ((report, table),) = read_days([DAY], places, base, before, **options)
    assert STAR_EVENTS.problem(table) is None
    return report, table


def test_hours_make_a_day_and_a_star_that_two_tell_of_is_one(tmp_path: Path) -> None:
    write(tmp_path, 0, [star(1, 7, 5), star(2, 7, 6)])
    write(tmp_path, 13, [star(1, 7, 5, 13), star(1, 8, 1, 13)])
    report, table = read_day([str(tmp_path)])
    assert (report.hours, report.stars, report.corrupt_lines, report.problems) == (2, 3, 0, [])
    assert table.select("repo_id", "user_id").rows() == [(1, 7), (2, 7), (1, 8)]


def test_more_hours_of_a_day_are_added_and_the_same_again_change_nothing(tmp_path: Path) -> None:
    first = write(tmp_path, 0, [star(1, 7, 5)])
    second = write(tmp_path, 1, [star(1, 8, 5, 1)])
    _, table = read_day([str(first)])
    _, both = read_day([str(second)], before=lambda _: table)
    assert both["user_id"].to_list() == [7, 8]
    _, again = read_day([str(first)], before=lambda _: both)
    assert again.equals(both)
    # An hour that is read again replaces what it told.
    write(tmp_path, 1, [star(1, 9, 5, 1)])
    _, corrected = read_day([str(second)], before=lambda _: both)
    assert corrected["user_id"].to_list() == [7, 9]


def test_missing_and_damaged_hours_are_told_and_cost_only_themselves(tmp_path: Path) -> None:
    write(tmp_path, 3, [star(1, 7, 5, 3)])
    whole = write(tmp_path, 4, [star(1, user, 5, 4) for user in range(1, 2000)])
    whole.write_bytes(whole.read_bytes()[:-3000])
    report, table = read_day([], str(tmp_path))
    assert report.hours == 2
    assert 100 < table.height < 2000
    assert len(report.problems) == 23
    assert sum("does not exist" in problem for problem in report.problems) == 22
    assert sum("cut off" in problem for problem in report.problems) == 1
    assert "2 hours" in report.words()


def test_an_address_and_a_bucket(tmp_path: Path) -> None:
    content = write(tmp_path, 5, [star(1, 7, 5, 5)]).read_bytes()

    async def hour(request: Request) -> Response:
        there = request.path_params["name"] == f"{DAY}-5.json.gz"
        return Response(content) if there else Response(status_code=404)

    with serving(Starlette(routes=[Route("/archive/{name}", hour)])) as url:
        report, table = read_day([], f"{url}/archive/")
        assert (report.hours, len(report.problems), table.height) == (1, 23, 1)

    @contextmanager
    def open_gs(bucket: str, name: str):
        if name != f"archive/{DAY}-5.json.gz":
            raise StoredDataError("There is no object.")
        with (tmp_path / f"{DAY}-5.json.gz").open("rb") as file:
            yield file

    report, table = read_day([], "gs://public/archive", open_gs=open_gs)
    assert (report.hours, len(report.problems), table.height) == (1, 23, 1)


def test_a_day_without_any_hour_is_an_error_and_so_is_a_named_hour_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no hour of {DAY} at {tmp_path}"):
        read_day([], str(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        read_day([str(tmp_path / f"{DAY}-7.json.gz")])
    with pytest.raises(InputError, match="does not say which hour"):
        days_of(["gs://bucket/some.json.gz"])
    assert days_of(["gs://b/2024-05-01-{0..3}.json.gz", "https://x/2024-05-02-3.json.gz"]) == [DAY, dt.date(2024, 5, 2)]


def test_only_listed_repositories(tmp_path: Path) -> None:
    write(tmp_path, 0, [star(1, 7, 5), star(2, 7, 6)])
    wanted = WantedRepositories.of_documents(
        [{"repo_id": 2, "names": ["owner/repo-2"]}, {"repo_id": None, "names": []}]
    )
    _, table = read_day([str(tmp_path)], wanted=wanted)
    assert table["repo_id"].to_list() == [2]


def events(*rows: tuple[int | None, str, int, str, int]) -> pl.DataFrame:
    start = dt.datetime(2014, 1, 1, tzinfo=dt.UTC)
    timed = [(repo, name, user, login, start + dt.timedelta(minutes=at)) for repo, name, user, login, at in rows]
    return pl.DataFrame(timed, schema=STAR_EVENTS.dtypes, orient="row")


def test_repositories_out_of_events() -> None:
    told = events(
        (5, "old/name", 1, "a", 0), (5, "new/name", 2, "b", 9), (6, "x/y", 1, "a", 1), (None, "X/Y", -3, "c", 2),
        (None, "nameless/one", -3, "c", 3), (9, "new/name", 4, "d", 20),
    )  # fmt: skip
    found = repositories_of_events(told, KnownRepositories())
    assert REPOS.problem(found.table) is None
    assert dict(zip(found.table["repo_id"], found.table["full_name"], strict=True)) == {
        5: "new/name", 6: "x/y", 9: "new/name", id_of_name("nameless/one"): "nameless/one",
    }  # fmt: skip
    assert found.table["partition"].n_unique() == 4, "a name that two had is no common partition"
    known = KnownRepositories({document["_id"]: document for document in found.documents})
    later = repositories_of_events(events((5, "third/name", 1, "a", 50)), known)
    assert later.table["partition"][0] == next(d["partition"] for d in found.documents if d["_id"] == 5)


def test_stars_of_events_are_added_to_what_is_known_and_taken_by_id_before_name(asset_store, database) -> None:
    tables, state = PartitionTables(asset_store, "stargazers"), CollectionState(database)
    here = [RepositoryRef(5, "a/b", "a/b", None, Outcome.OK), RepositoryRef(6, "c/d", "c/d", None, Outcome.OK)]
    first = events((5, "former/name", 1, "a", 0), (None, "A/B", -3, "old", 2), (7, "c/d", 9, "other", 3))
    report = collect_stargazers(here, ArchivedStars(first), tables, state, max_pages=10)
    assert {key: s.outcome for key, s in report.states.items()} == {"a/b": Outcome.OK, "c/d": Outcome.UNKNOWN}
    assert tables.read("a/b")[0].select("user_id", "login").rows() == [(1, "a"), (-3, "old")]
    second = events((5, "a/b", 2, "b", 60), (5, "a/b", 1, "a", 70))
    report = collect_stargazers(here, ArchivedStars(second), tables, state, max_pages=10)
    assert set(tables.read("a/b")[0]["user_id"]) == {1, -3, 2}
    again = collect_stargazers(here, ArchivedStars(second), tables, state, max_pages=10)
    assert again.states["a/b"].checksum == report.states["a/b"].checksum


def test_users_of_before_2015_are_who_they_turn_out_to_be(asset_store, database) -> None:
    tables, state = PartitionTables(asset_store, "stargazers"), CollectionState(database)
    here = [RepositoryRef(5, "a/b", "a/b", None, Outcome.OK)]
    old = events((5, "a/b", -1, "Octo", 0), (5, "a/b", -2, "hubot", 1), (5, "a/b", -3, "nobody", 2))

    def stars(*more: tuple[int | None, str, int, str, int], users: tuple[tuple[int, str], ...] = ()) -> list[int]:
        told = pl.concat([old, events(*more)]) if more else old
        collect_stargazers(here, ArchivedStars(told, users), tables, state, max_pages=10)
        return tables.read("a/b")[0]["user_id"].to_list()

    assert stars() == [-1, -2, -3]
    # A later hour, or the users that are known, tell whose the logins are: stars that are stored follow.
    assert stars((9, "c/d", 583231, "octo", 500)) == [583231, -2, -3]
    assert stars(users=((480938, "HUBOT"), (583231, "octo"), (-3, "nobody"))) == [583231, 480938, -3]
    assert stars() == [583231, 480938, -3], "what is known stays known"


def test_a_source_of_events_alone_reads_no_page() -> None:
    (collected,) = ArchivedStars(events((5, "a/b", 1, "a", 0))).collect(
        [CollectionTask(RepositoryRef(5, "a/b", "a/b", 3, Outcome.OK))], 1
    )
    assert (collected.requests, collected.complete) == (0, False)


def test_a_damaged_day_is_left_out_and_stops_nothing(asset_store, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    at = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
    for number, day in enumerate(("2015-01-01", "2015-01-02"), start=1):
        rows = [(number, f"a/{number}", 7, "seven", at + dt.timedelta(days=number - 1))]
        asset_store.write_table("star_events", pl.DataFrame(rows, schema=STAR_EVENTS.dtypes, orient="row"), day)
    name = "assets/star_events/2015-01-01.parquet"
    stored_file(home, asset_store.objects.name, name).write_bytes(b"garbage")
    assert read_star_events(asset_store)["repo_id"].to_list() == [2]
    assert "2015-01-01 of star_events is put back" in caplog.text
    assert asset_store.partitions("star_events") == {"2015-01-02"}, "read_archive reads it anew"
