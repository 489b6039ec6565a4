"""How far a list of stars is read, newest first, and whether it is whole: for repositories' lists and users' lists.

Knows neither GitHub's answers nor tables: an entry is an id and a time, or nothing that can be used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Identity = tuple[int, Any]
"""Id of the user, or of the repository, and when the star was given."""

MAX_PLAUSIBLE_NULLS = 3
"""So many entries without a user are believed of any list; more only if they are not most of it."""


@dataclass
class Progress:
    """The entries of a list that were read, until one is met that is known.

    Attributes
    ----------
    limit : int
        Entries that are wanted.
    known : frozenset of (int, time)
        Entries that are known: reading may end where one is met.
    known_entries, known_nulls, known_failed : int
        Entries of the list as it was known, and of these those without anything to use, and those that GitHub failed
        on each time.
    entries : int
        Read, on all pages.
    ids : set of int
        Of the entries that come before what is known.
    nulls, failed : int
        Of these entries: without anything to use, and those that GitHub failed on.
    totals : list of int
        GitHub's counts, one a page.
    met : bool
        Whether an entry was met that is known.
    """

    limit: int
    known: frozenset[Identity] = frozenset()
    known_entries: int = 0
    known_nulls: int = 0
    known_failed: int = 0
    entries: int = 0
    ids: set[int] = field(default_factory=set)
    nulls: int = 0
    failed: int = 0
    totals: list[int] = field(default_factory=list)
    met: bool = False

    def add(self, page: Sequence[Identity | None], *, total: int | None = None, failed: Collection[int] = ()) -> None:
        """Take in a page.

        Parameters
        ----------
        page : sequence of (int, time) or None
            None for an entry without anything to use.
        total : int, optional
            GitHub's count of the whole list.
        failed : collection of int
            Places of entries that GitHub failed on.
        """
        self.entries += len(page)
        self.totals += [] if total is None else [total]
        new = page
        if self.known:
            end = next((place for place, entry in enumerate(page) if entry in self.known), len(page))
            self.met, new = end < len(page), page[:end]
        self.ids.update(entry[0] for entry in new if entry is not None)
        lost = sum(place < len(new) for place in failed)
        self.failed += lost
        self.nulls += sum(entry is None for entry in new) - lost

    @property
    def ended(self) -> bool:
        """Whether no more has to be read."""
        return self.met or self.entries >= self.limit

    @property
    def null_entries(self) -> int:
        """Entries of the list without anything to use, known ones included."""
        return self.nulls + (self.known_nulls if self.met else 0)

    @property
    def failed_entries(self) -> int:
        """Entries that GitHub failed on, known ones included."""
        return self.failed + (self.known_failed if self.met else 0)

    @property
    def count(self) -> int:
        """Entries of the list, as far as it is known now: what came twice, or was given again, counts once."""
        read = len(self.ids) + self.nulls + self.failed
        if not self.met:
            return read
        given_again = len(self.ids & {entry[0] for entry in self.known})
        return self.known_entries + read - given_again

    def is_proven(self, *, to_its_end: bool) -> bool:
        """Whether what is known is all that was asked for.

        Parameters
        ----------
        to_its_end : bool
            Whether the list was read to its end, now or (the part that was met) before: then the count has to agree
            with GitHub's. It may move while pages are read; between its bounds nothing is missing.
        """
        if not are_null_entries_plausible(self.null_entries, self.count, self.known_nulls):
            return False
        if not self.totals:
            return True
        if to_its_end:
            return min(self.totals) <= self.count <= max(self.totals)
        return self.met or self.count >= min(self.limit, *self.totals)


def are_null_entries_plausible(nulls: int, count: int, known: int = 0) -> bool:
    """Whether so many of a list's entries can be deleted accounts: else its answers were broken without a word."""
    return nulls <= max(MAX_PLAUSIBLE_NULLS, known) or 2 * nulls <= count


def by_position(identities: Iterable[Identity], places: Sequence[int], size: int) -> list[Identity | None]:
    """A page of `size` entries of which those at `places` have identities."""
    page: list[Identity | None] = [None] * size
    for place, identity in zip(places, identities, strict=True):
        page[place] = identity
    return page


def number_of(value: object) -> int | None:
    """An id of GitHub's; None if it is none: a text, a bool, not positive, or of more than 63 bits."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value < 2**63 else None  # type: ignore[operator,return-value]
