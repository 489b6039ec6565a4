"""Splits of a user-item matrix into training, validation and test users without leaks."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.errors import InvalidInteractionsError
from gh_assets.recommender.data.interactions import Csr, check_interactions, row_numbers

MAX_HELD_OUT = 10_000
"""Default maximum number of validation users, and of test users."""

MAX_RESERVE = 2500
"""Maximum number of users who are held out for the next test."""

MIN_RESERVE = 100
"""With fewer, no users are reserved: a test of so few would say little, and the training needs them."""

FEW_STARS = 4
"""Most stars of the users of `StrongGeneralizationSplit.few`. Most users of GitHub have 1 to 4 stars."""


@dataclass(frozen=True)
class StrongGeneralizationSplit:
    """Training users, and held-out users whose stars are divided into fold-in (known) and held-out (to be predicted).

    All matrices have all columns; ``*_users`` are row numbers of the whole matrix. The users of ``few`` have 2 to 4
    stars, of which one is to be predicted: they are tested beside the test users, who have more. Those of the
    reserve are held out and not used, so that a later test finds users who are new to every model of this split.

    Users have places on a circle from 0 to 1, which follow from their ids. The test users begin at ``test_start``, and
    the reserve, which follows them, at ``next_test_start``; None: there is no reserve.
    """

    train: Csr
    validation_fold_in: Csr
    validation_held_out: Csr
    test_fold_in: Csr
    test_held_out: Csr
    train_users: NDArray[np.int64]
    validation_users: NDArray[np.int64]
    test_users: NDArray[np.int64]
    few_fold_in: Csr
    few_held_out: Csr
    few_users: NDArray[np.int64]
    reserve_users: NDArray[np.int64]
    test_start: float = 0.0
    next_test_start: float | None = None

    @property
    def validation(self) -> tuple[Csr, Csr]:
        """Fold-in and held-out matrix of the validation users."""
        return self.validation_fold_in, self.validation_held_out

    @property
    def test(self) -> tuple[Csr, Csr]:
        """Fold-in and held-out matrix of the test users."""
        return self.test_fold_in, self.test_held_out

    @property
    def few(self) -> tuple[Csr, Csr]:
        """Fold-in and held-out matrix of the test users with few stars."""
        return self.few_fold_in, self.few_held_out

    @property
    def held_out_users(self) -> NDArray[np.int64]:
        """All users whom models of this split never see, but for the validation users."""
        return np.concatenate([self.test_users, self.few_users, self.reserve_users])


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
    test_start: float = 0.0,
) -> StrongGeneralizationSplit:
    """Hold out whole users (Liang et al. 2018, section 4.3), and a share of each such user's items.

    The same share of the users with few items is held out for the test, too; they are not needed for a split.

    Parameters
    ----------
    matrix : scipy.sparse CSR, shape (users, items)
    validation_users, test_users : int, optional
        Number of held-out users; by default a tenth of the eligible users, at least 1 and at most 10,000.
    held_out_share : float
        Share of a held-out user's items to predict: at least one item, and at least one is known.
    min_stars : int
        Validation and test users have as many items; at least 2, so that one is known and one is to predict. Users
        with fewer, from 2 to 4, are those of ``few``.
    seed : int
    users : ndarray of int64, shape (users,), optional
        Ids of the users. The held-out users then follow from ids and seed: they are almost the same in next week's
        matrix, and models of both can be compared on users that neither has seen. Some users are reserved: half as many
        as are tested, at most 2,500, and none if they were fewer than 100.
    test_start : float
        Place of the first test user, from 0 to 1; `StrongGeneralizationSplit.next_test_start` of an earlier split makes
        its reserve the first test users.

    Raises
    ------
    InvalidInteractionsError
        If too few users have enough items.
    """
    stars = check_interactions(matrix)
    rng = np.random.default_rng(seed)
    counts = np.diff(stars.indptr)
    eligible = np.flatnonzero(counts >= max(2, min_stars))
    default = int(np.clip(len(eligible) // 10, 1, MAX_HELD_OUT))
    validation_count = default if validation_users is None else validation_users
    test_count = default if test_users is None else test_users
    if len(eligible) < validation_count + test_count or stars.shape[0] <= validation_count + test_count:
        raise InvalidInteractionsError(
            f"Only {len(eligible):,} of {stars.shape[0]:,} users {'has' if len(eligible) == 1 else 'have'} at least "
            f"{max(2, min_stars)} stars. Training needs at least {validation_count + test_count:,}, and another user "
            f"to train on: {_users_are(validation_count)} held out for validation, {test_count:,} for the test. "
            "Collect more stars."
        )
    few = np.flatnonzero((counts >= 2) & (counts < max(2, min_stars)) & (counts <= FEW_STARS))
    reserve, next_start = eligible[:0], None
    if users is None:
        chosen = rng.permutation(eligible)[: validation_count + test_count]
        validation, test = np.split(chosen, [validation_count])
    else:
        if len(users) != stars.shape[0]:
            raise InvalidInteractionsError(f"{len(users)} users were named for a matrix of {stars.shape[0]}.")
        places = _places(users, 2 * seed)
        distances = (places - test_start) % 1.0
        ordered = eligible[np.argsort(distances[eligible], kind="stable")]
        test = ordered[:test_count]
        few = few[distances[few] <= distances[test].max(initial=-1.0)]
        reserve_count = min(test_count // 2, MAX_RESERVE, (len(eligible) - validation_count - test_count) // 2)
        if reserve_count >= MIN_RESERVE:
            reserve = ordered[test_count : test_count + reserve_count]
            next_start = float(places[reserve[0]])
        # Another draw, so that the test users do not depend on the number of validation users.
        others = ordered[test_count + len(reserve) :]
        validation = others[np.argsort(_places(users[others], 2 * seed + 1), kind="stable")[:validation_count]]
    validation, test, reserve = np.sort(validation), np.sort(test), np.sort(reserve)
    validation_parts = _hide(stars[validation], held_out_share, rng)
    test_parts = _hide(stars[test], held_out_share, rng)
    if users is None:
        few = np.sort(rng.permutation(few)[: round(len(few) * test_count / max(1, len(eligible)))])
    train = np.setdiff1d(np.arange(stars.shape[0]), np.concatenate([validation, test, few, reserve]))
    few_parts = _hide(stars[few], held_out_share, rng)
    return StrongGeneralizationSplit(
        stars[train],
        *validation_parts,
        *test_parts,
        train,
        validation,
        test,
        *few_parts,
        few,
        reserve,
        test_start,
        next_start,
    )


def temporal_split(
    stars: Csr, starred_at: NDArray[np.datetime64], *, later_share: float = 0.1, min_stars: int = 1
) -> tuple[StrongGeneralizationSplit, np.datetime64]:
    """Train on stars before a date, validate on those of the time after it, and test on those of the time after that.

    Parameters
    ----------
    stars : scipy.sparse CSR, shape (users, items)
    starred_at : ndarray of datetime64, shape (stars,)
        In the order of ``stars.indices``. Stars without a time are left out.
    later_share : float
        Share of the timed stars that lies in the time of the test, and in that of the validation before it.
    min_stars : int
        Users with fewer known stars are neither validated nor tested.

    Returns
    -------
    split : StrongGeneralizationSplit
        The same users take part in training, validation and test, as they would in use: with their stars before the
        validation for the first two, with all before the test for the last. Items without stars before the validation
        cannot be predicted and don't count. At most 10,000 users are validated, and as many tested; ``few`` is empty.
    date : datetime64
        Start of the time of the test.

    Raises
    ------
    InvalidInteractionsError
        If no star has a time, or no user can be validated or tested.
    """
    checked = check_interactions(stars)
    if len(starred_at) != stars.nnz or checked.nnz != stars.nnz:
        raise InvalidInteractionsError(f"{len(starred_at)} times were given for {stars.nnz} stars.")
    timed = ~np.isnat(starred_at)
    if not timed.any():
        raise InvalidInteractionsError("No star has a time: a temporal split needs starred_at.")
    ordered = np.sort(starred_at[timed])
    first, second = (ordered[int((1 - share) * (len(ordered) - 1))] for share in (2 * later_share, later_share))
    train = _kept(checked, timed & (starred_at < first))
    known = (np.bincount(train.indices, minlength=train.shape[1]) > 0)[checked.indices] & timed
    between = _kept(checked, known & (starred_at >= first) & (starred_at < second))
    before, after = (_kept(checked, known & part) for part in (starred_at < second, starred_at >= second))
    periods = []
    for given, hidden, start in ((train, between, first), (before, after, second)):
        enough = np.flatnonzero(np.diff(given.indptr) >= max(1, min_stars))
        users = enough[sample_users(hidden[enough], MAX_HELD_OUT)]
        if len(users) == 0:
            raise InvalidInteractionsError(
                f"No user with {min_stars} stars before {start} starred a known repository after it: there is none "
                "to validate or test on."
            )
        periods.append((given[users], hidden[users], users))
    (validation_fold_in, validation_held_out, validation_users), (test_fold_in, test_held_out, test_users) = periods
    train_users = np.flatnonzero(np.diff(train.indptr))
    split = StrongGeneralizationSplit(
        train=train[train_users],
        validation_fold_in=validation_fold_in,
        validation_held_out=validation_held_out,
        test_fold_in=test_fold_in,
        test_held_out=test_held_out,
        train_users=train_users,
        validation_users=validation_users,
        test_users=test_users,
        few_fold_in=checked[:0],
        few_held_out=checked[:0],
        few_users=train_users[:0],
        reserve_users=train_users[:0],
    )
    return split, second


def sample_users(held_out: Csr, most: int) -> NDArray[np.int64]:
    """Return at most `most` rows of users that have held-out items, evenly from all of them."""
    users = np.flatnonzero(np.diff(held_out.indptr))
    sample: NDArray[np.int64] = users[np.linspace(0, len(users) - 1, min(most, len(users))).astype(int)]
    return sample


def cut_histories(stars: Csr, length: int | None, *, seed: int = 0) -> Csr:
    """Return at most `length` stars of each user, chosen at random; all of them if it is None.

    With the same seed, a longer history contains the shorter one.
    """
    if length is None:
        return stars
    rows = row_numbers(stars)
    order = np.lexsort((np.random.default_rng(seed).random(stars.nnz), rows))
    keep = np.zeros(stars.nnz, bool)
    keep[order] = np.arange(stars.nnz) - stars.indptr[rows] < length
    return _kept(stars, keep)


def _places(users: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return a pseudo-random number from 0 to 1 for each user id (splitmix64, Steele et al. 2014)."""
    state = users.astype(np.uint64) + np.uint64(((seed + 1) * 0x9E3779B97F4A7C15) % 2**64)
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((state ^ (state >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


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
