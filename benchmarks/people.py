"""How many stars users' lists give by the order in which they are read.

Run: python benchmarks/people.py [--repositories 2000] [--users 70000] [--pages 1000 3000 10000]

The users are owners of the newest 100 forks of each repository of `large_world`, and those whom its event feeds name.
Prints for each number of pages how many stars a page was worth: in the order of a `Frontier` without and with what an
earlier run has found, those with the most connections first, and at random. No request is sent, a page of 100 stars
counts as one, and answers come 200 users late, as they do when many lists are in one query. All stars of the world are
on wanted repositories, and forks are a sixth of the stars: real owners of forks may have starred nothing.
"""

import argparse
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from gh_assets.collector.star_sources.frontier import Frontier, Yields
from gh_assets.collector.star_sources.starred_state import SeedUser
from gh_assets.embedded.standin.large import large_world
from gh_assets.embedded.standin.world import World

NOW, MONTH = 1_795_737_600, 30 * 86_400
LATE = 200


def found_by(world: World, source: str) -> list[SeedUser]:
    """Return the users that forks or event feeds name, those with the most connections first."""
    connected: dict[int, list[int]] = {}
    for repository in world.repositories:
        lately = repository.stargazers[repository.starred_at > NOW - MONTH][-300:].tolist()
        for user in set(world.forkers(repository)[:100] if source == "forks" else lately):
            connected.setdefault(user, []).append(len(repository.stargazers))
    users = [SeedUser(world.logins[user], user, len(sizes), source, min(sizes)) for user, sizes in connected.items()]
    return sorted(users, key=lambda user: (-user.weight, user.user_id))


def stars_a_page(world: World, users: Iterable[SeedUser], budgets: Sequence[int]) -> list[float]:
    """Read users' lists in order; return the stars a page for each number of pages."""
    pages = stars = 0
    waiting: deque[tuple[SeedUser, int, int]] = deque()
    found: list[float] = []
    for user in users:
        assert user.user_id is not None
        length = len(world.starred(user.user_id))
        cost = max(1, -(-length // 100))
        pages, stars = pages + cost, stars + length
        waiting.append((user, max(0, length - user.known_stars), cost))
        if isinstance(users, Frontier) and len(waiting) > LATE:
            users.learn(*waiting.popleft())
        while len(found) < len(budgets) and pages >= budgets[len(found)]:
            found.append(stars / pages)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=2000)
    parser.add_argument("--users", type=int, default=70_000)
    parser.add_argument("--pages", type=int, nargs="+", default=[1000, 3000, 10_000])
    options = parser.parse_args()
    world = large_world(repositories=options.repositories, users=options.users)
    world.advance(NOW)
    merged: dict[int | str, SeedUser] = {}
    for user in (*found_by(world, "events"), *found_by(world, "forks")):
        if user.key not in merged or merged[user.key].weight < user.weight:
            merged[user.key] = user
    users = sorted(merged.values(), key=lambda user: (-user.weight, user.key))
    print(f"{len(users):,} users; stars a page after {', '.join(f'{pages:,}' for pages in options.pages)} pages")
    yields = Yields()
    orders: dict[str, Iterable[SeedUser]] = {
        "frontier": Frontier(users, [], yields, len(users)),
        "frontier, again": Frontier(users, [], yields, len(users)),
        "most connections first": users,
        "at random": [users[place] for place in np.random.default_rng(0).permutation(len(users))],
    }
    for name, order in orders.items():
        found = stars_a_page(world, order, options.pages)
        print(f"{name:<24}" + "".join(f"{value:8.1f}" for value in found), flush=True)


if __name__ == "__main__":
    main()
