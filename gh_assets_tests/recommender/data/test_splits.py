"""Splits without leaks, by users and by time."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.errors import InvalidInteractionsError
from gh_assets.recommender import strong_generalization_split
from gh_assets.recommender.data.splits import cut_histories, temporal_split
from gh_assets_tests.support.matrices import taste_matrix


@given(st.integers(0, 1000), st.sampled_from([0.2, 0.5]), st.sampled_from([(None, None), (10, 15)]))
def test_a_split_holds_out_whole_users_and_loses_no_star(
    seed: int, share: float, counts: tuple[int | None, int | None]
) -> None:
    matrix, (validation, test) = taste_matrix(users=90), counts
    split = strong_generalization_split(
        matrix, validation_users=validation, test_users=test, held_out_share=share, seed=seed
    )
    groups = [split.train_users, split.validation_users, split.test_users]
    assert sorted(np.concatenate(groups).tolist()) == list(range(90)), "each user is in one group"
    assert (split.train != matrix[split.train_users]).nnz == 0, "nothing of the held-out users is trained on"
    for users, given_items, hidden in ((split.validation_users, *split.validation), (split.test_users, *split.test)):
        assert ((given_items + hidden) != matrix[users]).nnz == 0
        assert given_items.multiply(hidden).nnz == 0, "no item is both given and to be predicted"
        assert (np.diff(given_items.indptr) >= 1).all()
        assert (np.diff(hidden.indptr) >= 1).all()


def test_the_same_seed_gives_the_same_split() -> None:
    matrix = taste_matrix(users=90)
    first, second = (strong_generalization_split(matrix, seed=4) for _ in range(2))
    assert np.array_equal(first.test_users, second.test_users)
    assert (first.test_held_out != second.test_held_out).nnz == 0


def test_too_few_users_are_rejected() -> None:
    with pytest.raises(
        InvalidInteractionsError, match="Training needs at least 2, and another user to train on: 1 user "
    ):
        strong_generalization_split(sp.csr_array(np.ones((1, 10), np.float32)))
    with pytest.raises(InvalidInteractionsError, match=r"^Only 0 of 90 users have at least 60 stars\. Training needs"):
        strong_generalization_split(taste_matrix(users=90), min_stars=60)


@pytest.mark.parametrize("with_ids", [True, False])
def test_users_with_few_stars_are_held_out_beside_the_others(with_ids: bool) -> None:
    many = taste_matrix(users=600)
    short = [cut_histories(many[[row]], row % 5) for row in range(600)]
    matrix = sp.csr_array(sp.vstack([many, *short]))
    ids = np.random.default_rng(1).permutation(10**6)[:1200] if with_ids else None
    split = strong_generalization_split(matrix, users=ids, seed=3)
    groups = [split.train_users, split.validation_users, split.test_users, split.few_users]
    assert sorted(np.concatenate(groups).tolist()) == list(range(1200)), "each user is in one group"
    stars_of = np.diff(matrix.indptr)
    assert set(stars_of[split.few_users].tolist()) == {2, 3, 4}
    assert len(split.few_users) == pytest.approx(36, abs=12), "a tenth of them, as of the others"
    fold_in, held_out = split.few
    assert ((fold_in + held_out) != matrix[split.few_users]).nnz == 0
    assert (np.diff(held_out.indptr) == 1).all()
    assert np.array_equal(np.diff(fold_in.indptr), stars_of[split.few_users] - 1)
    assert set(split.held_out_users) == {*split.test_users, *split.few_users}
    without = strong_generalization_split(many, users=None if ids is None else ids[:600], seed=3)
    assert np.array_equal(without.test_users, split.test_users), "users with few stars do not change the others"
    assert (without.test_held_out != split.test_held_out).nnz == 0
    assert len(without.few_users) == without.few_fold_in.shape[0] == 0
    assert without.few_fold_in.shape[1] == 60


def test_users_in_reserve_are_the_first_test_users_of_the_next_split() -> None:
    matrix = sp.csr_array(np.ones((2600, 6), np.float32))
    ids = np.random.default_rng(1).permutation(10**6)[:2600]
    first = strong_generalization_split(matrix, users=ids, seed=3)
    assert (len(first.test_users), len(first.validation_users), len(first.reserve_users)) == (260, 260, 130)
    assert len(first.train_users) == 2600 - 260 - 260 - 130
    assert len(np.unique(np.concatenate([first.train_users, first.validation_users, first.held_out_users]))) == 2600
    assert first.next_test_start is not None
    second = strong_generalization_split(matrix, users=ids, seed=3, test_start=first.next_test_start)
    assert np.isin(first.reserve_users, second.test_users).all()
    assert not np.isin(first.test_users, second.held_out_users).any()
    grown = sp.csr_array(np.ones((2800, 6), np.float32))
    more = np.concatenate([ids, 10**6 + np.arange(200)])
    later = strong_generalization_split(grown, users=more, seed=3, test_start=first.next_test_start)
    assert np.isin(first.reserve_users, later.test_users).all(), "in a later matrix as well"
    start = 0.0
    for _ in range(40):  # around the circle
        split = strong_generalization_split(matrix, users=ids, seed=3, test_start=start)
        assert (len(split.test_users), len(split.reserve_users)) == (260, 130)
        assert split.next_test_start is not None
        start = split.next_test_start
    assert len(strong_generalization_split(matrix, seed=3).reserve_users) == 0, "users without ids are not reserved"
    few = strong_generalization_split(matrix[:1900], users=ids[:1900], seed=3)
    assert (len(few.reserve_users), few.next_test_start) == (0, None), "of so few, none is reserved"


def timed(matrix: sp.csr_array, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    times: np.ndarray = np.datetime64("2024-01-01", "us") + rng.integers(0, 1000, matrix.nnz) * np.timedelta64(1, "D")
    return times


def test_a_temporal_split_trains_validates_and_tests_one_after_the_other() -> None:
    matrix = taste_matrix(users=300)
    times = timed(matrix)
    times[::7] = np.datetime64("NaT")
    split, date = temporal_split(matrix, times, later_share=0.2)
    when = {}
    coordinates = matrix.tocoo()
    for user, item, time in zip(coordinates.row, coordinates.col, times, strict=True):
        when[int(user), int(item)] = time

    def times_of(part: sp.csr_array, users: np.ndarray) -> np.ndarray:
        cells = part.tocoo()
        return np.array([when[int(users[user]), int(item)] for user, item in zip(cells.row, cells.col, strict=True)])

    trained = times_of(split.train, split.train_users)
    validated = times_of(split.validation_held_out, split.validation_users)
    tested = times_of(split.test_held_out, split.test_users)
    assert trained.max() < validated.min()
    assert validated.max() < date <= tested.min()
    assert times_of(split.validation_fold_in, split.validation_users).max() == trained.max()
    known = times_of(split.test_fold_in, split.test_users)
    assert trained.max() < known.max() < date, "the time of the validation is known in the test"
    for users, (fold_in, held_out) in ((split.validation_users, split.validation), (split.test_users, split.test)):
        assert fold_in.multiply(held_out).nnz == 0
        assert (np.diff(fold_in.indptr) > 0).all()
        assert (np.diff(held_out.indptr) > 0).all()
        assert len(users) == fold_in.shape[0]
    timed_stars = times[~np.isnat(times)]
    for share, start in ((0.4, validated.min()), (0.2, date)):
        assert float((timed_stars >= start).mean()) == pytest.approx(share, abs=0.02)
    in_training = np.bincount(split.train.indices, minlength=60) > 0
    for part in (split.validation_held_out, split.test_held_out):
        assert in_training[part.indices].all(), "only what the training knows can be predicted"
    assert len(split.held_out_users) == len(split.test_users)


def test_a_temporal_split_tests_people_with_few_known_stars() -> None:
    matrix = cut_histories(taste_matrix(users=300), 3)
    split, _ = temporal_split(matrix, timed(matrix), later_share=0.2)
    assert set(np.diff(split.test_fold_in.indptr).tolist()) == {1, 2}
    split, _ = temporal_split(matrix, timed(matrix), later_share=0.2, min_stars=2)
    assert set(np.diff(split.test_fold_in.indptr).tolist()) == {2}


def test_a_temporal_split_without_enough_times_is_rejected() -> None:
    matrix = taste_matrix(users=100)
    with pytest.raises(InvalidInteractionsError, match="needs starred_at"):
        temporal_split(matrix, np.full(matrix.nnz, np.datetime64("NaT"), "datetime64[us]"))
    with pytest.raises(InvalidInteractionsError, match="times were given for"):
        temporal_split(matrix, timed(matrix)[:-1])
    with pytest.raises(InvalidInteractionsError, match=r"^No user with 1 stars before .* none to validate or test on"):
        temporal_split(matrix, np.full(matrix.nnz, np.datetime64("2024-01-01"), "datetime64[us]"))


@given(st.integers(0, 1000), st.integers(0, 20), st.integers(0, 20))
def test_a_cut_history_is_a_part_of_each_longer_one(seed: int, shorter: int, longer: int) -> None:
    matrix = taste_matrix(users=40)
    shorter, longer = sorted((shorter, longer))
    cut, other = (cut_histories(matrix, length, seed=seed) for length in (shorter, longer))
    counts = np.diff(matrix.indptr)
    assert np.diff(cut.indptr).tolist() == np.minimum(counts, shorter).tolist()
    assert cut.multiply(other).nnz == cut.nnz
    assert other.multiply(matrix).nnz == other.nnz
    assert cut_histories(matrix, None) is matrix
    if shorter == 5:
        assert (cut != cut_histories(matrix, 5, seed=seed + 1)).nnz, "another seed chooses others"
