"""The softmax over all items against autograd."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.recommender.engine import softmax
from gh_assets.recommender.engine.bags import Bags
from gh_assets.recommender.engine.softmax import SoftmaxOutput
from gh_assets_tests.support.matrices import random_stars
from gh_assets_tests.support.reference_models import dense_rows, exact_bags

CPU = torch.device("cpu")


def by_autograd(
    weight: torch.Tensor, bias: torch.Tensor, z: torch.Tensor, matrix: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    weight, bias, z = (value.clone().requires_grad_() for value in (weight, bias, z))
    likelihood = (matrix * torch.log_softmax(z @ weight.T + bias, dim=1)).sum(dim=1)
    torch.autograd.backward(likelihood.sum())
    return weight.grad, bias.grad, likelihood.detach(), z.grad


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 40), st.sampled_from([1.0, 40.0, 300.0]))
def test_likelihood_and_gradients_are_autograds_however_large_the_logits(
    seed: int, users: int, items: int, size: float
) -> None:
    stars = random_stars(seed, users, items)
    generator = torch.Generator().manual_seed(seed)
    weight, z = (torch.randn((n, 5), generator=generator, dtype=torch.float64) for n in (items, users))
    bias = torch.randn(items, generator=generator, dtype=torch.float64) * size
    expected = by_autograd(weight, bias, z, dense_rows(stars))
    output = SoftmaxOutput(weight, bias, torch.float64)
    likelihood, z_gradient = output.likelihood(z, exact_bags(stars))
    torch.testing.assert_close(likelihood, expected[2], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(z_gradient, expected[3], rtol=1e-8, atol=1e-8)
    result = output.likelihood_gradients(z, exact_bags(stars), 1.0)
    for fast, slow in zip(result, expected, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-8)


def test_several_blocks_of_items_give_the_result_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stars = random_stars(0, 6, 37)
    weight, z, bias = torch.randn(37, 5).double(), torch.randn(6, 5).double(), torch.randn(37).double()
    whole = SoftmaxOutput(weight, bias, torch.float64).likelihood_gradients(z, exact_bags(stars), 1.0)
    monkeypatch.setattr(softmax, "BLOCK", 8)
    parts = SoftmaxOutput(weight, bias, torch.float64).likelihood_gradients(z, exact_bags(stars), 1.0)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


def test_bfloat16_is_close_to_float64() -> None:
    stars = random_stars(0, 50, 300)
    weight, z, bias = torch.randn(300, 20) * 0.2, torch.randn(50, 20), torch.randn(300)
    expected = by_autograd(weight.double(), bias.double(), z.double(), dense_rows(stars))
    output = SoftmaxOutput(weight, bias, torch.bfloat16)
    result = output.likelihood_gradients(z, Bags.of(stars, CPU), 1.0)
    for fast, slow in zip(result, expected, strict=True):
        assert fast is not None
        assert slow is not None
        assert fast.dtype == torch.float32
        assert float((fast - slow).norm() / slow.norm()) < 0.02


def test_gradients_have_the_memory_layout_of_the_parameters() -> None:
    """The fused Adam ignores strides: with a view as gradient it once trained nonsense."""
    output = SoftmaxOutput(torch.randn(30, 5), torch.randn(30), torch.float32)
    weight, bias, *_ = output.likelihood_gradients(torch.randn(4, 5), Bags.of(random_stars(0, 4, 30), CPU), 1.0)
    assert weight.is_contiguous()
    assert bias.is_contiguous()
