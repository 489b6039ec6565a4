"""How far a list of stars is read, newest first, and whether it is complete: for repositories' and users' lists.

Independent of responses and tables: an entry is an id and a time, or None if it is of no use.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

Identity = tuple[int, Any]
"""Id of the user or of the repository, and time of the star."""

MAX_PLAUSIBLE_NULLS = 3
"""Entries without a user that are plausible in any list; more are only if they are not most of it."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of a list of stars is known.

    Attributes
    ----------
    complete : bool
        Whether it was read to its end. A result is complete only if it is proven, too.
    proven : bool
        Whether everything that was requested is known: no response failed, and a list that was read to its end agrees
        with GitHub's count. A list that is not proven is read again.
    entries, null_entries, failed_entries : int
        Entries of the list, those of these without a user or repository (such as deleted accounts), and those that
        GitHub could not return.
    """

    complete: bool = False
    proven: bool = False
    entries: int = 0
    null_entries: int = 0
    failed_entries: int = 0


NOTHING_KNOWN = Coverage()


def coverage_fields(known: object) -> dict[str, Any]:
    """Return the fields of `Coverage` that an object has, to make another one of them."""
    return {field.name: getattr(known, field.name) for field in fields(Coverage)}


@dataclass
class Progress:
    """The entries of a list that were read, until a known one is met.

    Attributes
    ----------
    limit : int
        Number of entries to read at most.
    known : frozenset of (int, time)
        Entries of an earlier run: reading may end where one of them is met.
    before : Coverage
        What the earlier run knew of the list.
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
    before: Coverage = NOTHING_KNOWN
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

    def coverage(self, *, to_its_end: bool, problem: str | None = None) -> Coverage:
        """Return what is known of the list now; repeated entries and stars given again count once.

        Parameters
        ----------
        to_its_end : bool
            Whether the list was read to its end, now or (as far as known entries go) in an earlier run. Then the count
            has to agree with GitHub's, which may change while pages are read: it has to lie between its bounds.
        problem : str, optional
            Why nothing is proven, whatever the counts are.
        """
        count, nulls, failed = len(self.ids) + self.nulls + self.failed, self.nulls, self.failed
        if self.met:
            count += self.before.entries - len(self.ids & {entry[0] for entry in self.known})
            nulls, failed = nulls + self.before.null_entries, failed + self.before.failed_entries
        proven = problem is None and are_null_entries_plausible(nulls, count, self.before.null_entries)
        if self.totals and to_its_end:
            proven = proven and min(self.totals) <= count <= max(self.totals)
        elif self.totals:
            proven = proven and (self.met or count >= min(self.limit, *self.totals))
        return Coverage(complete=to_its_end, proven=proven, entries=count, null_entries=nulls, failed_entries=failed)


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
