"""A catalogue of repositories: descriptions, owners, forks, and similarity in content."""

import datetime as dt
import re
from collections import Counter, defaultdict
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
"""Term counts of a topic and of the language; a word of the description counts 1."""

MIN_SIMILARITY = 0.1
"""Cosine of TF-IDF vectors below which two repositories are unrelated."""

MIN_EMBEDDING_SIMILARITY = 0.3
"""Cosine of sentence embeddings below which two repositories are unrelated."""

DESCRIBED = ("full_name", "description", "language", "topics", "stargazer_count", "archived", "pushed_at")

CHUNK_ROWS = 256
"""Repositories per matrix product."""

FEW = 4
"""Repositories up to which all vectors are multiplied, not those of the candidates alone."""


@dataclass(frozen=True)
class Description:
    """The metadata of a repository.

    Attributes
    ----------
    stars : int or None
        GitHub's star count.
    """

    full_name: str
    description: str | None = None
    language: str | None = None
    topics: Sequence[str] = ()
    stars: int | None = None
    archived: bool = False
    pushed_at: dt.datetime | None = None

    @cached_property
    def as_json(self) -> dict[str, Any]:
        """The JSON fields that describe the repository."""
        return {
            "description": self.description,
            "language": self.language,
            "topics": list(self.topics),
            "stars": self.stars,
            "archived": self.archived,
            "pushed_at": None if self.pushed_at is None else self.pushed_at.isoformat(),
        }


@dataclass(frozen=True)
class Neighbour:
    """A similar repository; `likeness` is the cosine."""

    repo_id: int
    full_name: str
    likeness: float


