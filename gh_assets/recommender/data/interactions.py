"""User-item matrices: building them from stars, storing them, checking them.

A matrix is binary CSR, float32, users × items; indexes beside it name its rows and columns.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TypeAlias

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.errors import InvalidInteractionsError, StoredDataError

Csr: TypeAlias = sp.csr_array


@dataclass(frozen=True)
class UserItemMatrix:
    """Stars as a matrix, with the ids and names of its rows and columns.

    Attributes
    ----------
    stars : scipy.sparse.csr_array
        Float32 ones, shape (users, repositories), indices sorted.
    user_ids : ndarray of int64, shape (users,)
        Ascending.
    logins : ndarray of str, shape (users,)
    repo_ids : ndarray of int64, shape (repositories,)
        Ascending.
    full_names : ndarray of str, shape (repositories,)
    starred_at : ndarray of datetime64[us], shape (stars,), optional
        Time of each star (UTC), in the order of ``stars.indices``; NaT where it is unknown.
    min_user_stars, min_repo_stars : int
        Users and repositories with fewer were left out.
    """

    stars: Csr
    user_ids: NDArray[np.int64]
    logins: NDArray[np.str_]
    repo_ids: NDArray[np.int64]
    full_names: NDArray[np.str_]
    min_user_stars: int = 1
    min_repo_stars: int = 1
    starred_at: NDArray[np.datetime64] | None = None

    @property
    def timed_share(self) -> float:
        """Share of the stars with a known time."""
        return 0.0 if self.starred_at is None else float((~np.isnat(self.starred_at)).mean())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of ids and pairs: equal for equal data on every machine."""
        digest = hashlib.sha256()
        for array in (self.user_ids, self.repo_ids, self.stars.indptr, self.stars.indices):
            digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        return digest.hexdigest()

    def rows(self, chosen: NDArray[np.bool_]) -> UserItemMatrix:
        """Return the matrix of some of its users, with the same columns and without times."""
        return replace(
            self, stars=self.stars[chosen], user_ids=self.user_ids[chosen], logins=self.logins[chosen], starred_at=None
        )

    def to_bytes(self) -> bytes:
        """Return an ``.npz`` archive without pickle; equal matrices give equal bytes."""
        buffer = BytesIO()
        np.savez_compressed(
            buffer,
            allow_pickle=False,
            indptr=self.stars.indptr.astype(np.int64),
            indices=self.stars.indices.astype(np.int32),
            user_ids=self.user_ids,
            logins=self.logins,
            repo_ids=self.repo_ids,
            full_names=self.full_names,
            minima=np.array([self.min_user_stars, self.min_repo_stars], np.int64),
            **({} if self.starred_at is None else {"starred_at": self.starred_at}),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> UserItemMatrix:
        """Read what `to_bytes` wrote.

        Raises
        ------
        StoredDataError
            If the content is no such archive.
        """
        try:
            with np.load(BytesIO(content), allow_pickle=False) as arrays:
                user_ids, logins, repo_ids, full_names = (
                    arrays[name] for name in ("user_ids", "logins", "repo_ids", "full_names")
                )
                indices, starred_at = arrays["indices"], arrays.get("starred_at")
                ones, shape = np.ones(len(indices), np.float32), (len(user_ids), len(repo_ids))
                stars = sp.csr_array((ones, indices, arrays["indptr"]), shape=shape)
                stars.check_format()
                if starred_at is not None and starred_at.shape != indices.shape:
                    raise StoredDataError("The stored user-item matrix has not as many times as stars.")
                min_user_stars, min_repo_stars = map(int, arrays["minima"])
                return cls(stars, user_ids, logins, repo_ids, full_names, min_user_stars, min_repo_stars, starred_at)
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise StoredDataError(f"The stored user-item matrix cannot be read: {error}.") from error


def build_user_item_matrix(
    stargazers: pl.DataFrame,
    users: pl.DataFrame,
    repos: pl.DataFrame,
    *,
    min_user_stars: int = 1,
    min_repo_stars: int = 1,
) -> UserItemMatrix:
    """Build the matrix of all pairs in `stargazers`.

    Parameters
    ----------
    stargazers : polars.DataFrame
        Table with the schema ``STARGAZERS``.
    users : polars.DataFrame
        Table with the schema ``USERS``, for the logins.
    repos : polars.DataFrame
        Table with the schema ``REPOS``, for current names. Repositories that left all lists get their id as name.
    min_user_stars, min_repo_stars : int
        Users and repositories with fewer stars within the matrix are left out, repeatedly until none is.

    Raises
    ------
    InvalidInteractionsError
        If no star is left.
    """
    pairs = stargazers.group_by("user_id", "repo_id").agg(pl.col("starred_at").min())
    while True:
        before = pairs.height
        pairs = pairs.filter(
            (pl.len().over("user_id") >= min_user_stars) & (pl.len().over("repo_id") >= min_repo_stars)
        )
        if pairs.height == before:
            break
    if pairs.is_empty():
        raise InvalidInteractionsError(
            "No star is left for the user-item matrix: no repository could be collected, or min_user_stars "
            f"({min_user_stars}) and min_repo_stars ({min_repo_stars}) are too high for the data."
        )
    pairs = pairs.sort("user_id", "repo_id")
    user_ids = pairs["user_id"].unique().sort().to_numpy()
    repo_ids = pairs["repo_id"].unique().sort().to_numpy()
    rows = np.searchsorted(user_ids, pairs["user_id"].to_numpy())
    columns = np.searchsorted(repo_ids, pairs["repo_id"].to_numpy()).astype(np.int32)
    indptr = np.searchsorted(rows, np.arange(len(user_ids) + 1)).astype(np.int64)
    stars = sp.csr_array((np.ones(len(rows), np.float32), columns, indptr), shape=(len(user_ids), len(repo_ids)))
    return UserItemMatrix(
        stars,
        user_ids,
        _names(user_ids, users, "user_id", "login"),
        repo_ids,
        _names(repo_ids, repos.drop_nulls("repo_id"), "repo_id", "full_name"),
        min_user_stars,
        min_repo_stars,
        pairs["starred_at"].dt.replace_time_zone(None).to_numpy() if pairs["starred_at"].count() else None,
    )


def _names(ids: NDArray[np.int64], table: pl.DataFrame, key: str, name: str) -> NDArray[np.str_]:
    named = pl.DataFrame({key: ids}).join(table.select(key, name), on=key, how="left", maintain_order="left")
    return np.array([name or str(number) for name, number in zip(named[name], ids, strict=True)], dtype=np.str_)


def positions_of(
    requested: NDArray[np.int64], ids: NDArray[np.int64], order: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the positions of some ids among others.

    Parameters
    ----------
    requested : ndarray of int64
    ids : ndarray of int64
        Without duplicates; ascending, or with `order` in any order.
    order : ndarray of int64, optional
        Permutation that sorts `ids`.

    Returns
    -------
    ndarray of int64, shape of `requested`
        -1 for ids that are missing.
    """
    if len(ids) == 0:
        return np.full(len(requested), -1)
    ranks = np.searchsorted(ids, requested, sorter=order).clip(max=len(ids) - 1)
    positions = ranks if order is None else order[ranks]
    return np.where(ids[positions] == requested, positions, -1)


def row_numbers(matrix: Csr) -> NDArray[np.int64]:
    """Return the row of each stored value, in the order of ``matrix.indices``."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def check_interactions(matrix: Csr, *, items: int | None = None, name: str = "matrix") -> Csr:
    """Check a matrix and bring it into the form that recommenders take.

    Parameters
    ----------
    matrix : scipy sparse matrix or array
        CSR with at least one row and column and finite values that are not negative. Stored zeros are dropped.
    items : int, optional
        Required number of columns.
    name : str
        Name of the matrix in messages.

    Returns
    -------
    scipy.sparse.csr_array
        Float32, sorted indices, no stored zeros, no duplicates.

    Raises
    ------
    InvalidInteractionsError
        If the matrix does not fulfil this.
    """
    if not sp.issparse(matrix) or matrix.format != "csr":
        raise InvalidInteractionsError(f"The {name} is {type(matrix).__name__}: give a scipy.sparse CSR matrix.")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InvalidInteractionsError(f"The {name} is empty: its shape is {matrix.shape}.")
    if items is not None and matrix.shape[1] != items:
        raise InvalidInteractionsError(f"The {name} has {matrix.shape[1]} columns; the model knows {items} items.")
    if not np.issubdtype(matrix.dtype, np.number) or np.issubdtype(matrix.dtype, np.complexfloating):
        raise InvalidInteractionsError(f"The {name} holds {matrix.dtype} values: give numbers.")
    canonical = isinstance(matrix, sp.csr_array) and matrix.dtype == np.float32 and matrix.has_canonical_format
    if canonical and (matrix.data > 0).all() and np.isfinite(matrix.data).all():
        return matrix  # nothing to copy
    checked: Csr = sp.csr_array(matrix, dtype=np.float32, copy=True)
    if not np.isfinite(checked.data).all():
        raise InvalidInteractionsError(f"The {name} holds values that are not finite.")
    if (checked.data < 0).any():
        raise InvalidInteractionsError(f"The {name} holds negative values.")
    checked.sum_duplicates()
    checked.eliminate_zeros()
    checked.sort_indices()
    return checked
