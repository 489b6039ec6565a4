"""Select the users whose lists are read: new users by weight, and known users whose lists are due."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping

from gh_assets.collector.star_sources.starred_state import SeedUser, UserState
from gh_assets.github.outcomes import Outcome

STARRED_LIST_TTL = dt.timedelta(days=7)
"""Lists that were read within this time are not read again."""


def select_users(
    seeds: Iterable[SeedUser],
    states: Mapping[int | str, UserState],
    *,
    max_users: int,
    max_pages: int,
    full: bool = False,
) -> list[SeedUser]:
    """Return the users to collect: new ones with the highest weights first, then known ones, the stalest first.

    Parameters
    ----------
    seeds : iterable of SeedUser
    states : mapping
        States of all known users, by `SeedUser.key`.
    max_users : int
        Maximum number of users in total, known ones included.
    max_pages : int
        Maximum pages per list; a list that was cut after fewer is due.
    full : bool
        Whether all known lists are due.
    """
    now = dt.datetime.now(dt.UTC)
    users = _merged(seeds, states)
    new = [user for key, user in users.items() if key not in states]
    new.sort(key=lambda user: (-user.weight, user.user_id or 0, user.login))

    def is_due(state: UserState) -> bool:
        is_fresh = state.asked_at is not None and now - state.asked_at < STARRED_LIST_TTL
        is_cut = state.outcome is Outcome.OK and state.ends_early(max_pages)
        return full or is_cut or state.is_unread or not is_fresh

    due = [key for key in users if key in states and is_due(states[key])]
    # Users of one segment follow each other, so that it is read once.
    due.sort(key=lambda key: (states[key].asked_at or now, states[key].segment or ""))
    return [*new[: max(0, max_users - len(states))], *(users[key] for key in due)]


def unread_users(users: Iterable[SeedUser], states: Mapping[int | str, UserState]) -> list[SeedUser]:
    """Return the users whose lists could not be read, or not be proven to be whole."""
    by_login = {state.login.lower(): state for state in states.values()}
    unread = []
    for user in users:
        # The id of a user who was named by login is known once the list was read.
        state = states.get(user.key) or by_login.get(user.login.lower())
        if state is None or state.is_unread:
            unread.append(user)
    return unread


def _merged(seeds: Iterable[SeedUser], states: Mapping[int | str, UserState]) -> dict[int | str, SeedUser]:
    """Return one seed per user, the one with the highest weight, and one of weight 0 for every other known user."""
    seeds = list(seeds)
    ids = {seed.login.lower(): seed.user_id for seed in seeds if seed.user_id is not None and seed.user_id > 0}
    ids |= {state.login.lower(): state.user_id for state in states.values() if isinstance(state.user_id, int)}
    users: dict[int | str, SeedUser] = {}
    for seed in seeds:
        # Users of old events have no id of GitHub; users from files may have none at all.
        user_id = seed.user_id if seed.user_id is not None and seed.user_id > 0 else ids.get(seed.login.lower())
        user = SeedUser(seed.login, user_id, seed.weight)
        if user.key not in users or users[user.key].weight < user.weight:
            users[user.key] = user
    for key, state in states.items():
        users.setdefault(key, SeedUser(state.login, key if isinstance(key, int) else None, 0))
    return users