class Catalogue:
    """Repositories and their metadata.

    Parameters
    ----------
    repos : polars.DataFrame
        A table with schema ``REPOS``; rows without an id are left out.
    embeddings : polars.DataFrame, optional
        A table with schema ``REPO_EMBEDDINGS``. A repository that has a vector is compared in content with those that
        have one, by sentence embeddings; all others are compared by TF-IDF.

    Attributes
    ----------
    embedded : ndarray of bool
        Mask of the rows that have a vector.
    embeddings : ndarray of float32
        The vectors, zeros where there is none; no rows if none has one.
    """

    def __init__(self, repos: pl.DataFrame, embeddings: pl.DataFrame | None = None) -> None:
        table = repos.drop_nulls("repo_id").unique("repo_id", keep="first").sort("repo_id")
        self.repo_ids = table["repo_id"].to_numpy()
        self.full_names: Sequence[str] = table["full_name"].to_list()
        self.archived = table["archived"].fill_null(value=False).to_numpy()
        self.fork_of = table["fork_of"].fill_null(-1).to_numpy()
        self._table = table
        self._descriptions: dict[int, Description] = {}
        self.embedded = np.zeros(len(table), bool)
        self.embeddings = np.zeros((0, 0), np.float32)
        if embeddings is not None and len(table) and embeddings.height:
            self._add(embeddings)

    def _add(self, embeddings: pl.DataFrame) -> None:
        rows = self.places(embeddings["repo_id"].to_list())
        vectors = embeddings["vector"].to_numpy()
        self.embeddings = np.zeros((len(self), vectors.shape[1]), np.float32)
        self.embeddings[rows[rows >= 0]] = vectors[rows >= 0]
        self.embedded[rows[rows >= 0]] = True

    def __len__(self) -> int:
        return len(self.repo_ids)

    def places(self, repo_ids: Collection[int]) -> NDArray[np.int64]:
        """Return the rows of repositories; -1 for those that are not in the catalogue."""
        return positions_of(np.fromiter(repo_ids, np.int64, len(repo_ids)), self.repo_ids)

    def describe(self, repo_id: int) -> Description | None:
        """Return the metadata of a repository."""
        return self.describe_all([repo_id])[0]

    def describe_all(self, repo_ids: Sequence[int]) -> list[Description | None]:
        """Return the metadata of several repositories."""
        return [None if row < 0 else self._described(row) for row in self.places(repo_ids).tolist()]

    def _described(self, row: int) -> Description:
        description = self._descriptions.get(row)
        if description is None:
            name, text, language, topics, stars, archived, pushed = (self._columns[column][row] for column in DESCRIBED)
            description = Description(name, text, language, tuple(topics or ()), stars, bool(archived), pushed)
            self._descriptions[row] = description
        return description

    @cached_property
    def _columns(self) -> Mapping[str, list[Any]]:
        return {name: self._table[name].to_list() for name in DESCRIBED}

    @cached_property
    def languages(self) -> list[tuple[str, int]]:
        """Main languages with their numbers of repositories, most frequent first."""
        counted = self._table["language"].drop_nulls().value_counts()
        return list(counted.sort(["count", "language"], descending=[True, False]).iter_rows())

    def search(self, text: str, n: int) -> list[tuple[int, Description]]:
        """Return ids and metadata of repositories whose name contains a text (case-insensitive).

        Names that begin with the text come first; within both groups, the order is by stars.
        """
        part = text.lower().strip()
        if not part:
            return []
        names = self._lower_names
        hits = np.flatnonzero(np.char.find(names, part) >= 0)
        begins = np.char.startswith(names[hits], part) | np.char.startswith(self._short_names[hits], part)
        rows = hits[np.lexsort((hits, -self._stars[hits], ~begins))[:n]]
        return [(int(self.repo_ids[row]), self._described(row)) for row in rows.tolist()]

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
        """Return a mask of the rows that pass the filters which do not depend on the user."""
        passing = np.ones(len(self), bool)
        if filters.archived != "yes":
            passing &= self.archived == (filters.archived == "only")
        required = [*((self._by_topic, topic) for topic in filters.topics)]
        required += [(self._by_language, filters.language)] if filters.language else []
        required += [(self._by_owner, filters.owner)] if filters.owner else []
        for rows_of, value in required:
            having = np.zeros(len(self), bool)
            having[rows_of.get(value.lower(), [])] = True
            passing &= having
        if filters.min_stars is not None:
            passing &= self._stars >= max(filters.min_stars, 0)
        if filters.max_stars is not None:
            passing &= (self._stars <= filters.max_stars) & (self._stars >= 0)
        return passing

    @cached_property
    def _by_language(self) -> Mapping[str, list[int]]:
        return _rows_by_value([language] if language else () for language in self._columns["language"])

    @cached_property
    def _by_topic(self) -> Mapping[str, list[int]]:
        return _rows_by_value(topics or () for topics in self._columns["topics"])

    @cached_property
    def _by_owner(self) -> Mapping[str, list[int]]:
        return _rows_by_value([name.partition("/")[0]] for name in self.full_names)

    # -- content ----------------------------------------------------------------------------------------------------

    @property
    def content_model(self) -> str:
        """Which representation of contents is compared, for people."""
        embedded = int(self.embedded.sum())
        if not embedded:
            return "TF-IDF"
        others = len(self) - embedded
        return "sentence embeddings" + (f"; TF-IDF for {others:,} repositories without one" if others else "")

    @cached_property
    def content(self) -> Csr:
        """TF-IDF vectors of topics, language, name and description, of unit length, shape (repositories, terms)."""
        return self._vectors(self._described(row) for row in range(len(self)))

    @cached_property
    def _terms(self) -> tuple[Mapping[str, int], NDArray[np.float32]]:
        """Columns of the terms, and their inverse document frequencies."""
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
        """Return one row; no row if the repository is not in the catalogue."""
        if isinstance(repository, Description):
            return self._vectors([repository])
        row = int(self.places([repository])[0])
        return self._vectors([]) if row < 0 else self.content[[row]]

    def shared(self, one: int | Description, other: int, n: int = 4) -> list[str]:
        """Return at most `n` topics, words and languages that two repositories share, most significant first."""
        both = self._vector(one), self._vector(other)
        if not all(vector.shape[0] for vector in both):
            return []
        product = both[0].multiply(both[1]).tocsr()
        order = np.argsort(-product.data, kind="stable")[:n]
        return [self._term_names[column].removeprefix("language:") for column in product.indices[order].tolist()]

    @cached_property
    def _term_names(self) -> list[str]:
        return list(self._terms[0])

    def neighbours_of(
        self, repositories: Sequence[int | Description], among: NDArray[np.int64], k: int = 5
    ) -> list[list[Neighbour]]:
        """Return the repositories that are most similar in name, topics, language and description.

        Parameters
        ----------
        repositories : sequence of int or Description
            Ids, or the metadata of repositories that are not in the catalogue.
        among : ndarray of int64
            Ids of the candidates, such as those that a model knows.
        k : int

        Returns
        -------
        list of list of Neighbour
            At most `k` for each repository, most similar first, with a cosine of at least `MIN_SIMILARITY`, or
            `MIN_EMBEDDING_SIMILARITY` for a repository that has a sentence embedding.
        """
        if not repositories:
            return []
        candidates = self.places(among.tolist())
        candidates = candidates[candidates >= 0]
        own = self.places([repository if isinstance(repository, int) else -1 for repository in repositories])
        embedded = (own >= 0) & self.embedded[own] if len(self) else np.zeros(len(own), bool)
        # Without a repository that needs it, the catalogue's TF-IDF is not computed.
        content = None if embedded.all() else self.content[candidates].T.tocsr()
        # For a few repositories, a product with all vectors costs less than a copy of the candidates' vectors.
        is_copied = bool(embedded.any()) and len(own) > FEW
        vectors = self.embeddings[candidates] if is_copied else self.embeddings
        neighbours: list[list[Neighbour]] = []
        for start in range(0, len(repositories), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            dense = embedded[chunk]
            likeness = np.zeros((len(dense), len(candidates)), np.float32)
            if dense.any():
                cosines = self.embeddings[own[chunk][dense]] @ vectors.T
                likeness[dense] = cosines if is_copied else cosines[:, candidates]
            if content is not None:
                others = [repository for repository, has in zip(repositories[chunk], dense, strict=True) if not has]
                likeness[~dense] = self._likeness(others, content)
            likeness[candidates[None, :] == own[chunk][:, None]] = 0.0  # a repository and itself
            minima = np.where(dense, MIN_EMBEDDING_SIMILARITY, MIN_SIMILARITY)
            items, values = best_items(likeness, k)
            for columns, nearest, minimum in zip(items, values, minima, strict=True):
                near = (nearest >= minimum) & (columns >= 0)
                pairs = zip(candidates[columns[near]].tolist(), nearest[near].tolist(), strict=True)
                neighbours.append(
                    [Neighbour(int(self.repo_ids[row]), self.full_names[row], cosine) for row, cosine in pairs]
                )
        return neighbours

    def _likeness(self, repositories: Sequence[int | Description], content: Csr) -> NDArray[np.float32]:
        """Return the cosines of TF-IDF vectors, shape (repositories, candidates)."""
        rows = [self._vector(repository) for repository in repositories]
        known = np.array([row.shape[0] > 0 for row in rows], bool)
        likeness = np.zeros((len(rows), content.shape[1]), np.float32)
        if known.any():
            likeness[known] = (sp.vstack([row for row in rows if row.shape[0]], "csr") @ content).toarray()
        return likeness

    # -- exclusions -----------------------------------------------------------------------------------------------

    def related(self, login: str | None, filters: Filters, starred: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the user's own repositories, and forks and origins of starred ones, unless the filters include them.

        Parameters
        ----------
        login : str or None
            None: the user owns nothing.
        filters : Filters
        starred : ndarray of int64
            Rows of the starred repositories; -1 for those that are not in the catalogue.

        Returns
        -------
        ndarray of int64
            Rows of the catalogue.
        """
        rows: list[int] = []
        if login and not filters.own:
            rows += self._by_owner.get(login.lower(), ())
        if not filters.forks and self._forks:
            for row in starred[self._in_forks[starred] & (starred >= 0)].tolist():
                rows += self._forks[row]
        return np.array(rows, np.int64)

    @cached_property
    def _forks(self) -> Mapping[int, list[int]]:
        """Rows of the forks of each row, and of what it is a fork of."""
        origins = self.places(self.fork_of.tolist())
        related: dict[int, list[int]] = defaultdict(list)
        for fork in np.flatnonzero(origins >= 0).tolist():
            related[fork].append(int(origins[fork]))
            related[int(origins[fork])].append(fork)
        return related

    @cached_property
    def _in_forks(self) -> NDArray[np.bool_]:
        """Mask of the rows in `_forks`, with one more entry for row -1."""
        mask = np.zeros(len(self) + 1, bool)
        mask[list(self._forks)] = True
        return mask


def _rows_by_value(values_of: Iterable[Sequence[str]]) -> dict[str, list[int]]:
    """Return the rows of each lower-case value, of the values of all rows in turn."""
    rows: dict[str, list[int]] = {}
    for row, values in enumerate(values_of):
        for value in values:
            rows.setdefault(value.lower(), []).append(row)
    return rows


def _counts(described: Description) -> Mapping[str, float]:
    """Return the counts of the terms of a description; a topic counts as several words."""
    text = f"{described.full_name.partition('/')[2]} {described.description or ''}".lower()
    counts: dict[str, float] = {**Counter(word for word in re.findall(r"[^\W_]{2,}", text) if word not in COMMON)}
    if described.language:
        counts[f"language:{described.language.lower()}"] = LANGUAGE
    for topic in described.topics:
        counts[topic.lower()] = counts.get(topic.lower(), 0.0) + TOPIC
    return counts


COMMON = frozenset(
    """the and for with from that this your you are not but can has have its into using use via all any one more an of
    in on to by as is it or be at""".split()  # noqa: SIM905 - a list of words is read more easily as words
)
