"""The parts of the engine against what they stand for, written densely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gh_assets.errors import ConfigurationError
from gh_assets.recommender.training import engine
from gh_assets.recommender.training.engine import AdamStep, Bags, DenseAdam, RowAdam, SoftmaxOutput
from gh_assets.recommender.training.precision import precision
from gh_assets.recommender.training.spectral import item_factors
from gh_assets_tests.support.matrices import taste_matrix
from gh_assets_tests.support.reference_models import RowWiseAdam

CPU = torch.device("cpu")
SHAPES = {"weight": (5, 7), "bias": (5,)}


def some_stars(seed: int, users: int, items: int) -> sp.csr_array:
    """Random, with users and items that have nothing."""
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((users, items)) < 0.2).astype(np.float32))


def dense(stars: sp.csr_array) -> torch.Tensor:
    return torch.from_numpy(stars.toarray()).double()


def bags_of(stars: sp.csr_array) -> Bags:
    return Bags.of(stars, CPU, torch.float64)


sizes = given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 40))


@settings(deadline=None)
@sizes
def test_bags_sum_and_transpose_as_matrices_do(seed: int, users: int, items: int) -> None:
    stars = some_stars(seed, users, items)
    bags, matrix = bags_of(stars), dense(stars)
    table = torch.randn((items, 3), dtype=torch.float64)
    weighted = matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1).sqrt()
    torch.testing.assert_close(bags.sums(table), weighted @ table)
    torch.testing.assert_close(bags.sums(table, weighted=False), matrix @ table)
    gradient = torch.randn((users, 3), dtype=torch.float64)
    torch.testing.assert_close(bags.gradient(gradient, items), weighted.T @ gradient)
    found, back = bags.transposed()
    assert found.tolist() == np.flatnonzero(stars.sum(axis=0)).tolist()
    torch.testing.assert_close(back.sums(gradient), (weighted.T @ gradient)[found])


@settings(deadline=None)
@sizes
def test_parts_of_bags_are_their_users(seed: int, users: int, items: int) -> None:
    bags = bags_of(some_stars(seed, users, items))
    table = torch.randn((items, 3), dtype=torch.float64)
    cut = users // 2
    halves = [bags.part(0, cut).sums(table), bags.part(cut, users).sums(table)]
    torch.testing.assert_close(torch.cat(halves), bags.sums(table))


def test_dropping_hides_items_and_keeps_the_expectation() -> None:
    stars = sp.csr_array(np.ones((200, 50), np.float32))
    bags = bags_of(stars)
    dropped = bags.dropped(0.3, torch.Generator().manual_seed(0))
    assert len(dropped.items) == pytest.approx(0.7 * stars.nnz, rel=0.03)
    table = torch.ones((50, 1), dtype=torch.float64)
    assert float(dropped.sums(table).mean()) == pytest.approx(float(bags.sums(table).mean()), rel=0.02)
    assert torch.equal(dropped.lengths, bags.lengths), "the loss still counts what the user has"
    again = bags.dropped(0.3, torch.Generator().manual_seed(0))
    assert torch.equal(dropped.items, again.items)
    assert bags.dropped(0.0, torch.Generator()) is bags


def by_autograd(
    weight: torch.Tensor, bias: torch.Tensor, z: torch.Tensor, matrix: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    weight, bias, z = (value.clone().requires_grad_() for value in (weight, bias, z))
    likelihood = (matrix * torch.log_softmax(z @ weight.T + bias, dim=1)).sum(dim=1)
    likelihood.sum().backward()
    return weight.grad, bias.grad, likelihood.detach(), z.grad


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 40), st.sampled_from([1.0, 40.0, 300.0]))
def test_likelihood_and_gradients_are_autograds_however_large_the_logits(
    seed: int, users: int, items: int, size: float
) -> None:
    stars = some_stars(seed, users, items)
    generator = torch.Generator().manual_seed(seed)
    weight, z = (torch.randn((n, 5), generator=generator, dtype=torch.float64) for n in (items, users))
    bias = torch.randn(items, generator=generator, dtype=torch.float64) * size
    expected = by_autograd(weight, bias, z, dense(stars))
    output = SoftmaxOutput(weight, bias, torch.float64)
    likelihood, z_gradient = output.likelihood(z, bags_of(stars))
    torch.testing.assert_close(likelihood, expected[2], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(z_gradient, expected[3], rtol=1e-8, atol=1e-8)
    found = output.likelihood_gradients(z, bags_of(stars), 1.0)
    for name, fast, slow in zip(("weight", "bias", "likelihood", "z"), found, expected, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")


def test_several_blocks_of_items_give_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    stars = some_stars(0, 6, 37)
    weight, z, bias = torch.randn(37, 5).double(), torch.randn(6, 5).double(), torch.randn(37).double()
    whole = SoftmaxOutput(weight, bias, torch.float64).likelihood_gradients(z, bags_of(stars), 1.0)
    monkeypatch.setattr(engine, "BLOCK", 8)
    parts = SoftmaxOutput(weight, bias, torch.float64).likelihood_gradients(z, bags_of(stars), 1.0)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


def test_bfloat16_is_near() -> None:
    stars = some_stars(0, 50, 300)
    weight, z, bias = torch.randn(300, 20) * 0.2, torch.randn(50, 20), torch.randn(300)
    expected = by_autograd(weight.double(), bias.double(), z.double(), dense(stars))
    output = SoftmaxOutput(weight, bias, torch.bfloat16)
    found = output.likelihood_gradients(z, Bags.of(stars, CPU), 1.0)
    for fast, slow in zip(found, expected, strict=True):
        assert fast.dtype == torch.float32
        assert float((fast - slow).norm() / slow.norm()) < 0.02


def test_gradients_lie_in_memory_as_the_parameters_do() -> None:
    """The fused Adam reads them so, whatever their strides: it learned nonsense from a view once."""
    output = SoftmaxOutput(torch.randn(30, 5), torch.randn(30), torch.float32)
    weight, bias, *_ = output.likelihood_gradients(torch.randn(4, 5), Bags.of(some_stars(0, 4, 30), CPU), 1.0)
    assert weight.is_contiguous()
    assert bias.is_contiguous()


class AdamOfRows(Protocol):
    def step(self, bags: Bags, of_sums: torch.Tensor, adam_step: AdamStep) -> None: ...


def assert_row_wise(make: Callable[[torch.Tensor], AdamOfRows], lazy: bool) -> None:
    """What it makes for a table takes the reference's steps, and lazily leaves other rows alone."""
    torch.manual_seed(0)
    ours = torch.randn(900, 7, dtype=torch.float64)
    theirs = ours.clone()
    adam, reference = make(ours), RowWiseAdam(theirs, 0.01, lazy)
    for number in range(1, 9):
        stars = some_stars(number, 12, 700)
        stars = sp.csr_array((stars.data, stars.indices, stars.indptr), shape=(12, 900))  # nobody has the last 200
        bags, of_sums, before = bags_of(stars), torch.randn(12, 7, dtype=torch.float64), ours.clone()
        reference.step(bags.gradient(of_sums, 900))
        adam.step(bags, of_sums, AdamStep(0.01, number))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        if lazy:
            assert torch.unique((ours != before).nonzero()[:, 0]).tolist() == torch.unique(bags.items).tolist()
        assert torch.equal(ours[700:], before[700:])


