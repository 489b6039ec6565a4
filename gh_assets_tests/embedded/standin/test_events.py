"""The stand-in's feeds of events: how many they hold, how long, how late, and what a request for them costs."""

from typing import Any

import numpy as np
import pytest
from openapi_schema_validator import OAS30Validator

from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.events import FEED_SECONDS, MAX_EVENTS, EventFeeds
from gh_assets.embedded.standin.world import World
from gh_assets_tests.support.standin import StandinOf
from gh_assets_tests.support.worlds import world_of

NOW = 1_800_000_000
DAY = 86_400


def world_with_stars(ages: list[float], *, others: float = 0.0) -> World:
    """Return a world of one repository whose stars have the given ages in seconds, oldest first."""
    world = world_of({"a/b": list(range(len(ages)))})
    world.repositories[0].starred_at = np.array([NOW - age for age in ages], np.int64)
    world.repositories[0].other_events_a_day = others
    return world


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


def test_a_feed_holds_stars_and_other_events_newest_first(standin_of: StandinOf, clock: VirtualClock) -> None:
    world = world_with_stars([40 * DAY, *range(20 * DAY, 10 * DAY, -DAY)], others=3.0)
    api = standin_of(world, clock=clock)
    entries = api.get("/repos/A/B/events?per_page=100").json()
    stars = [entry for entry in entries if entry["type"] == "WatchEvent"]
    assert [entry["actor"]["login"] for entry in stars] == [f"user-{user}" for user in range(10, 0, -1)]
    assert {entry["payload"]["action"] for entry in stars} == {"started"}
    assert 40 < len(entries) - len(stars) <= 90
    times = [entry["created_at"] for entry in entries]
    assert times == sorted(times, reverse=True)
    assert len({entry["id"] for entry in entries}) == len(entries)


def test_a_feed_ends_after_three_hundred_events_and_thirty_days(standin_of: StandinOf, clock: VirtualClock) -> None:
    api = standin_of(world_with_stars(list(range(500 * 60 + 6 * 3600, 6 * 3600, -60))), clock=clock)
    pages = [api.get(f"/repositories/1/events?per_page=100&page={number}") for number in (1, 2, 3)]
    logins = [entry["actor"]["login"] for page in pages for entry in page.json()]
    assert logins == [f"user-{user}" for user in range(499, 199, -1)]
    assert ['rel="next"' in page.headers["link"] for page in pages] == [True, True, False]
    assert api.get("/repositories/1/events?per_page=100&page=4").status_code == 422
    clock.advance(NOW + FEED_SECONDS + DAY)
    assert api.get("/repositories/1/events").json() == []


def test_an_event_comes_late_and_the_same_each_time() -> None:
    world = world_with_stars([float(age) for age in range(8 * 3600, 0, -10)])
    feeds, repository = EventFeeds(world), world.repositories[0]
    shown = len(feeds.visible(repository, NOW))
    assert shown == MAX_EVENTS
    rows = feeds._stars(repository, NOW)
    late = rows[:, 4]
    assert (late.min() >= 30, late.max() <= 6 * 3600, late.min() < 120, late.max() > 5 * 3600) == (True,) * 4
    missing = set(rows[rows[:, 0] + late > NOW][:, 1].tolist())
    assert missing & set(range(len(rows) - 300)), "some late events are older than others that are shown"
    again = EventFeeds(world_with_stars([float(age) for age in range(8 * 3600, 0, -10)]))
    assert (again.visible(repository, NOW) == feeds.visible(repository, NOW)).all()


def test_an_unchanged_feed_costs_nothing_and_names_the_interval(standin_of: StandinOf, clock: VirtualClock) -> None:
    world = world_with_stars([2 * DAY, DAY, -3600])
    world.repositories[0].restricted = True
    api = standin_of(world, clock=clock)
    first = api.get("/repos/a/b/events")
    assert (first.headers["x-poll-interval"], len(first.json())) == ("60", 2)
    spent = api.standin.used("token")
    again = api.get("/repos/a/b/events", **{"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.headers["x-poll-interval"], api.standin.used("token")) == (304, "60", spent)
    clock.advance(NOW + 8 * 3600)
    assert len(api.get("/repos/a/b/events", **{"if-none-match": first.headers["etag"]}).json()) == 3


def test_feeds_of_missing_and_blocked_repositories(standin_of: StandinOf) -> None:
    world = world_of({"a/b": [0], "c/blocked": [0]})
    world.by_name["c/blocked"].blocked = True
    world.moved["old/name"] = world.by_name["a/b"]
    api = standin_of(world)
    paths = ("/repos/x/y/events", "/repos/c/blocked/events", "/repos/old/name/events")
    assert [api.get(path).status_code for path in paths] == [404, 451, 301]
    assert api.get("/repos/old/name/events").headers["location"].endswith("/repositories/1/events")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "payload"), [("WatchEvent", "watch-event"), ("PushEvent", "push-event"), ("DeleteEvent", "delete-event")]
)
def test_events_match_githubs_description(
    kind: str, payload: str, rest: dict[str, Any], standin_of: StandinOf, clock: VirtualClock
) -> None:
    api = standin_of(world_with_stars([2 * DAY, DAY], others=5.0), clock=clock)
    entries = [entry for entry in api.get("/repos/a/b/events?per_page=100").json() if entry["type"] == kind]
    assert entries
    event = rest["components"]["schemas"]["event"]
    # GitHub describes the payload as exactly one of many kinds, of which one (`public-event`) matches all payloads.
    properties = event["properties"] | {"payload": {"$ref": f"#/components/schemas/{payload}"}}
    schema = {"components": rest["components"], "allOf": [event | {"properties": properties}]}
    assert not [error.message for entry in entries for error in OAS30Validator(schema).iter_errors(entry)]
    wrong = entries[0] | {"payload": {"ref": 7}}
    assert list(OAS30Validator(schema).iter_errors(wrong))
