"""The source that reads event feeds: what it adds, what a look costs, gaps, and what a kill loses."""

import datetime as dt
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from gh_assets.collector.feeds import FEED_EVENTS, MAX_WAIT, RETRY_AFTER
from gh_assets.collector.star_sources.base import CollectionTask, PreviousStars, StarCollection, stars_table
from gh_assets.collector.star_sources.events import EventFeeds
from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.kinds import REST_KINDS
from gh_assets.embedded.standin.world import World
from gh_assets.errors import GhAssetsError
from gh_assets.github.outcomes import Outcome
from gh_assets.github.retries import Clock
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import ServeWorld
from gh_assets_tests.support.collecting import ref, table_of
from gh_assets_tests.support.feeds import BEGIN, DAY, HOUR, MINUTE, Looks, feed_world
from gh_assets_tests.support.github import Handler, client_of, served
from gh_assets_tests.support.policies import QUICK

LooksAt = Callable[..., Looks]


@pytest.fixture
def looks_at(serve_world: ServeWorld, database: MongoDatabase, asset_store: AssetStore) -> Iterator[LooksAt]:
    """Serve a world in virtual time, in which events come without delay, to a home without stars."""
    with ExitStack() as stack:

        def connect(world: World, delay: tuple[float, float] = (0.0, 0.0)) -> Looks:
            for name in database.list_collection_names():
                database[name].delete_many({})
            for name in list(asset_store.partitions("stargazers")):
                Looks.tables_of(asset_store).delete(name)
            clock = VirtualClock(BEGIN)
            standin, url = serve_world(world, clock=clock)
            standin.feeds.delay = delay
            client = stack.enter_context(client_of(url, "token", clock=clock, policy=QUICK))
            return Looks(standin, client, clock, database, asset_store)

        yield connect


def test_stars_are_added_with_user_and_time_and_never_complete(looks_at: LooksAt) -> None:
    looks = looks_at(feed_world([[-40 * DAY, -DAY, -HOUR, DAY], [-HOUR]], others=5.0))
    report = looks.look(0)
    assert (report.outcomes, report.stars) == ({"ok": 2}, 3)
    table = looks.table()
    assert table["login"].to_list() == ["user-1", "user-2"]
    assert table["starred_at"].dt.epoch("s").to_list() == [BEGIN - DAY, BEGIN - HOUR]
    assert set(table["source"]) == {"events"}
    looks.look(2 * DAY)
    assert looks.users() == [1, 2, 3]
    assert not any(state.complete for state in looks.state.load().values())


def test_an_unchanged_feed_costs_nothing(looks_at: LooksAt) -> None:
    looks = looks_at(feed_world([[-DAY, -HOUR, 5 * HOUR]]))
    looks.look(0)
    spent = looks.spent
    report = looks.look(HOUR)
    assert (report.pages, report.pages_not_modified, looks.spent) == (1, 1, spent)
    assert (report.outcomes, report.changed, looks.users()) == ({"ok": 1}, set(), [0, 1])
    looks.look(6 * HOUR)
    assert (looks.spent, looks.users()) == (spent + 1, [0, 1, 2])


def test_githubs_interval_between_two_looks_is_obeyed(looks_at: LooksAt) -> None:
    looks = looks_at(feed_world([[-DAY, 30]]))
    looks.look(0)
    requests = looks.standin.requests
    report = looks.look(59)
    assert (looks.standin.requests, report.outcomes, looks.users()) == (requests, {"ok": 1}, [0])
    looks.look(60)
    assert (looks.standin.requests, looks.users()) == (requests + 1, [0, 1])


def test_pages_are_read_until_all_is_known(looks_at: LooksAt) -> None:
    looks = looks_at(feed_world([list(range(-250 * HOUR, 150 * HOUR, HOUR))]))
    assert looks.look(0).pages == 3
    assert looks.look(50 * HOUR).pages == 1
    assert looks.look(149 * HOUR).pages == 2, "events that came late may be among the first that are known"
    assert looks.users() == list(range(400))


