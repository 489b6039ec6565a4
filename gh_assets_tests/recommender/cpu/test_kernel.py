"""Binding and compiling kernels: checks of their arguments, the disk cache."""

import errno

import pytest
import torch
from numba.core import caching

from gh_assets.recommender.cpu import kernel, kernels
from gh_assets.recommender.cpu.kernel import CHUNKS
from gh_assets.recommender.cpu.llvm_internals import usable

pytestmark = pytest.mark.skipif(not usable(), reason="torch runs on another thread library than GNU OpenMP")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": torch.zeros(3, 4).T}, ValueError, "logits must be contiguous"),
        ({"sums": torch.zeros(CHUNKS, 4)}, ValueError, r"sums must have the shape \(32, 3\), not \(32, 4\)"),
        ({"sums": torch.zeros(CHUNKS, 3).double()}, TypeError, "sums must be a tensor of torch.float32"),
        ({"sums": 3}, TypeError, "sums must be a tensor of torch.float32"),
        ({"other": 3}, TypeError, "exponentials takes logits, sums; not logits, sums, other"),
    ],
)
def test_arguments_that_do_not_fit_the_declaration_are_rejected(
    change: dict[str, torch.Tensor | int], error: type[Exception], message: str
) -> None:
    arguments = {"logits": torch.zeros(4, 3), "sums": torch.zeros(CHUNKS, 3), **change}
    with pytest.raises(error, match=message):
        kernels.exponentials.bound(torch.float32, **arguments)


@pytest.mark.parametrize("problem", ["nowhere to write", "disk full"])
def test_kernels_run_where_they_cannot_be_cached(monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if problem == "disk full":
        monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
        monkeypatch.setattr(caching.IndexDataCacheFile, "load", lambda *arguments: None)
    else:
        monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    layout = {"logits": "stored items users", "sums": "real CHUNKS users"}
    fresh = kernel.Kernel(kernels.exponentials.body, "rows", "CHUNKS", layout)
    logits, sums = torch.zeros((4, 3)), torch.empty((CHUNKS, 3))
    fresh.bound(torch.float32, logits=logits, sums=sums)()
    assert sums.sum(dim=0).tolist() == [4.0, 4.0, 4.0]
