"""What is known of repositories besides their stars: who owns them, what they are about, what they are forks of."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.recommender.interactions import Csr, positions_of

TOPIC, LANGUAGE = 3.0, 1.0
"""How often a topic and the language count for once that a word of the description does."""

ALIKE = 0.1
"""Cosine below which two repositories have nothing to do with each other."""


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

    def __len__(self) -> int:
        return len(self.repo_ids)

    def places(self, repo_ids: Collection[int]) -> NDArray[np.int64]:
        """Rows of repositories, -1 for those that are not in the catalogue."""
        wanted = np.fromiter(repo_ids, np.int64, len(repo_ids))
        return positions_of(wanted, self.repo_ids)

    @cached_property
    def content(self) -> Csr:
        """TF-IDF of topics, language and words of name and description; rows of length 1 (repositories, terms)."""
        terms: dict[str, int] = {}
        rows, columns, weights = [], [], []
        texts = self._table.select("full_name", "description", "language", "topics").iter_rows()
        for row, (name, description, language, topics) in enumerate(texts):
            counts: dict[str, float] = {}
            for word in _words(f"{name.partition('/')[2]} {description or ''}"):
                counts[word] = counts.get(word, 0.0) + 1.0
            if language:
                counts[f"language:{language.lower()}"] = LANGUAGE
            for topic in topics or ():
                counts[topic.lower()] = counts.get(topic.lower(), 0.0) + TOPIC
            for term, count in counts.items():
                rows.append(row)
                columns.append(terms.setdefault(term, len(terms)))
                weights.append(1.0 + np.log(count) if count > 1 else count)
        matrix = sp.csr_array((np.array(weights, np.float32), (rows, columns)), shape=(len(self), max(len(terms), 1)))
        frequency = np.bincount(matrix.indices, minlength=matrix.shape[1])
        rarity = np.log((1 + len(self)) / (1 + frequency)).astype(np.float32)
        matrix.data *= rarity[matrix.indices]
        lengths = np.sqrt(np.maximum(matrix.multiply(matrix).sum(axis=1), 1e-12)).astype(np.float32)
        matrix.data /= np.repeat(lengths, np.diff(matrix.indptr))
        return matrix

    def neighbours(self, repo_id: int, among: NDArray[np.int64], k: int = 5) -> list[Neighbour]:
        """Those of one repository; see `neighbours_of`."""
        return self.neighbours_of([repo_id], among, k)[0]

    def neighbours_of(self, repo_ids: Sequence[int], among: NDArray[np.int64], k: int = 5) -> list[list[Neighbour]]:
        """For each of some repositories those among others that are most alike in topics, language and description.

        Parameters
        ----------
        repo_ids : sequence of int
        among : ndarray of int64
            Ids to choose from, such as those that a model knows.
        k : int

        Returns
        -------
        list of list of Neighbour
            Most alike first; fewer, or none, where nothing is alike.
        """
        candidates = self.places(among.tolist())
        candidates = candidates[candidates >= 0]
        content = self.content[candidates]
        found: list[list[Neighbour]] = []
        for row in self.places(repo_ids).tolist():
            if row < 0:
                found.append([])
                continue
            likeness = (content @ self.content[[row]].T).toarray().ravel()
            likeness[candidates == row] = 0.0  # nothing is its own neighbour
            best = np.argsort(-likeness, kind="stable")[:k]
            found.append(
                [
                    Neighbour(int(self.repo_ids[place]), self.full_names[place], float(value))
                    for place, value in zip(candidates[best], likeness[best], strict=True)
                    if value >= ALIKE
                ]
            )
        return found

    def unwanted(
        self,
        logins: Sequence[str | None],
        starred: Csr,
        *,
        own: bool = True,
        forks: bool = True,
        archived: bool = True,
    ) -> Csr:
        """What is not to be recommended to whom.

        Parameters
        ----------
        logins : sequence of str or None
            Of people; None: of nobody in particular.
        starred : scipy.sparse CSR, shape (people, repositories)
            What they starred, in the rows of the catalogue.
        own : bool
            Leave out what a person owns.
        forks : bool
            Leave out forks of what a person starred, and what those are forks of.
        archived : bool
            Leave out what its owner made read-only.

        Returns
        -------
        scipy.sparse CSR, shape (people, repositories)
        """
        hidden: Csr = sp.csr_array(starred.shape, dtype=np.float32)
        if own:
            pairs = [
                (row, place) for row, login in enumerate(logins) for place in self._owned.get((login or "").lower(), ())
            ]
            rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
            hidden = hidden + sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=starred.shape)
        if forks:
            hidden = hidden + starred @ self._forks
        if archived:
            closed = np.flatnonzero(self.archived)
            rows = np.repeat(np.arange(starred.shape[0]), len(closed))
            columns = np.tile(closed, starred.shape[0])
            hidden = hidden + sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=starred.shape)
        result: Csr = sp.csr_array(hidden)
        return result

    @cached_property
    def _owned(self) -> Mapping[str, list[int]]:
        owned: dict[str, list[int]] = {}
        for place, name in enumerate(self.full_names):
            owned.setdefault(name.partition("/")[0].lower(), []).append(place)
        return owned

    @cached_property
    def _forks(self) -> Csr:
        """Ones where one is a fork of the other, either way."""
        origins = self.places(self.fork_of.tolist())
        forks = np.flatnonzero(origins >= 0)
        related = sp.csr_array((np.ones(len(forks), np.float32), (forks, origins[forks])), shape=(len(self), len(self)))
        both: Csr = sp.csr_array(related + related.T)
        return both


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W_]{2,}", text.lower()) if word not in COMMON]


COMMON = frozenset(
    """the and for with from that this your you are not but can has have its into using use via all any one more an of
    in on to by as is it or be at""".split()  # noqa: SIM905 - a list of words is read more easily as words
)