@pytest.mark.parametrize("lazy", [False, True])
def test_row_adam_is_row_wise_adam_and_lazily_leaves_other_rows_alone(lazy: bool) -> None:
    assert_row_wise(lambda table: RowAdam(table, lazy), lazy)


@pytest.mark.parametrize("row_wise", [False, True])
def test_adam_of_whole_parameters_is_row_wise_for_matrices_or_torchs(row_wise: bool) -> None:
    torch.manual_seed(0)
    theirs = {name: torch.nn.Parameter(torch.randn(shape).double()) for name, shape in SHAPES.items()}
    ours = {name: parameter.detach().clone() for name, parameter in theirs.items()}
    plain = [parameter for parameter in theirs.values() if not row_wise or parameter.ndim == 1]
    adam, reference = DenseAdam(ours, row_wise=row_wise), torch.optim.Adam(plain)
    rows = RowWiseAdam(theirs["weight"], 0.1)
    for number in range(1, 9):
        rate = 0.1 / number
        gradients = {name: torch.randn_like(parameter) for name, parameter in theirs.items()}
        rows.lr = reference.param_groups[0]["lr"] = rate
        for name, parameter in theirs.items():
            parameter.grad = gradients[name].detach()
        if row_wise:
            rows.step(gradients["weight"].detach())
        reference.step()
        adam.step({name: gradient.detach() for name, gradient in gradients.items()}, rate)
    for name, parameter in theirs.items():
        torch.testing.assert_close(ours[name], parameter.detach(), rtol=1e-9, atol=1e-12)
    assert adam.moments().keys() == {f"{name}.{key}" for name in ours for key in ("exp_avg", "exp_avg_sq")}


def test_item_factors_are_the_leading_singular_vectors() -> None:
    stars = taste_matrix(users=120)
    rows, columns = stars.toarray().sum(axis=1, keepdims=True), stars.toarray().sum(axis=0, keepdims=True)
    normalized = stars.toarray() / np.sqrt(rows) / np.sqrt(np.maximum(columns, 1))
    _, values, right = np.linalg.svd(normalized, full_matrices=False)
    factors = item_factors(stars, 5)
    expected = right[:5].T * np.sqrt(values[:5])
    np.testing.assert_allclose(factors @ factors.T, expected @ expected.T, atol=1e-3)
    assert item_factors(sp.csr_array(np.ones((1, 4), np.float32)), 3).shape == (4, 0)


def test_precision_is_measured_or_given() -> None:
    assert precision("auto", CPU) in (torch.float32, torch.bfloat16)
    assert precision("auto", CPU) == precision("auto", CPU)
    assert precision("float64", CPU) == torch.float64
    with pytest.raises(ConfigurationError, match="'float8' is none of auto"):
        precision("float8", CPU)
