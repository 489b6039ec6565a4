"""User-item matrices: building them from stars, checking them, splitting them without leaks.

A matrix is binary CSR, float32, users × items; its rows and columns are named by the indexes beside it.
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
    """Who starred what.

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
        When each star was given (UTC), in the order of ``stars.indices``; NaT where that is not known.
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
        """Share of the stars whose time is known."""
        return 0.0 if self.starred_at is None else float((~np.isnat(self.starred_at)).mean())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the indexes and the pairs: equal for equal data, whatever the machine."""
        digest = hashlib.sha256()
        for array in (self.user_ids, self.repo_ids, self.stars.indptr, self.stars.indices):
            digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """As an ``.npz`` archive without pickle; equal matrices give equal bytes."""
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
            If it is something else.
        """
        try:
            with np.load(BytesIO(content), allow_pickle=False) as arrays:
                indices, indptr = arrays["indices"], arrays["indptr"]
                user_ids, repo_ids = arrays["user_ids"], arrays["repo_ids"]
                shape = (len(user_ids), len(repo_ids))
                ones = np.ones(len(indices), np.float32)
                stars = sp.csr_array((ones, indices, indptr), shape=shape)
                stars.check_format()
                min_user_stars, min_repo_stars = (int(value) for value in arrays["minima"])
                starred_at = arrays.get("starred_at")
                if starred_at is not None and starred_at.shape != indices.shape:
                    raise StoredDataError("The stored user-item matrix has not as many times as stars.")
                return cls(
                    stars,
                    user_ids,
                    arrays["logins"],
                    repo_ids,
                    arrays["full_names"],
                    min_user_stars,
                    min_repo_stars,
                    starred_at,
                )
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
        Of schema ``STARGAZERS``.
    users : polars.DataFrame
        Of schema ``USERS``: gives the logins.
    repos : polars.DataFrame
        Of schema ``REPOS``: gives present names. Repositories that left all lists keep the id as their name.
    min_user_stars, min_repo_stars : int
        Leave out users and repositories with fewer stars within the matrix; applied until nothing more falls out.

    Raises
    ------
    InvalidInteractionsError
        If nothing is left.
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
    found = pl.DataFrame({key: ids}).join(table.select(key, name), on=key, how="left", maintain_order="left")
    return np.array([name or str(number) for name, number in zip(found[name], ids, strict=True)], dtype=np.str_)


