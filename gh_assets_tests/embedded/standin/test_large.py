"""Tests of the large generated world."""

import tracemalloc

import numpy as np
import requests
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.large import BLOCK, DAY, SUBTOPICS_FROM, UNTIL, large_world
from gh_assets.embedded.standin.world import World
from gh_assets.recommender import EASE, Popularity, evaluate, strong_generalization_split
from gh_assets_tests.conftest import ServeWorld

SIZES = {"seed": st.integers(0, 2**32), "repositories": st.integers(20, 200), "users": st.integers(20, 300)}


def content(world: World) -> list[object]:
    return [(r.full_name, r.readme, r.stargazers.tolist(), r.starred_at.tolist()) for r in world.repositories]


@given(**SIZES, mean_stars=st.floats(2, 60))
def test_any_size_is_a_world(seed: int, repositories: int, users: int, mean_stars: float) -> None:
    def generate() -> World:
        return large_world(seed, repositories=repositories, users=users, mean_stars=mean_stars)

    world = generate()
    assert content(world) == content(generate())
    assert len(world.by_id) == len(world.by_name) == len(world.repositories) == repositories + 3
    assert len(world.user_by_login) == len(world.user_by_id) == users
    stars_of = np.zeros(users, np.int64)
    for index, repository in enumerate(world.repositories):
        assert len(np.unique(repository.stargazers)) == len(repository.stargazers)
        assert (np.diff(repository.starred_at) >= 0).all()
        stars_of[repository.stargazers] += 1
        if repository.stargazers.size:
            user, last = int(repository.stargazers[-1]), int(repository.starred_at[-1])
            assert [index, last] in world.starred(user).tolist()
            assert last <= UNTIL
    # Every user has a star, and none has more than an eighth of the repositories.
    assert stars_of.min() >= 1
    assert stars_of.max() <= max(6, repositories // 8)
    assert all((np.diff(world.starred(user)[:, 1]) <= 0).all() for user in range(users))


@given(**SIZES, days=st.lists(st.integers(0, 3000), min_size=1, max_size=3))
def test_stars_are_shown_when_their_time_has_come(seed: int, repositories: int, users: int, days: list[int]) -> None:
    world = large_world(seed, repositories=repositories, users=users)
    complete = [(r.stargazers, r.starred_at) for r in world.repositories]
    for before in days:
        now = UNTIL - before * DAY
        world.advance(now)
        for repository, (who, when) in zip(world.repositories, complete, strict=True):
            assert repository.stargazers.tolist() == who[when <= now].tolist()
            assert repository.starred_at.tolist() == when[when <= now].tolist()
        lists = [world.starred(user) for user in range(users)]
        assert sum(map(len, lists)) == world.star_count
        assert all((pairs[:, 1] <= now).all() for pairs in lists)


def test_most_people_have_few_stars_and_few_repositories_most() -> None:
    world = large_world(0, repositories=2000, users=20_000)
    stars_of = np.bincount(np.concatenate([r.stargazers for r in world.repositories]))
    assert 0.71 < (stars_of < 5).mean() < 0.75
    assert 14 < stars_of.mean() < 26
    counts = np.sort([len(r.stargazers) for r in world.repositories[:2000]])
    assert counts[-200:].sum() > 0.3 * counts.sum()
    assert counts[-1] > 8 * np.median(counts)


def test_the_last_month_has_stars_of_every_day_and_of_new_repositories() -> None:
    world = large_world(0, repositories=500, users=5000)
    times = np.concatenate([r.starred_at for r in world.repositories])
    by_day = np.bincount((UNTIL - times) // DAY)
    assert (by_day[:30] > 0.2 * by_day[:365].mean()).all()
    month_old = [r for r in world.repositories[:500] if r.starred_at.size and r.starred_at[0] > UNTIL - 60 * DAY]
    assert month_old


def test_people_have_tastes() -> None:
    """Beyond 1,500 repositories, tastes are for parts of topics, and a model of tastes has to find smaller clusters."""
    for repositories in (SUBTOPICS_FROM - 900, SUBTOPICS_FROM):
        world = large_world(0, repositories=repositories, users=6000)
        rows = np.concatenate([r.stargazers for r in world.repositories])
        columns = np.repeat(np.arange(repositories + 3), [len(r.stargazers) for r in world.repositories])
        split = strong_generalization_split(sp.csr_array((np.ones(len(rows), np.float32), (rows, columns))))
        popular, linear = (
            evaluate(model.fit(split.train), split.test_fold_in, split.test_held_out)["ndcg@100"]
            for model in (Popularity(), EASE())
        )
        assert linear > 1.5 * popular


def test_memory_is_that_of_the_stars() -> None:
    """Beside stars and logins, a block of users is all that is held."""
    peaks, stars = [], []
    for users in (BLOCK, 4 * BLOCK):
        tracemalloc.start()
        world = large_world(0, repositories=600, users=users, mean_stars=8)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        stars.append(world.star_count)
    assert (peaks[1] - peaks[0]) / (stars[1] - stars[0]) < 130


def test_the_served_world_grows_with_the_clock(serve_world: ServeWorld) -> None:
    world = large_world(0, repositories=60, users=500)
    repository = max(world.repositories, key=lambda r: int((r.starred_at > UNTIL - 90 * DAY).sum()))
    clock = VirtualClock(float(UNTIL - 90 * DAY))
    _, url = serve_world(world, clock=clock)

    def count() -> int:
        own = {"authorization": "Bearer token"}
        response = requests.get(f"{url}/repos/{repository.full_name}", headers=own, timeout=30)
        return int(response.json()["stargazers_count"])

    before = count()
    clock.advance(float(UNTIL))
    assert before < count() == len(repository.stargazers)
