"""Bags of items against dense matrices."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.recommender.engine.bags import DenseBags, UserBags
from gh_assets_tests.support.matrices import random_stars
from gh_assets_tests.support.reference_models import dense_rows, exact_bags


def both_kinds(stars: sp.csr_array) -> list[UserBags]:
    return [exact_bags(stars), DenseBags.of(dense_rows(stars), torch.float64)]


sizes = given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 40))


@sizes
def test_bags_sum_and_transpose_as_matrices_do(seed: int, users: int, items: int) -> None:
    stars = random_stars(seed, users, items)
    matrix = dense_rows(stars)
    table = torch.randn((items, 3), dtype=torch.float64)
    weighted = matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1).sqrt()
    gradient = torch.randn((users, 3), dtype=torch.float64)
    for bags in both_kinds(stars):
        torch.testing.assert_close(bags.lengths, matrix.sum(dim=1))
        torch.testing.assert_close(bags.sums(table), weighted @ table)
        torch.testing.assert_close(bags.sums(table, weighted=False), matrix @ table)
        torch.testing.assert_close(bags.gradient(gradient, items), weighted.T @ gradient)
        torch.testing.assert_close(bags.gradient(gradient, items, weighted=False), matrix.T @ gradient)
    items_with_users, back = exact_bags(stars).transposed()
    assert items_with_users.tolist() == np.flatnonzero(stars.sum(axis=0)).tolist()
    torch.testing.assert_close(back.sums(gradient), (weighted.T @ gradient)[items_with_users])


@sizes
def test_parts_of_bags_are_their_users(seed: int, users: int, items: int) -> None:
    table = torch.randn((items, 3), dtype=torch.float64)
    cut = users // 2
    for bags in both_kinds(random_stars(seed, users, items)):
        halves = [bags.part(0, cut).sums(table), bags.part(cut, users).sums(table)]
        torch.testing.assert_close(torch.cat(halves), bags.sums(table))


def test_dropping_hides_items_and_keeps_the_expectation() -> None:
    stars = sp.csr_array(np.ones((200, 50), np.float32))
    table, each = torch.ones((50, 1), dtype=torch.float64), torch.eye(50, dtype=torch.float64)
    for bags in both_kinds(stars):
        dropped = bags.dropped(0.3, torch.Generator().manual_seed(0))
        assert float(dropped.sums(each, weighted=False).sum()) == pytest.approx(0.7 * stars.nnz, rel=0.03)
        assert float(dropped.sums(table).mean()) == pytest.approx(float(bags.sums(table).mean()), rel=0.02)
        assert torch.equal(dropped.lengths, bags.lengths), "the loss still counts what the user has"
        again = bags.dropped(0.3, torch.Generator().manual_seed(0))
        assert torch.equal(dropped.sums(each), again.sums(each))
        assert bags.dropped(0.0, torch.Generator()) is bags