def positions_of(
    wanted: NDArray[np.int64], ids: NDArray[np.int64], order: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Where ids stand among others.

    Parameters
    ----------
    wanted : ndarray of int64
    ids : ndarray of int64
        Without duplicates; ascending, or with `order` in any order.
    order : ndarray of int64, optional
        What sorts `ids`.

    Returns
    -------
    ndarray of int64, shape of `wanted`
        -1 for those that are not there.
    """
    if len(ids) == 0:
        return np.full(len(wanted), -1)
    found = np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)
    places = found if order is None else order[found]
    return np.where(ids[places] == wanted, places, -1)


def check_interactions(matrix: Csr, *, items: int | None = None, name: str = "matrix") -> Csr:
    """Check a matrix that a recommender was given.

    Parameters
    ----------
    matrix : scipy sparse matrix or array
        Any CSR with at least one row and column and finite values that are not negative. Stored zeros don't count.
    items : int, optional
        The number of columns that it must have.
    name : str
        What the message calls it.

    Returns
    -------
    scipy.sparse.csr_array
        Float32, sorted indices, no stored zeros, no duplicates.

    Raises
    ------
    InvalidInteractionsError
        With what is wrong.
    """
    if not sp.issparse(matrix) or matrix.format != "csr":
        raise InvalidInteractionsError(f"The {name} is {type(matrix).__name__}: give a scipy.sparse CSR matrix.")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InvalidInteractionsError(f"The {name} is empty: its shape is {matrix.shape}.")
    if items is not None and matrix.shape[1] != items:
        raise InvalidInteractionsError(f"The {name} has {matrix.shape[1]} columns; the model knows {items} items.")
    if not np.issubdtype(matrix.dtype, np.number) or np.issubdtype(matrix.dtype, np.complexfloating):
        raise InvalidInteractionsError(f"The {name} holds {matrix.dtype} values: give numbers.")
    usual = isinstance(matrix, sp.csr_array) and matrix.dtype == np.float32 and matrix.has_canonical_format
    if usual and (matrix.data > 0).all() and np.isfinite(matrix.data).all():
        return matrix  # as it should be: nothing is copied
    checked: Csr = sp.csr_array(matrix, dtype=np.float32, copy=True)
    if not np.isfinite(checked.data).all():
        raise InvalidInteractionsError(f"The {name} holds values that are not finite.")
    if (checked.data < 0).any():
        raise InvalidInteractionsError(f"The {name} holds negative values.")
    checked.sum_duplicates()
    checked.eliminate_zeros()
    checked.sort_indices()
    return checked


@dataclass(frozen=True)
class StrongGeneralizationSplit:
    """Users apart: some to train on; the others' stars partly given (fold-in), partly to be predicted (held-out).

    All matrices have all columns. ``*_users`` are row numbers of the whole matrix.
    """

    train: Csr
    validation_fold_in: Csr
    validation_held_out: Csr
    test_fold_in: Csr
    test_held_out: Csr
    train_users: NDArray[np.int64]
    validation_users: NDArray[np.int64]
    test_users: NDArray[np.int64]

    @property
    def validation(self) -> tuple[Csr, Csr]:
        """Fold-in and held-out matrix of the validation users."""
        return self.validation_fold_in, self.validation_held_out

    @property
    def test(self) -> tuple[Csr, Csr]:
        """Fold-in and held-out matrix of the test users."""
        return self.test_fold_in, self.test_held_out


def _users_are(number: int) -> str:
    return "1 user is" if number == 1 else f"{number:,} users are"


def strong_generalization_split(
    matrix: Csr,
    *,
    validation_users: int | None = None,
    test_users: int | None = None,
    held_out_share: float = 0.2,
    min_stars: int = 5,
    seed: int = 0,
    users: NDArray[np.int64] | None = None,
) -> StrongGeneralizationSplit:
    """Hold whole users out (Liang et al. 2018, section 4.3), and a share of each such user's items.

    Parameters
    ----------
    matrix : scipy.sparse CSR, shape (users, items)
    validation_users, test_users : int, optional
        How many of each; by default a tenth of the users that qualify, at least 1 and at most 10,000.
    held_out_share : float
        Share of a held-out user's items that is to be predicted: at least 1, and at least 1 is given.
    min_stars : int
        Users with fewer items are not held out (at least 2, else there is nothing to give or to predict).
    seed : int
    users : ndarray of int64, shape (users,), optional
        Who they are. Who is held out then follows from that and the seed: of next week's matrix it is the same people,
        but for a few, and models of both can be compared on users that neither has seen.

    Raises
    ------
    InvalidInteractionsError
        If too few users have enough items.
    """
    stars = check_interactions(matrix)
    rng = np.random.default_rng(seed)
    counts = np.diff(stars.indptr)
    eligible = np.flatnonzero(counts >= max(2, min_stars))
    default = int(np.clip(len(eligible) // 10, 1, 10_000))
    wanted_validation = default if validation_users is None else validation_users
    wanted_test = default if test_users is None else test_users
    if len(eligible) < wanted_validation + wanted_test or stars.shape[0] <= wanted_validation + wanted_test:
        raise InvalidInteractionsError(
            f"Only {len(eligible):,} of {stars.shape[0]:,} users {'has' if len(eligible) == 1 else 'have'} at least "
            f"{max(2, min_stars)} stars. Training needs at least {wanted_validation + wanted_test:,}, and another user "
            f"to train on: {_users_are(wanted_validation)} held out for validation, {wanted_test:,} for the test. "
            "Collect more stars."
        )
    if users is None:
        chosen = rng.permutation(eligible)[: wanted_validation + wanted_test]
        validation, test = np.split(chosen, [wanted_validation])
    else:
        if len(users) != stars.shape[0]:
            raise InvalidInteractionsError(f"{len(users)} users were named for a matrix of {stars.shape[0]}.")
        # Two draws, so that who is tested does not depend on how many are to validate.
        test = eligible[np.argsort(_drawn(users[eligible], 2 * seed), kind="stable")[:wanted_test]]
        others = np.setdiff1d(eligible, test)
        validation = others[np.argsort(_drawn(users[others], 2 * seed + 1), kind="stable")[:wanted_validation]]
    validation, test = np.sort(validation), np.sort(test)
    train = np.setdiff1d(np.arange(stars.shape[0]), np.concatenate([validation, test]))
    validation_fold_in, validation_held_out = _hide(stars[validation], held_out_share, rng)
    test_fold_in, test_held_out = _hide(stars[test], held_out_share, rng)
    return StrongGeneralizationSplit(
        stars[train],
        validation_fold_in,
        validation_held_out,
        test_fold_in,
        test_held_out,
        train,
        validation,
        test,
    )


def temporal_split(
    stars: Csr,
    starred_at: NDArray[np.datetime64],
    *,
    later_share: float = 0.1,
    min_stars: int = 5,
    seed: int = 0,
) -> tuple[StrongGeneralizationSplit, np.datetime64]:
    """Learn from what was starred before a date, and predict what the same people starred after it.

    Parameters
    ----------
    stars : scipy.sparse CSR, shape (users, items)
    starred_at : ndarray of datetime64, shape (stars,)
        In the order of ``stars.indices``. Stars without a time are left out.
    later_share : float
        Share of the timed stars that lies after the date.
    min_stars : int
        Users with fewer before the date are not tested.
    seed : int
        Decides who of the earlier data is held out for validation.

    Returns
    -------
    split : StrongGeneralizationSplit
        Test users are part of the training with what they starred before the date: that is what will be known of
        them. Items that nobody had starred by then cannot be predicted and don't count.
    date : datetime64
        The first moment that is not learned from.

    Raises
    ------
    InvalidInteractionsError
        If no star has a time, or nobody is left to be tested.
    """
    checked = check_interactions(stars)
    if len(starred_at) != stars.nnz or checked.nnz != stars.nnz:
        raise InvalidInteractionsError(f"{len(starred_at)} times were given for {stars.nnz} stars.")
    timed = ~np.isnat(starred_at)
    if not timed.any():
        raise InvalidInteractionsError("No star has a time: a temporal split needs starred_at.")
    date = np.sort(starred_at[timed])[int((1 - later_share) * (timed.sum() - 1))]
    before = _kept(checked, timed & (starred_at < date))
    known = np.bincount(before.indices, minlength=before.shape[1]) > 0
    after = _kept(checked, timed & (starred_at >= date) & known[checked.indices])
    inner = strong_generalization_split(before, test_users=0, min_stars=min_stars, seed=seed)
    tested = np.flatnonzero((np.diff(before.indptr) >= min_stars) & (np.diff(after.indptr) > 0))
    tested = np.setdiff1d(tested, inner.validation_users)
    if len(tested) == 0:
        raise InvalidInteractionsError(
            f"Nobody with {min_stars} stars before {date} starred a known repository after it: there is no one to test."
        )
    split = replace(inner, test_fold_in=before[tested], test_held_out=after[tested], test_users=tested)
    return split, date


def _drawn(users: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A number for each user as if drawn at random, always the same (splitmix64, Steele et al. 2014)."""
    state = users.astype(np.uint64) + np.uint64(((seed + 1) * 0x9E3779B97F4A7C15) % 2**64)
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed


def _hide(stars: Csr, share: float, rng: np.random.Generator) -> tuple[Csr, Csr]:
    counts = np.diff(stars.indptr)
    hidden_counts = np.clip((counts * share).astype(int), 1, counts - 1)
    hidden = np.zeros(stars.nnz, bool)
    for start, count, hide in zip(stars.indptr[:-1], counts, hidden_counts, strict=True):
        hidden[start + rng.permutation(count)[:hide]] = True
    return _kept(stars, ~hidden), _kept(stars, hidden)


def _kept(stars: Csr, keep: NDArray[np.bool_]) -> Csr:
    indptr = np.concatenate([[0], np.cumsum(keep)])[stars.indptr]
    kept: Csr = sp.csr_array((stars.data[keep], stars.indices[keep], indptr), shape=stars.shape)
    return kept
