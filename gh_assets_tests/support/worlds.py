"""Small worlds with obvious results."""

import numpy as np

from gh_assets.embedded.standin.world import NO_TIME, Repository, World, list_markdown

LIST = "lists/awesome"


def world_of(
    stars: dict[str, list[int]], *, users: int | None = None, times: bool = True, listed: list[str] | None = None
) -> World:
    """Return a world of repositories, with ids from 1, and their stargazers by number, oldest star first.

    The list `LIST` names all repositories, or those in `listed`.
    """
    count = users or 1 + max((user for who in stars.values() for user in who), default=0)
    repositories = []
    for number, (name, who) in enumerate(stars.items(), start=1):
        when = np.arange(len(who)) * 60 + 1_500_000_000 if times else np.full(len(who), NO_TIME)
        stargazers, starred_at = np.array(who, np.int64), when.astype(np.int64)
        repositories.append(Repository(number, name, f"About {name}", stargazers=stargazers, starred_at=starred_at))
    named = [Repository(0, name) for name in (listed if listed is not None else list(stars))]
    repositories.append(Repository(900_001, LIST, readme=list_markdown("Awesome", named)))
    logins = [f"user-{user}" for user in range(count)]
    return World(repositories, logins, list(range(5000, 5000 + count)), [LIST], "a test")


def troubled_world() -> World:
    """Return a world with repositories of every outcome: ok, renamed, deleted, blocked, restricted, without stars."""
    stars = {"good/one": list(range(250)), "good/starless": [], "fresh/name": [1, 2, 3]}
    stars |= {"taken/down": [1], "closed/list": [4, 5, 6]}
    listed = ["Good/ONE", "good/one", "good/starless", "old/name", "taken/down", "closed/list", "not/there"]
    world = world_of(stars, listed=listed)
    by_name = {repository.full_name: repository for repository in world.repositories}
    by_name["fresh/name"].former_names = ("old/name",)
    by_name["good/starless"].fork_of = by_name["good/one"].repo_id
    by_name["taken/down"].blocked = True
    by_name["closed/list"].restricted = True
    return World(world.repositories, world.logins, world.user_ids, world.lists, "troubles")
