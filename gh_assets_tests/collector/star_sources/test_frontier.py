"""The order in which users' lists are read."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.collector.star_sources.frontier import AGAIN, ANSWERS, Frontier, UserGroup, Yield, Yields, group_of
from gh_assets.collector.star_sources.starred_lists import RestStarred
from gh_assets.collector.star_sources.starred_state import SeedUser
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.support.starred import Lists
from gh_assets_tests.support.worlds import world_of

SIZES = {"forks": 20_000, "events": 500, "gharchive": 50}


def people(source: str, count: int, first: int = 0, weight: int = 1) -> list[SeedUser]:
    return [SeedUser(f"{source}-{n}", first + n, weight, source, SIZES.get(source, 0)) for n in range(count)]


def stars_found(frontier: Frontier, gives: Callable[[SeedUser], int], pages: int, delay: int = 40) -> Counter[str]:
    """Read a number of pages, with answers that come after `delay` further requests; return the stars by source."""
    found = Counter[str]()
    in_flight: list[SeedUser] = []
    for number, user in enumerate(frontier):
        if number == pages:
            break
        in_flight.append(user)
        found[user.source] += gives(user)
        if len(in_flight) > delay:
            answered = in_flight.pop(0)
            frontier.learn(answered, gives(answered), 1)
    return found


def test_pages_are_spent_where_they_give_the_most_stars() -> None:
    rng = np.random.default_rng(0)
    means = {"forks": 0.3, "events": 5.0, "gharchive": 1.0}
    given = {user.key: int(rng.poisson(means[s])) for n, s in enumerate(means) for user in people(s, 3000, 10_000 * n)}
    new = [user for n, source in enumerate(means) for user in people(source, 3000, 10_000 * n)]
    found = stars_found(Frontier(new, [], Yields(), room=10_000), lambda user: given[user.key], 2000)
    assert set(found) == set(means), "every group is tried"
    at_most = sum(sorted((given[user.key] for user in new if user.source == "events"), reverse=True)[:2000])
    mean_of_events = np.mean([given[user.key] for user in new if user.source == "events"])
    assert found.total() > 0.85 * 2000 * mean_of_events
    assert found.total() < at_most


def test_a_group_that_gives_less_than_it_did_is_left() -> None:
    yields = Yields()
    frontier = Frontier([*people("events", 3000), *people("forks", 3000, 10_000)], [], yields, room=10_000)
    read = Counter[str]()

    def gives(user: SeedUser) -> int:
        read[user.source] += 1
        return (10 if read["events"] < 600 else 0) if user.source == "events" else 2

    found = stars_found(frontier, gives, 3000)
    assert found["forks"] > 500, "the users of events give nothing any more"


def test_long_lists_count_by_their_pages() -> None:
    yields = Yields()
    long, short = UserGroup("events", 0, 1), UserGroup("forks", 0, 1)
    for _ in range(500):
        yields.add(long, 20, 20)
        yields.add(short, 3, 1)
    assert yields.best([long, short], {}) == short


def test_older_answers_fade_out() -> None:
    known = Yield()
    for stars in [9] * 5 * ANSWERS + [1] * 5 * ANSWERS:
        known.add(stars, 1)
    assert known.answers == pytest.approx(ANSWERS, rel=0.01)
    assert known.stars / known.answers == pytest.approx(1, rel=0.1)


@given(
    st.lists(st.tuples(st.sampled_from(["file", "events", "forks", "known"]), st.integers(1, 5)), max_size=60),
    st.integers(0, 20),
    st.integers(0, 70),
    st.data(),
)
def test_every_user_is_taken_once_and_new_ones_within_the_room(
    kinds: Sequence[tuple[str, int]], due_count: int, room: int, data: st.DataObject
) -> None:
    new = [SeedUser(f"u{n}", n, weight, source) for n, (source, weight) in enumerate(kinds)]
    due = people("known", due_count, 1000)
    frontier = Frontier(new, due, Yields(), room)
    expected = len(frontier)
    taken = []
    for user in frontier:
        taken.append(user)
        if data.draw(st.booleans()):
            frontier.learn(user, data.draw(st.none() | st.integers(0, 9)), data.draw(st.integers(0, 3)))
    assert taken == frontier.taken
    assert len(taken) == expected == due_count + min(room, len(new))
    assert len({user.key for user in taken}) == len(taken)
    assert {user.key for user in due} <= {user.key for user in taken}
    named = [user for user in taken if user.source == "file"]
    assert len(named) == min(room, sum(user.source == "file" for user in new)), "named users come first"


def test_no_new_user_is_taken_once_enough_stars_are_known() -> None:
    enough = False
    frontier = Frontier(people("events", 100), people("known", 30, 1000), Yields(), 100, lambda: enough)
    taken = iter(frontier)
    for _ in range(15):
        next(taken)
    enough = True
    later = list(taken)
    assert len(frontier.taken) == 15 + len(later)
    assert all(user.source == "known" for user in later)
    assert sum(user.user_id is not None and user.user_id >= 1000 for user in frontier.taken) == 30


def test_groups_differ_by_source_size_and_connections() -> None:
    user = SeedUser("u", 1, 7, "forks", 1_000)
    assert group_of(user) == UserGroup("forks", 2, 2)
    assert group_of(user, again=True) == UserGroup(AGAIN, 2, 2)


def test_yields_are_kept_for_the_next_run(database: MongoDatabase) -> None:
    yields = Yields()
    yields.add(UserGroup("events", 1, 2), 7, 3)
    yields.add(UserGroup("forks", 0, 1), 0, 1)
    yields.save(database)
    assert Yields.load(database).of_groups == yields.of_groups


def test_users_whose_kind_hits_are_read_first(lists: Lists) -> None:
    """Of 600 users of two kinds, of which one starred nothing that is wanted, 300 may be read."""
    world = world_of({f"a/{n}": list(range(0, 600, 2)) for n in range(5)}, users=600)
    seeds = [
        SeedUser(login, user_id, 1, "forks" if number % 2 else "gharchive")
        for number, (login, user_id) in enumerate(zip(world.logins, world.user_ids, strict=True))
    ]
    lists.run(world, seeds, RestStarred, max_users=300)
    hits = sum(bool(state.hits) for state in lists.state.load().values())
    assert lists.last.collected == 300
    assert hits > 200