def test_a_late_event_is_added_although_later_ones_are_known(looks_at: LooksAt) -> None:
    """It appears on the page of its time, which is not the first one of a busy feed."""
    looks = looks_at(feed_world([[-DAY, *range(0, 10 * HOUR, MINUTE)]]), (30.0, 2.0 * HOUR))
    for at in range(0, 13 * HOUR, HOUR // 2):
        looks.look(at)
    assert looks.users() == list(range(601))
    assert looks.feed().gap_count == 0


def test_a_gap_is_reported_where_a_full_feed_lost_what_was_known(looks_at: LooksAt) -> None:
    looks = looks_at(feed_world([[-HOUR, *range(0, 400 * MINUTE, MINUTE), *range(10 * DAY, 20 * DAY, DAY)]]))
    looks.look(0)
    report = looks.look(400 * MINUTE)
    state = report.states["a/0"]
    assert (report.gaps, looks.feed().gap_count, looks.feed().has_new_gap) == (1, 1, True)
    assert looks.users() == [0, 1, *range(101, 401)]
    assert "stars from 2027-01-15 08:00 to 2027-01-15 09:40 UTC may be missing" in str(state.reason)
    assert state.outcome is Outcome.OK
    looks.look(20 * DAY)
    assert (looks.feed().gap_count, looks.state.load()[1].reason) == (1, None), "it is reported once"
    assert not looks.feed().has_new_gap
    assert looks.users() == [0, 1, *range(101, 411)]


def test_a_gap_is_reported_after_a_month_without_a_look(looks_at: LooksAt) -> None:
    looks = looks_at(feed_world([[-HOUR, 5 * DAY]]))
    looks.look(0)
    report = looks.look(36 * DAY)
    assert (report.gaps, looks.users()) == (1, [0])


def test_no_gap_is_reported_at_the_first_look_and_in_a_feed_that_is_not_full(looks_at: LooksAt) -> None:
    looks = looks_at(feed_world([list(range(-400 * MINUTE, 0, MINUTE)), [DAY + n * MINUTE for n in range(250)], []]))
    assert looks.look(0).gaps == 0
    assert looks.look(2 * DAY).gaps == 0
    assert looks.users("a/1") == list(range(250))


def test_a_feed_without_a_star_does_not_make_a_repository_starless(looks_at: LooksAt) -> None:
    looks = looks_at(feed_world([[-40 * DAY, 10 * DAY]], others=5.0))
    state = looks.look(0).states["a/0"]
    assert (state.outcome, state.stars, state.reason) == (
        Outcome.UNKNOWN,
        None,
        "its feed of events has shown no star yet",
    )
    spent = looks.spent
    looks.look(HOUR // 4)
    assert looks.spent <= spent + 1
    looks.look(11 * DAY)
    assert looks.users() == [1]


def test_a_dead_process_loses_no_star_of_an_earlier_look(looks_at: LooksAt) -> None:
    """A run that is killed after it wrote the table, and before its state, is repeated on that table."""
    looks = looks_at(
        feed_world([[*range(-50 * MINUTE, 0, MINUTE), *range(0, 200 * MINUTE, MINUTE), *range(DAY, DAY + 400)]])
    )
    looks.look(0)
    before = list(looks.state.collection.find())
    looks.look(200 * MINUTE)
    assert looks.users() == list(range(250))
    for document in before:
        looks.state.collection.replace_one({"_id": document["_id"]}, document)
    looks.look(2 * DAY)
    assert looks.users() == [*range(250), *range(350, 650)], "what the feed holds no more is still stored"


def test_a_table_that_is_not_the_looks_own_is_completed_from_the_whole_feed(looks_at: LooksAt) -> None:
    looks = looks_at(feed_world([[-HOUR, -MINUTE]]))
    looks.look(0)
    looks.tables.write("a/0", looks.table().head(1))
    looks.look(HOUR)
    assert looks.users() == [0, 1]
    looks.tables.delete("a/0")
    spent = looks.standin.quota.spent.copy()
    looks.look(HOUR + 30)
    assert looks.standin.quota.spent == spent, "GitHub's interval is not over"
    assert list(looks.tables.partitions()) == []
    looks.look(2 * HOUR)
    assert looks.users() == [0, 1]


def test_a_page_that_fails_is_read_again_by_the_next_look(looks_at: LooksAt) -> None:
    looks = looks_at(feed_world([list(range(-200 * HOUR, 0, HOUR))]))
    looks.client.refresh_budgets()
    looks.standin.faults = Faults(script=[None, *["500"] * 4])
    state = looks.look(0).states["a/0"]
    assert (state.proven, looks.users()) == (False, list(range(100, 200)))
    assert "page 2 of its feed could not be read" in str(state.reason)
    assert looks.feed().next_look_at == dt.datetime.fromtimestamp(BEGIN, dt.UTC) + RETRY_AFTER
    state = looks.look(HOUR).states["a/0"]
    assert (state.proven, state.reason, looks.users()) == (True, None, list(range(200)))


def test_unreadable_feeds_wait_and_keep_their_stars(looks_at: LooksAt) -> None:
    world = feed_world([[-HOUR], [-HOUR], [-HOUR, 2 * HOUR]])
    looks = looks_at(world)
    looks.look(0)
    world.by_name["a/0"].blocked = True
    del world.by_id[2]
    looks.standin.faults = Faults()
    report = looks.look(HOUR)
    assert {key: state.outcome.value for key, state in report.states.items()} == {
        "a/0": "blocked", "a/1": "gone", "a/2": "ok",
    }  # fmt: skip
    assert looks.users("a/0") == looks.users("a/1") == [0]
    assert looks.feed(1).next_look_at == dt.datetime.fromtimestamp(BEGIN + HOUR, dt.UTC) + MAX_WAIT
    world.by_name["a/0"].blocked = False
    assert looks.look(30 * HOUR).states["a/0"].outcome is Outcome.OK


# -- single responses ------------------------------------------------------------------------------------------------

AT = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


class Fixed(Clock):
    def now(self) -> float:
        return (AT + dt.timedelta(hours=1)).timestamp()


def event(number: int, user: int | None, at: dt.datetime = AT, kind: str = "WatchEvent", **more: Any) -> dict[str, Any]:
    actor = None if user is None else {"id": user, "login": f"user{user}"}
    return {
        "id": str(number), "type": kind, "actor": actor, "repo": {"id": 1, "name": "a/b"}, "payload": {},
        "created_at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    } | more  # fmt: skip


def look_at(entries: Any, stored: pl.DataFrame | None = None, headers: dict[str, str] | None = None) -> StarCollection:
    """Return what one look at a feed with these entries finds."""
    page = Response(json.dumps(entries), headers={"etag": '"1"', "x-poll-interval": "75"} | (headers or {}))
    previous = None if stored is None else PreviousStars(stored, [])
    with served({"/repositories/1/events": page}, clock=Fixed(), policy=QUICK) as client:
        (collected,) = EventFeeds(client).collect([CollectionTask(ref(stars=9), lambda: previous)], 1)
    return collected


def stored(*stars: tuple[int, str, str]) -> pl.DataFrame:
    users, times = [star[:2] for star in stars], [star[2] for star in stars]
    return stars_table(1, users, times, "graphql")


def test_entries_without_an_actor_and_of_others_are_left_out() -> None:
    elsewhere = {"id": 2, "name": "a/b"}
    entries = [event(5, None), event(4, 14, kind="PushEvent"), event(3, 13, repo=elsewhere), event(2, 12), event(1, 11)]
    collected = look_at(entries)
    assert table_of(collected)["user_id"].to_list() == [11, 12]
    assert (collected.proven, collected.reason) == (True, None)
    assert collected.feed is not None
    assert (collected.feed.newest_id, collected.feed.poll_seconds, collected.feed.etag) == (5, 75, '"1"')


@pytest.mark.parametrize("bad", [None, 7, {}, {"id": "9"}, event(9, 11, AT) | {"created_at": "soon"}, event(9, -1)])
def test_an_event_that_cannot_be_understood_is_read_again(bad: Any) -> None:
    collected = look_at([bad, event(1, 11)])
    assert table_of(collected)["user_id"].to_list() == [11]
    assert not collected.proven
    assert "1 of its 2 events could not be understood" in str(collected.reason)
    assert collected.feed is not None
    assert (collected.feed.etag, collected.feed.newest) == (None, None)


def test_repeated_and_late_events_replace_no_later_star() -> None:
    known = stored((11, "user11", "2026-11-19T00:00:00Z"), (12, "user12", "2020-01-01T00:00:00Z"))
    early = AT - dt.timedelta(days=3)
    entries = [event(7, 12), event(7, 12), event(3, 11, early), event(6, 12, AT - dt.timedelta(hours=1)), event(2, 13)]
    table = table_of(look_at(entries, known))
    rows = table.select("user_id", pl.col("starred_at").dt.to_string("%F %T"), "source").rows()
    assert rows == [
        (11, "2026-11-19 00:00:00", "graphql"),
        (12, "2026-11-20 12:00:00", "events"),
        (13, "2026-11-20 12:00:00", "events"),
    ]


def test_a_renamed_user_has_the_present_login() -> None:
    known = stored((11, "before", "2026-11-20T12:00:00Z"), (12, "gone", "2020-01-01T00:00:00Z"))
    collected = look_at([event(1, 11)], known)
    assert table_of(collected)["login"].to_list() == ["gone", "user11"]
    assert not collected.unchanged
    assert look_at([event(1, 11)], table_of(collected)).unchanged


def test_users_of_old_events_get_their_id() -> None:
    known = stored((-5, "user11", "2014-01-01T00:00:00Z"))
    assert table_of(look_at([event(1, 11)], known))["user_id"].to_list() == [11]


def test_an_event_of_the_future_does_not_hide_the_present() -> None:
    collected = look_at([event(9, 19, AT + dt.timedelta(days=900)), event(1, 11)])
    assert collected.feed is not None
    assert collected.feed.newest == (AT, 1)


@pytest.mark.parametrize("shown", [0, 1])
def test_a_feed_that_lacks_what_it_must_hold_is_believed_the_second_time(shown: int, looks_at: LooksAt) -> None:
    looks = looks_at(feed_world([[-2 * HOUR, -HOUR, 3 * HOUR]]))
    looks.look(0)
    before, visible = looks.feed(), looks.standin.feeds.visible
    looks.standin.feeds.visible = lambda repository, now: visible(repository, now)[:shown]  # type: ignore[method-assign]
    report = looks.look(4 * HOUR)
    assert "lacks the events" in str(report.states["a/0"].reason)
    assert (looks.feed().newest, report.gaps) == (before.newest, 0)
    assert looks.users() == [0, 1, 2][: 2 + shown]
    report = looks.look(5 * HOUR)
    assert (report.gaps, looks.feed().gap_count, looks.feed().doubts) == (1, 1, 0), "the account may be deleted"
    report = looks.look(30 * HOUR)
    assert (report.gaps, looks.feed().gap_count) == (0, 1)
    assert looks.users() == [0, 1, 2][: 2 + shown]


def test_a_redirect_is_followed() -> None:
    async def moved(request: Request) -> Response:
        return Response("{}", 301, {"location": str(request.url).replace("/repositories/1/", "/repositories/1/now/")})

    page = Response(json.dumps([event(1, 11)]))
    handlers: dict[str, Handler] = {"/repositories/1/events": moved, "/repositories/1/now/events": page}
    with served(handlers, clock=Fixed(), policy=QUICK) as client:
        (collected,) = EventFeeds(client).collect([CollectionTask(ref(stars=9))], 1)
    assert table_of(collected)["user_id"].to_list() == [11]


def test_a_closed_feed_is_not_a_missing_repository() -> None:
    handlers = {
        "/repositories/1/events": Response('{"message": "Not Found"}', 404),
        "/repositories/1": Response('{"id": 1}'),
    }
    with served(handlers, clock=Fixed(), policy=QUICK) as client:
        (collected,) = EventFeeds(client).collect([CollectionTask(ref(stars=9))], 1)
    assert (collected.outcome, collected.reason) == (
        Outcome.UNKNOWN, "its feed of events could not be read: 404 Not Found",
    )  # fmt: skip


# -- properties ------------------------------------------------------------------------------------------------------

KILLS = ("none", "before the table", "before the state")

FAULTS = [kind for kind in REST_KINDS if kind not in ("timeout", "slow", "403", "403 retry-after", "403 abuse", "401")]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], float, list[tuple[int, str, list[str | None]]], bool]:
    """Draw times of stars (steady and in surges), other events a day, looks with kills and faults, and late events."""
    steady = draw(st.lists(st.integers(-20 * DAY, 20 * DAY), max_size=60))
    surges = draw(
        st.lists(st.tuples(st.integers(0, 15 * DAY), st.integers(100, 700), st.integers(10, 600)), max_size=3)
    )
    stars = [*steady, *(begin + n * pause for begin, size, pause in surges for n in range(size))]
    looks = draw(
        st.lists(
            st.tuples(
                st.integers(MINUTE, 3 * DAY),
                st.sampled_from(KILLS),
                st.lists(st.sampled_from([None, None, *FAULTS]), max_size=6),
            ),
            min_size=2,
            max_size=8,
        )
    )
    return stars, draw(st.sampled_from([0.0, 3.0, 200.0])), looks, draw(st.booleans())


class Killed(BaseException):
    pass


def assert_nothing_is_lost(looks: Looks, looked: Sequence[tuple[int, str, list[str | None]]]) -> None:
    """Look at the times; check that all stars are stored that an acknowledged look was answered with, and no others."""
    world, answered = looks.standin.world, set[int]()
    seen: set[int] = set()
    entries = looks.standin.feeds.entries

    def recorded(repository: Any, rows: Any, base: str) -> list[dict[str, Any]]:
        seen.update(rows[rows[:, 2] < 0][:, 1].tolist())
        return entries(repository, rows, base)

    looks.standin.feeds.entries = recorded  # type: ignore[method-assign]
    looks.client.refresh_budgets()
    at = 0
    for pause, kill, faults in [*looked, (2 * HOUR, "none", [])]:
        at += pause
        seen.clear()
        before = list(looks.state.collection.find())
        looks.standin.faults = Faults(script=faults)
        if kill == "before the table":
            looks.clock.advance(BEGIN + at)
            with suppress(GhAssetsError):
                tasks = [CollectionTask(ref(1, "a/0"))]
                list(looks.pipeline().source.collect(tasks, 1))
            continue
        with suppress(GhAssetsError):
            looks.look(at)
        if not faults:
            answered |= seen
        if kill == "before the state":
            looks.state.collection.delete_many({})
            if before:
                looks.state.collection.insert_many(before)
    stored = set(looks.users()) if "a/0" in looks.tables.partitions() else set()
    assert answered <= stored, "a star is lost that was in a feed that was answered"
    given_until_now = np.flatnonzero(world.repositories[0].starred_at <= looks.clock.now())
    assert stored <= set(given_until_now.tolist())


EXAMPLES = hypothesis_settings(
    max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@EXAMPLES
@given(history=histories())
def test_no_star_that_was_answered_is_lost(looks_at: LooksAt, history: Any) -> None:
    stars, others, looked, is_late = history
    looks = looks_at(feed_world([stars or [0]], others=others), (30.0, 6.0 * HOUR) if is_late else (0.0, 0.0))
    assert_nothing_is_lost(looks, looked)


@EXAMPLES
@given(pauses=st.lists(st.integers(MINUTE, 12 * DAY), min_size=1, max_size=6), history=histories())
@example(pauses=[HOUR, HOUR], history=([-DAY, *range(30, 30 + 300 * 5, 5)], 0.0, [], False))
@example(pauses=[HOUR, HOUR], history=([-DAY, *range(30, 30 + 301 * 5, 5)], 0.0, [], False))
def test_gaps_are_reported_exactly_when_events_were_washed_out(
    looks_at: LooksAt, pauses: list[int], history: Any
) -> None:
    """As many events as a feed holds may be exactly all that came: whether more did cannot be seen."""
    stars, others, _, _ = history
    looks = looks_at(feed_world([stars or [0]], others=others))
    repository = looks.standin.world.repositories[0]
    looks.look(0)
    at, before = 0, _events_until(looks, BEGIN)
    for pause in pauses:
        at += pause
        report = looks.look(at)
        until = _events_until(looks, looks.clock.now())
        came, before = until - before, until
        assert report.gaps == (came >= FEED_EVENTS), f"{came} events came"
    assert (
        len(looks.users() if repository.repo_id in looks.state.load() and looks.feed().stars else []) <= len(stars) + 1
    )


def _events_until(looks: Looks, now: float) -> int:
    """Return the number of all events until a time since `BEGIN`."""
    repository, feeds = looks.standin.world.repositories[0], looks.standin.feeds
    days = range(int(BEGIN // DAY), int(now // DAY) + 1)
    others = np.concatenate([feeds._others_of_day(repository, day)[:, 0] for day in days])
    return int(((others <= now) & (others > BEGIN)).sum() + (repository.starred_at <= now).sum())
