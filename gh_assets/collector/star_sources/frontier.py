"""The order in which users' lists are read: first where a page is expected to bring the most new stars.

Users are grouped by how they were found. What the last answers of a group gave estimates what its next user gives; a
group with few answers so far is estimated optimistically, so that each is tried (an upper confidence bound: Auer,
Cesa-Bianchi & Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem", Machine Learning 2002).
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from gh_assets.collector.star_sources.starred_state import SeedUser
from gh_assets.storage.mongo import Collections, MongoDatabase

ANSWERS = 1000
"""Number of answers over which an estimate forgets the older ones."""

USERS_AT_ONCE = 10
"""Users of the best group that are taken before groups are compared again."""

SIZES = (100, 1_000, 10_000)
"""Numbers of stars that separate repositories of different size."""

MAX_DOUBLINGS = 6
"""Users who are connected with 2 to this power wanted repositories, or more, form one group."""

AGAIN = "again"

SOURCES = ("file", "events", "gharchive", "known", "forks", AGAIN)
"""How users are found, in the order in which they are tried; ``again``: their lists were read before."""

_DOCUMENT_ID = "user yields"


class UserGroup(NamedTuple):
    """Users that were found in the same way.

    Attributes
    ----------
    source : str
        One of `SOURCES`.
    size : int
        Size of the smallest repository that they are connected with: the number of `SIZES` that it reaches.
    doublings : int
        Logarithm to base 2 of the number of wanted repositories that they are connected with, rounded down.
    """

    source: str
    size: int
    doublings: int


def group_of(user: SeedUser, *, again: bool = False) -> UserGroup:
    """Return the group of a user.

    Parameters
    ----------
    user : SeedUser
    again : bool
        Whether the user's list was read before.
    """
    size = sum(user.smallest >= limit for limit in SIZES)
    return UserGroup(AGAIN if again else user.source, size, min(MAX_DOUBLINGS, user.weight.bit_length() - 1))


@dataclass
class Yield:
    """What the last answers of a group gave; older answers fade out.

    Attributes
    ----------
    answers, pages, stars, squares : float
        Number of answers, their pages, their new stars on wanted repositories, and the sum of the squares of these.
    """

    answers: float = 0.0
    pages: float = 0.0
    stars: float = 0.0
    squares: float = 0.0

    def add(self, stars: int, pages: int) -> None:
        """Add an answer."""
        kept = 1 - 1 / ANSWERS
        self.answers = self.answers * kept + 1
        self.pages = self.pages * kept + pages
        self.stars = self.stars * kept + stars
        self.squares = self.squares * kept + stars**2

    def bound(self, total: float, pending: int = 0) -> float:
        """Return the upper confidence bound of the new stars a page; infinity if nothing is known.

        Parameters
        ----------
        total : float
            Answers of all groups.
        pending : int
            Answers of this group that are still to come: they will narrow the bound.
        """
        if not self.answers + pending:
            return math.inf
        mean = self.stars / max(self.answers, 1)
        # One more, because a few answers without a star do not say that there are none.
        variance = max(0.0, self.squares / max(self.answers, 1) - mean**2) + 1
        error = math.sqrt(2 * math.log(max(total, 2)) * variance / (self.answers + pending))
        return (mean + error) * max(self.answers, 1) / max(self.pages, 1)


class Yields:
    """The yields of all groups, which are kept for the next run.

    Parameters
    ----------
    known : mapping of UserGroup to Yield
    """

    def __init__(self, known: Mapping[UserGroup, Yield] | None = None) -> None:
        self.of_groups = dict(known or {})

    def add(self, group: UserGroup, stars: int, pages: int) -> None:
        """Add an answer of a group."""
        self.of_groups.setdefault(group, Yield()).add(stars, pages)

    def best(self, groups: Iterable[UserGroup], pending: Mapping[UserGroup, int]) -> UserGroup:
        """Return the group whose next page may bring the most new stars; of those without answers the most promising.

        Users of a file come before all others.

        Parameters
        ----------
        groups : iterable of UserGroup
        pending : mapping of UserGroup to int
            Numbers of answers that are still to come.
        """
        total = sum(known.answers for known in self.of_groups.values()) + sum(pending.values())

        def rank(group: UserGroup) -> tuple[bool, float, int, int, int]:
            bound = self.of_groups.get(group, Yield()).bound(total, pending.get(group, 0))
            return group.source == "file", bound, group.doublings, -SOURCES.index(group.source), -group.size

        return max(groups, key=rank)

    @classmethod
    def load(cls, database: MongoDatabase) -> Self:
        """Read what the runs before have found."""
        document = database[Collections.META].find_one({"_id": _DOCUMENT_ID}) or {}
        return cls(
            {
                UserGroup(row["source"], row["size"], row["doublings"]): Yield(*row["sums"])
                for row in document.get("groups", ())
                if row["source"] in SOURCES
            }
        )

    def save(self, database: MongoDatabase) -> None:
        """Keep the yields for the next run."""
        groups = [
            {**group._asdict(), "sums": [known.answers, known.pages, known.stars, known.squares]}
            for group, known in sorted(self.of_groups.items())
        ]
        database[Collections.META].update_one({"_id": _DOCUMENT_ID}, {"$set": {"groups": groups}}, upsert=True)


class Frontier:
    """Users whose lists are to be read, in an order that follows what the lists before have given.

    Parameters
    ----------
    new : iterable of SeedUser
        Users whose lists were never read, in the order in which those of one group are read.
    due : iterable of SeedUser
        Users whose lists are read again, likewise.
    yields : Yields
    room : int
        Maximum number of new users.
    is_enough : callable
        Returns whether enough stars are known, so that no new user is needed.

    Attributes
    ----------
    taken : list of SeedUser
        The users so far.
    """

    def __init__(
        self,
        new: Iterable[SeedUser],
        due: Iterable[SeedUser],
        yields: Yields,
        room: int,
        is_enough: Callable[[], bool] = lambda: False,
    ) -> None:
        self.yields = yields
        self.is_enough = is_enough
        self.room = room
        self.taken: list[SeedUser] = []
        self._waiting: dict[UserGroup, deque[SeedUser]] = {}
        self._groups: dict[int | str, UserGroup] = {}
        self._pending = Counter[UserGroup]()
        for users, again in ((new, False), (due, True)):
            for user in users:
                self._waiting.setdefault(group_of(user, again=again), deque()).append(user)

    def __len__(self) -> int:
        """Return the number of users that are still to be read, if no more stars are needed than they have."""
        again = sum(len(users) for group, users in self._waiting.items() if group.source == AGAIN)
        return again + min(self.room, sum(map(len, self._waiting.values())) - again)

    def __iter__(self) -> Iterator[SeedUser]:
        while groups := self._open_groups():
            group = self.yields.best(groups, self._pending)
            users = self._waiting[group]
            for _ in range(min(USERS_AT_ONCE, len(users))):
                if group.source != AGAIN:
                    if not self._takes_new():
                        break
                    self.room -= 1
                user = users.popleft()
                self.taken.append(user)
                self._groups[user.key] = group
                self._pending[group] += 1
                yield user

    def _takes_new(self) -> bool:
        return self.room > 0 and not self.is_enough()

    def _open_groups(self) -> list[UserGroup]:
        takes_new = self._takes_new()
        return [group for group, users in self._waiting.items() if users and (takes_new or group.source == AGAIN)]

    def learn(self, user: SeedUser, stars: int | None, pages: int) -> None:
        """Take over what a user's list has given.

        Parameters
        ----------
        user : SeedUser
        stars : int or None
            New stars on wanted repositories; None if the list could not be read.
        pages : int
            Pages that were read.
        """
        group = self._groups.pop(user.key, None)
        if group is None:
            return
        self._pending[group] -= 1
        if stars is not None:
            self.yields.add(group, stars, max(1, pages))
