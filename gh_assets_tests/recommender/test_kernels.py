"""The fused kernels: what they compute is proven where they are used; here, what they promise besides."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
import torch
from numba.core import caching

from gh_assets.recommender import kernels

pytestmark = pytest.mark.skipif(not kernels.usable(), reason="torch runs on another thread library than GNU OpenMP")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def exponentials(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    result = logits.clone()
    sums = torch.empty((kernels.CHUNKS, logits.shape[1]), dtype=torch.float32)
    kernels.exponentials(logits.dtype, *logits.shape, result, sums)
    return result, sums.sum(dim=0)


def test_exponentials_are_exact_to_the_last_digits_of_float32() -> None:
    logits = torch.linspace(-87, 88, 7 * 9999).view(7, 9999).contiguous()
    found, sums = exponentials(logits)
    error = (found.double() / logits.double().exp() - 1).abs()
    assert bool((error < 2.5e-7 + 1e-7 * logits.abs()).all()), "the second part is the rounding of the logit itself"
    torch.testing.assert_close(sums.double(), logits.double().exp().sum(dim=0), rtol=6e-6, atol=0)


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    logits = torch.randn((50, 40)).bfloat16()
    found, _ = exponentials(logits)
    wrong = found != logits.float().exp().bfloat16()
    assert wrong.float().mean() < 0.01, "only where the exponential itself lies between two"


@pytest.mark.usefixtures("threads")
def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    logits = torch.randn((1000, 30))
    results = []
    for number in (1, 2, 5, 2):
        torch.set_num_threads(number)
        results.append(exponentials(logits)[1])
    assert all(torch.equal(result, results[0]) for result in results)


def test_items_are_turned_around_in_order() -> None:
    items, offsets = torch.tensor([4, 1, 1, 0, 4]), torch.tensor([0, 2, 2, 5])
    starts, users, order = kernels.by_item(items, offsets, 6)
    assert starts.tolist() == [0, 1, 3, 3, 3, 5, 5]
    assert users.tolist() == [2, 0, 2, 0, 2]
    assert order.tolist() == [3, 1, 2, 0, 4]


def test_an_array_that_does_not_lie_in_one_piece_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        kernels.exponentials(torch.float32, 4, 3, torch.zeros(3, 4).T, torch.zeros(kernels.CHUNKS, 3))


@pytest.mark.parametrize("trouble", ["nowhere to write", "disk full"])
def test_they_run_where_they_cannot_be_kept(monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if trouble == "disk full":
        monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
        monkeypatch.setattr(caching.IndexDataCacheFile, "load", lambda *arguments: None)
    else:
        monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    fresh = kernels.Kernel(kernels.exponentials.body)
    logits, sums = torch.zeros((4, 3)), torch.empty((kernels.CHUNKS, 3))
    fresh(torch.float32, 4, 3, logits, sums)
    assert sums.sum(dim=0).tolist() == [4.0, 4.0, 4.0]
