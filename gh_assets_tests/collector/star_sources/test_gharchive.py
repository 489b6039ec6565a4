"""Stars and repositories from events of GH Archive."""

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from gh_assets.collector.gharchive import id_of_name
from gh_assets.collector.repositories import KnownRepositories
from gh_assets.collector.star_sources.base import CollectionTask
from gh_assets.collector.star_sources.gharchive import ArchivedStars, read_star_events, repositories_of_events
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import REPOS, STAR_EVENTS
from gh_assets.storage.asset_store import AssetStore
from gh_assets_tests.support.collecting import Collecting, ref
from gh_assets_tests.support.commands import stored_file


def events(*rows: tuple[int | None, str, int, str, int]) -> pl.DataFrame:
    start = dt.datetime(2014, 1, 1, tzinfo=dt.UTC)
    timed = [(repo, name, user, login, start + dt.timedelta(minutes=at)) for repo, name, user, login, at in rows]
    return pl.DataFrame(timed, schema=STAR_EVENTS.dtypes, orient="row")


def test_repositories_are_derived_from_events() -> None:
    starred = events(
        (5, "old/name", 1, "a", 0), (5, "new/name", 2, "b", 9), (6, "x/y", 1, "a", 1), (None, "X/Y", -3, "c", 2),
        (None, "nameless/one", -3, "c", 3), (9, "new/name", 4, "d", 20),
    )  # fmt: skip
    collected = repositories_of_events(starred, KnownRepositories())
    assert REPOS.problem(collected.table) is None
    assert dict(zip(collected.table["repo_id"], collected.table["full_name"], strict=True)) == {
        5: "new/name", 6: "x/y", 9: "new/name", id_of_name("nameless/one"): "nameless/one",
    }  # fmt: skip
    assert collected.table["partition"].n_unique() == 4, (
        "repositories that had the same name have partitions of their own"
    )
    known = KnownRepositories({document["_id"]: document for document in collected.documents})
    later = repositories_of_events(events((5, "third/name", 1, "a", 50)), known)
    assert later.table["partition"][0] == next(d["partition"] for d in collected.documents if d["_id"] == 5)


def test_stars_of_events_are_added_to_known_ones_and_matched_by_id_before_name(collecting: Collecting) -> None:
    here = [ref(5), ref(6, "c/d")]
    first = events((5, "former/name", 1, "a", 0), (None, "A/B", -3, "old", 2), (7, "c/d", 9, "other", 3))
    report = collecting.run(here, ArchivedStars(first))
    assert {key: s.outcome for key, s in report.states.items()} == {"a/b": Outcome.OK, "c/d": Outcome.UNKNOWN}
    assert collecting.tables.read("a/b")[0].select("user_id", "login").rows() == [(1, "a"), (-3, "old")]
    second = events((5, "a/b", 2, "b", 60), (5, "a/b", 1, "a", 70))
    report = collecting.run(here, ArchivedStars(second))
    assert set(collecting.tables.read("a/b")[0]["user_id"]) == {1, -3, 2}
    again = collecting.run(here, ArchivedStars(second))
    assert again.states["a/b"].checksum == report.states["a/b"].checksum


def test_users_of_events_before_2015_get_their_ids_once_known(collecting: Collecting) -> None:
    old = events((5, "a/b", -1, "Octo", 0), (5, "a/b", -2, "hubot", 1), (5, "a/b", -3, "unknown", 2))

    def stars(*more: tuple[int | None, str, int, str, int], users: tuple[tuple[int, str], ...] = ()) -> list[int]:
        starred = pl.concat([old, events(*more)]) if more else old
        collecting.run([ref(5)], ArchivedStars(starred, users))
        return collecting.users("a/b")

    assert stars() == [-1, -2, -3]
    # A later hour or the known users map logins to ids, also of stored stars.
    assert stars((9, "c/d", 583231, "octo", 500)) == [583231, -2, -3]
    assert stars(users=((480938, "HUBOT"), (583231, "octo"), (-3, "unknown"))) == [583231, 480938, -3]
    assert stars() == [583231, 480938, -3], "ids that were found are kept"


def test_events_need_no_requests_and_are_never_complete() -> None:
    source = ArchivedStars(events((5, "a/b", 1, "a", 0)))
    (collected,) = source.collect([CollectionTask(ref(5, stars=3))], 1)
    assert (collected.requests, collected.complete) == (0, False)


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
    assert read_star_events(stored).rows() == STORED
    assert read_star_events(stored, [ref(1, "a/b"), ref(2, "c/d")]).rows() == STORED[:3]


def test_a_damaged_day_is_left_out_with_a_warning(
    stored: AssetStore, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored_file(home, stored.objects.name, "assets/star_events/2024-05-01.parquet").write_bytes(b"garbage")
    assert read_star_events(stored).rows() == STORED[1:]
    assert "2024-05-01 of star_events is restored" in caplog.text
    assert stored.partitions("star_events") == {"2024-05-02"}, "the job read_archive reads it again"
