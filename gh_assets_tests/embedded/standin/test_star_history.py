"""The stand-in's star histories."""

import datetime as dt
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import requests

from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.star_history import HISTORY_VERSION, weekly_rows
from gh_assets.embedded.standin.world import NO_TIME, Repository, World
from gh_assets_tests.support.standin import StandinClient, StandinOf
from gh_assets_tests.support.worlds import troubled_world, world_of

WEDNESDAY = dt.datetime(2026, 9, 9, 12, tzinfo=dt.UTC)
SUNDAY = dt.datetime(2026, 9, 6, tzinfo=dt.UTC)


def repository_of(*times: str, created_at: str | None = None) -> Repository:
    seconds = [int(dt.datetime.fromisoformat(text).timestamp()) for text in times]
    count = len(seconds)
    return Repository(1, "a/b", created_at=created_at, stargazers=np.arange(count), starred_at=np.array(seconds))


def days_of(repository: Repository, now: dt.datetime = WEDNESDAY) -> list[list[int]]:
    return [row["days"] for row in weekly_rows(repository, now.timestamp())]


def history_of(api: StandinClient, path: str = "/repos/a/b/stargazers/history", **headers: str) -> requests.Response:
    return api.get(path, **{"x-github-api-version": HISTORY_VERSION} | headers)


def test_days_are_those_of_los_angeles() -> None:
    """A day ends there at 07:00 UTC in summer, and at 08:00 in winter."""
    summer = repository_of("2026-09-08T06:59:59Z", "2026-09-08T07:00:00Z", "2026-09-09T00:00:00Z")
    assert days_of(summer) == [[0, 1, 2, 0, 0, 0, 0]]
    winter = repository_of("2026-12-08T07:59:59Z", "2026-12-08T08:00:00Z")
    assert days_of(winter, dt.datetime(2026, 12, 9, tzinfo=dt.UTC)) == [[0, 1, 1, 0, 0, 0, 0]]


def test_a_week_begins_on_sunday_and_is_named_by_its_first_second_in_utc() -> None:
    (row,) = weekly_rows(repository_of("2026-09-06T07:00:00Z"), WEDNESDAY.timestamp())
    assert row == {"week": int(SUNDAY.timestamp()), "total": 1, "days": [1, 0, 0, 0, 0, 0, 0]}
    before = weekly_rows(repository_of("2026-09-06T06:59:59Z"), WEDNESDAY.timestamp())
    assert [row["days"] for row in before] == [[0] * 7, [0, 0, 0, 0, 0, 0, 1]]


def test_weeks_go_back_to_the_creation_without_gaps_newest_first() -> None:
    rows = weekly_rows(repository_of("2026-09-01T12:00:00Z", created_at="2026-01-01T00:00:00Z"), WEDNESDAY.timestamp())
    weeks = [dt.datetime.fromtimestamp(row["week"], dt.UTC) for row in rows]
    assert weeks[0] == SUNDAY
    assert weeks[-1] == dt.datetime(2025, 12, 28, tzinfo=dt.UTC)
    assert {one - other for one, other in pairwise(weeks)} == {dt.timedelta(days=7)}
    assert [row["total"] for row in rows] == [0, 1, *[0] * (len(rows) - 2)]


def test_a_repository_without_stars_has_the_present_week() -> None:
    assert days_of(repository_of()) == [[0] * 7]


def test_stars_that_are_later_or_of_an_unknown_time_are_not_counted() -> None:
    repository = repository_of("2026-09-08T12:00:00Z", "2026-09-11T12:00:00Z")
    repository.starred_at = np.append(repository.starred_at, NO_TIME)
    assert days_of(repository) == [[0, 0, 1, 0, 0, 0, 0]]


@pytest.fixture
def long_world() -> World:
    """A world with a repository of 65 weeks, whose list is closed."""
    world = world_of({"a/b": [0, 1]})
    repository = world.by_name["a/b"]
    repository.created_at, repository.restricted = "2025-06-15T12:00:00Z", True
    repository.starred_at = np.array([int(SUNDAY.timestamp()) + 80_000, int(WEDNESDAY.timestamp())])
    return world


def test_pages_of_30_weeks_are_linked_also_where_the_list_is_closed(standin_of: StandinOf, long_world: World) -> None:
    api = standin_of(long_world, clock=VirtualClock(WEDNESDAY.timestamp()))
    assert api.get("/repos/a/b/stargazers").status_code == 403
    first = history_of(api)
    base = f"{api.url}/repositories/1/stargazers/history?per_page=30&page="
    assert first.headers["link"] == f'<{base}2>; rel="next", <{base}3>; rel="last"'
    pages = [first.json(), *(history_of(api, f"/repositories/1/stargazers/history?page={n}").json() for n in (2, 3, 4))]
    assert [len(page) for page in pages] == [30, 30, 5, 0]
    assert sum(row["total"] for page in pages for row in page) == 2
    assert len(history_of(api, "/repos/a/b/stargazers/history?per_page=100").json()) == 30
    assert len(history_of(api, "/repos/a/b/stargazers/history?per_page=7").json()) == 7


def test_an_unchanged_page_answers_304_for_free_and_without_links(standin_of: StandinOf, long_world: World) -> None:
    clock = VirtualClock(WEDNESDAY.timestamp())
    api = standin_of(long_world, clock=clock)
    first = history_of(api)
    used = api.standin.used("token")
    unchanged = history_of(api, **{"if-none-match": first.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert "link" not in unchanged.headers
    assert unchanged.headers["etag"] == first.headers["etag"]
    assert api.standin.used("token") == used
    clock.advance((WEDNESDAY + dt.timedelta(days=7)).timestamp())
    assert history_of(api, **{"if-none-match": first.headers["etag"]}).status_code == 200, "a week has begun"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/repos/good/one", 200), ("/repos/old/name", 301), ("/repos/taken/down", 451), ("/repos/not/there", 404)],
)
def test_other_statuses_are_those_of_the_repository(standin_of: StandinOf, path: str, status: int) -> None:
    assert history_of(standin_of(troubled_world()), f"{path}/stargazers/history").status_code == status


@pytest.mark.parametrize(("options", "version"), [({"enterprise": True}, HISTORY_VERSION), ({}, "2022-11-28")])
def test_enterprise_and_earlier_versions_have_no_history(
    standin_of: StandinOf, options: dict[str, Any], version: str
) -> None:
    api = standin_of(**options)
    assert history_of(api, **{"x-github-api-version": version}).status_code == 404
    assert api.get("/repos/a/b").status_code == 200
