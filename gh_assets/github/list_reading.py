"""How far a list of stars is read, newest first, and whether it is complete: for repositories' and users' lists.

Independent of responses and tables: an entry is an id and a time, or None if it is of no use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Identity = tuple[int, Any]
"""Id of the user or of the repository, and time of the star."""

MAX_PLAUSIBLE_NULLS = 3
"""Entries without a user that are plausible in any list; more are only if they are not most of it."""


@dataclass
class Progress:
    """The entries of a list that were read, until a known one is met.

    Attributes
    ----------
    limit : int
        Number of entries to read at most.
    known : frozenset of (int, time)
        Entries of an earlier run: reading may end where one of them is met.
    known_entries, known_nulls, known_failed : int
        Number of entries of the earlier list; of these, those that are null, and those that GitHub kept failing on.
    entries : int
        Number of entries on all pages.
    ids : set of int
        Ids of the entries before the first known one.
    nulls, failed : int
        Of the entries before the first known one: those that are null, and those that GitHub failed on.
    totals : list of int
        GitHub's count of the list, on each page.
    met : bool
        Whether a known entry was met.
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
        """Add a page.

        Parameters
        ----------
        page : sequence of (int, time) or None
            None for an entry without a user or repository.
        total : int, optional
            GitHub's count of the whole list.
        failed : collection of int
            Positions of entries that GitHub failed on.
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
        """Whether reading may end."""
        return self.met or self.entries >= self.limit

    @property
    def null_entries(self) -> int:
        """Number of null entries of the list, including known ones."""
        return self.nulls + (self.known_nulls if self.met else 0)

    @property
    def failed_entries(self) -> int:
        """Number of entries that GitHub failed on, including known ones."""
        return self.failed + (self.known_failed if self.met else 0)

    @property
    def count(self) -> int:
        """Number of entries of the list as it is known now; repeated entries and stars given again count once."""
        read = len(self.ids) + self.nulls + self.failed
        if not self.met:
            return read
        given_again = len(self.ids & {entry[0] for entry in self.known})
        return self.known_entries + read - given_again

    def is_proven(self, *, to_its_end: bool) -> bool:
        """Whether the known entries are all that were requested.

        Parameters
        ----------
        to_its_end : bool
            Whether the list was read to its end, now or (as far as known entries go) in an earlier run. Then the count
            has to agree with GitHub's, which may change while pages are read: it has to lie between its bounds.
        """
        if not are_null_entries_plausible(self.null_entries, self.count, self.known_nulls):
            return False
        if not self.totals:
            return True
        if to_its_end:
            return min(self.totals) <= self.count <= max(self.totals)
        return self.met or self.count >= min(self.limit, *self.totals)


def are_null_entries_plausible(nulls: int, count: int, known: int = 0) -> bool:
    """Whether null entries can all be deleted accounts; otherwise responses were damaged without an error."""
    return nulls <= max(MAX_PLAUSIBLE_NULLS, known) or 2 * nulls <= count


def by_position(identities: Iterable[Identity], places: Sequence[int], size: int) -> list[Identity | None]:
    """Return a page of `size` entries, with identities at `places` and None elsewhere."""
    page: list[Identity | None] = [None] * size
    for place, identity in zip(places, identities, strict=True):
        page[place] = identity
    return page


def number_of(value: object) -> int | None:
    """Return a value if it is a valid id, a positive integer of at most 63 bits; otherwise None."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value < 2**63 else None  # type: ignore[operator,return-value]
