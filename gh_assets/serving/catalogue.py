"""What is known of repositories besides their stars: who owns them, what they are about, what they are forks of."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.recommender.data.interactions import Csr, positions_of
from gh_assets.recommender.evaluation.metrics import best_items
from gh_assets.serving.requests import Filters

TOPIC, LANGUAGE = 3.0, 1.0
"""How often a topic and the language count for once that a word of the description does."""

MIN_SIMILARITY = 0.1
"""Cosine below which two repositories have nothing to do with each other."""


DESCRIBED = ("full_name", "description", "language", "topics", "stargazer_count", "archived", "pushed_at")

CHUNK_ROWS = 256
"""Repositories that are compared with all others at once."""


@dataclass(frozen=True)
class Description:
    """What an owner says of a repository.

    Attributes
    ----------
    stars : int or None
        By GitHub's own count.
    """

    full_name: str
    description: str | None = None
    language: str | None = None
    topics: Sequence[str] = ()
    stars: int | None = None
    archived: bool = False
    pushed_at: dt.datetime | None = None


@dataclass(frozen=True)
class Neighbour:
    """A repository that is about the same."""

    repo_id: int
    full_name: str
    likeness: float


class Catalogue:
    """Repositories by what their owners say of them.

    Parameters
    ----------
    repos : polars.DataFrame
        Of schema ``REPOS``; rows without an id are left out.
    """

    def __init__(self, repos: pl.DataFrame) -> None:
        table = repos.drop_nulls("repo_id").unique("repo_id", keep="first").sort("repo_id")
        self.repo_ids = table["repo_id"].to_numpy()
        self.full_names: Sequence[str] = table["full_name"].to_list()
        self.archived = table["archived"].fill_null(value=False).to_numpy()
        self.fork_of = table["fork_of"].fill_null(-1).to_numpy()
        self._table = table
        self._descriptions: dict[int, Description] = {}

    def __len__(self) -> int:
        return len(self.repo_ids)

    def places(self, repo_ids: Collection[int]) -> NDArray[np.int64]:
        """Rows of repositories, -1 for those that are not in the catalogue."""
        wanted = np.fromiter(repo_ids, np.int64, len(repo_ids))
        return positions_of(wanted, self.repo_ids)

    def describe(self, repo_id: int) -> Description | None:
        """What is known of a repository."""
        row = int(self.places([repo_id])[0])
        return None if row < 0 else self._described(row)

    def describe_all(self, repo_ids: Sequence[int]) -> list[Description | None]:
        """What is known of several repositories."""
        return [None if row < 0 else self._described(row) for row in self.places(repo_ids).tolist()]

    def _described(self, row: int) -> Description:
        kept = self._descriptions.get(row)
        if kept is None:
            name, description, language, topics, stars, archived, pushed = (
                self._columns[column][row] for column in DESCRIBED
            )
            kept = Description(name, description, language, tuple(topics or ()), stars, bool(archived), pushed)
            self._descriptions[row] = kept
        return kept

    @cached_property
    def _columns(self) -> Mapping[str, list[Any]]:
        return {name: self._table[name].to_list() for name in DESCRIBED}

    @cached_property
    def languages(self) -> list[tuple[str, int]]:
        """Main languages and how many repositories have each, most first."""
        counted = self._table["language"].drop_nulls().value_counts()
        return list(counted.sort(["count", "language"], descending=[True, False]).iter_rows())

    def search(self, text: str, n: int) -> list[int]:
        """Ids of repositories whose name has a text in it, in any case: of those that begin with it first, by stars."""
        wanted = text.lower().strip()
        if not wanted:
            return []
        names = self._lower_names
        hits = np.flatnonzero(np.char.find(names, wanted) >= 0)
        if len(hits) == 0:
            return []
        begins = np.char.startswith(names[hits], wanted) | np.char.startswith(self._short_names[hits], wanted)
        order = np.lexsort((hits, -self._stars[hits], ~begins))[:n]
        return self.repo_ids[hits[order]].tolist()  # type: ignore[no-any-return]

    @cached_property
    def _lower_names(self) -> NDArray[np.str_]:
        return np.char.lower(np.array(self.full_names, np.str_))

    @cached_property
    def _short_names(self) -> NDArray[np.str_]:
        return np.array([name.partition("/")[2] for name in self._lower_names.tolist()], np.str_)

    @cached_property
    def _stars(self) -> NDArray[np.int64]:
        return self._table["stargazer_count"].fill_null(-1).to_numpy()

    def passing(self, filters: Filters) -> NDArray[np.bool_]:
        """Rows that pass filters, whoever asks."""
        found = np.ones(len(self), bool)
        if filters.archived != "yes":
            found &= self.archived == (filters.archived == "only")
        if filters.language:
            found &= self._coded[0] == self._coded[1].get(filters.language.lower(), -1)
        for topic in filters.topics:
            having = np.zeros(len(self), bool)
            having[self._by_topic.get(topic.lower(), [])] = True
            found &= having
        if filters.owner:
            owned = np.zeros(len(self), bool)
            owned[self._owned.get(filters.owner.lower(), [])] = True
            found &= owned
        if filters.min_stars is not None:
            found &= self._stars >= max(filters.min_stars, 0)
        if filters.max_stars is not None:
            found &= (self._stars <= filters.max_stars) & (self._stars >= 0)
        return found

    @cached_property
    def _coded(self) -> tuple[NDArray[np.int64], Mapping[str, int]]:
        codes: dict[str, int] = {}
        languages = [(language or "").lower() for language in self._columns["language"]]
        return np.array([codes.setdefault(language, len(codes)) for language in languages], np.int64), codes

    @cached_property
    def _by_topic(self) -> Mapping[str, list[int]]:
        found: dict[str, list[int]] = {}
        for row, topics in enumerate(self._columns["topics"]):
            for topic in topics or ():
                found.setdefault(topic.lower(), []).append(row)
        return found

    # -- what they are about -----------------------------------------------------------------------------------------

    @cached_property
    def content(self) -> Csr:
        """TF-IDF of topics, language and words of name and description; rows of length 1 (repositories, terms)."""
        return self._vectors(self._described(row) for row in range(len(self)))

    @cached_property
    def _terms(self) -> tuple[Mapping[str, int], NDArray[np.float32]]:
        """Columns of terms, and how much each says: the rarer, the more."""
        terms: dict[str, int] = {}
        seen: list[int] = []
        for row in range(len(self)):
            seen += [terms.setdefault(term, len(terms)) for term in _counts(self._described(row))]
        frequency = np.bincount(np.array(seen, np.int64), minlength=max(len(terms), 1))
        return terms, np.log((1 + len(self)) / (1 + frequency)).astype(np.float32)

    def _vectors(self, descriptions: Iterable[Description]) -> Csr:
        terms, rarity = self._terms
        ends, columns, weights = [0], [], []
        for description in descriptions:
            for term, count in _counts(description).items():
                if term in terms:
                    columns.append(terms[term])
                    weights.append(1.0 + np.log(count) if count > 1 else count)
            ends.append(len(columns))
        places = np.array(columns, np.int64)
        data = np.array(weights, np.float32) * rarity[places]
        matrix: Csr = sp.csr_array((data, places, np.array(ends)), shape=(len(ends) - 1, len(rarity)))
        lengths = np.sqrt(np.maximum(matrix.multiply(matrix).sum(axis=1), 1e-12)).astype(np.float32)
        matrix.data /= np.repeat(lengths, np.diff(matrix.indptr))
        return matrix

    def _vector(self, repository: int | Description) -> Csr:
        """One row; empty, if the catalogue does not hold the repository."""
        if isinstance(repository, Description):
            return self._vectors([repository])
        row = int(self.places([repository])[0])
        return self._vectors([]) if row < 0 else self.content[[row]]

    def shared(self, one: int | Description, other: int, most: int = 4) -> list[str]:
        """Topics, words and the language that two repositories have both, those that say most first."""
        both = self._vector(one), self._vector(other)
        if not all(vector.shape[0] for vector in both):
            return []
        product = both[0].multiply(both[1]).tocsr()
        order = np.argsort(-product.data, kind="stable")[:most]
        return [self._term_names[column].removeprefix("language:") for column in product.indices[order].tolist()]

    @cached_property
    def _term_names(self) -> list[str]:
        return list(self._terms[0])

    def neighbours(self, repo_id: int, among: NDArray[np.int64], k: int = 5) -> list[Neighbour]:
        """Those of one repository; see `neighbours_of`."""
        return self.neighbours_of([repo_id], among, k)[0]

    def neighbours_of(
        self, repositories: Sequence[int | Description], among: NDArray[np.int64], k: int = 5
    ) -> list[list[Neighbour]]:
        """For each of some repositories those among others that are most alike in topics, language and description.

        Parameters
        ----------
        repositories : sequence of int or Description
            Ids; or what is known of repositories that are not in the catalogue.
        among : ndarray of int64
            Ids to choose from, such as those that a model knows.
        k : int

        Returns
        -------
        list of list of Neighbour
            Most alike first; fewer, or none, where nothing is alike.
        """
        if not repositories:
            return []
        candidates = self.places(among.tolist())
        candidates = candidates[candidates >= 0]
        content = self.content[candidates].T.tocsr()
        found: list[list[Neighbour]] = []
        for start in range(0, len(repositories), CHUNK_ROWS):
            some = repositories[start : start + CHUNK_ROWS]
            rows = [self._vector(one) for one in some]
            own = self.places([one if isinstance(one, int) else -1 for one in some])
            there = np.array([row.shape[0] > 0 for row in rows])
            likeness = np.zeros((len(some), len(candidates)), np.float32)
            if there.any():
                likeness[there] = (sp.vstack([row for row in rows if row.shape[0]], "csr") @ content).toarray()
            likeness[(candidates[None, :] == own[:, None]) & there[:, None]] = 0.0  # nothing is its own neighbour
            items, values = best_items(likeness, k)
            found += [
                [
                    Neighbour(int(self.repo_ids[row]), self.full_names[row], float(value))
                    for row, value in zip(candidates[places[near]], comparable_score[near], strict=True)
                ]
                for places, comparable_score, near in zip(
                    items, values, (values >= MIN_SIMILARITY) & (items >= 0), strict=True
                )
            ]
        return found

    # -- what is not to be recommended -------------------------------------------------------------------------------

    def related(self, login: str | None, filters: Filters, starred: NDArray[np.int64]) -> NDArray[np.int64]:
        """What a person owns, and forks and origins of what the person starred, unless it is wanted.

        Parameters
        ----------
        login : str or None
            None: of nobody in particular.
        filters : Filters
            What the person wants to see.
        starred : ndarray of int64
            What the person starred: rows of the catalogue; -1 for those that it does not hold.

        Returns
        -------
        ndarray of int64
            Rows of the catalogue.
        """
        found: list[int] = []
        if login and not filters.own:
            found += self._owned.get(login.lower(), ())
        if not filters.forks and self._forks:
            for row in starred[self._in_forks[starred] & (starred >= 0)].tolist():
                found += self._forks[row]
        return np.array(found, np.int64)

    @cached_property
    def _owned(self) -> Mapping[str, list[int]]:
        owned: dict[str, list[int]] = {}
        for place, name in enumerate(self.full_names):
            owned.setdefault(name.partition("/")[0].lower(), []).append(place)
        return owned

    @cached_property
    def _forks(self) -> Mapping[int, list[int]]:
        """For each row those that are forks of it, and what it is a fork of."""
        origins = self.places(self.fork_of.tolist())
        found: dict[int, list[int]] = {}
        for fork in np.flatnonzero(origins >= 0).tolist():
            origin = int(origins[fork])
            found.setdefault(fork, []).append(origin)
            found.setdefault(origin, []).append(fork)
        return found

    @cached_property
    def _in_forks(self) -> NDArray[np.bool_]:
        """Rows that `_forks` has; one more at the end, for rows of -1."""
        there = np.zeros(len(self) + 1, bool)
        there[list(self._forks)] = True
        return there


def _counts(described: Description) -> Mapping[str, float]:
    """How often each term is in a description; topics count for several words."""
    counts: dict[str, float] = {}
    for word in _tokens(f"{described.full_name.partition('/')[2]} {described.description or ''}"):
        counts[word] = counts.get(word, 0.0) + 1.0
    if described.language:
        counts[f"language:{described.language.lower()}"] = LANGUAGE
    for topic in described.topics:
        counts[topic.lower()] = counts.get(topic.lower(), 0.0) + TOPIC
    return counts


def _tokens(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W_]{2,}", text.lower()) if word not in COMMON]


COMMON = frozenset(
    """the and for with from that this your you are not but can has have its into using use via all any one more an of
    in on to by as is it or be at""".split()  # noqa: SIM905 - a list of words is read more easily as words
)
