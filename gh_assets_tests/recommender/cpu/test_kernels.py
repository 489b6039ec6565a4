"""The fused kernels: what they compute is proven where they are used; here, what they promise besides."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import caching
from scipy import stats

from gh_assets.recommender.cpu import fused, kernels
from gh_assets.recommender.training.engine import AdamStep, Bags, RowAdam
from gh_assets_tests.recommender.training.test_engine import assert_row_wise, some_stars

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


@pytest.mark.parametrize("others", [0, 2], ids=["all users", "users behind others"])
def test_items_are_turned_around_in_order(others: int) -> None:
    items, offsets, weights = [3] * others + [4, 1, 1, 0, 4], [0, 2, 2, 5], [9.0] * others + [0.0, 1, 2, 3, 4]
    given = torch.tensor(items), torch.tensor(offsets) + others, torch.tensor(weights)
    found, rows, starts, of_all, users = (torch.empty(size, dtype=torch.int64) for size in (1, 6, 7, 7, 5))
    ordered = torch.empty(5)
    kernels.turn_around(torch.float32, 3, 6, *given, found, rows, starts, of_all, users, ordered)
    assert found.tolist() == [3]
    assert rows[:3].tolist() == [0, 1, 4]
    assert starts[:4].tolist() == [0, 1, 3, 5]
    assert of_all.tolist() == [0, 1, 3, 3, 3, 5, 5]
    assert users.tolist() == [2, 0, 2, 0, 2]
    assert ordered.tolist() == [3, 1, 2, 0, 4]


def drawn(key: int, dropout: float, users: int = 500, size: int = 40_001) -> dict[str, torch.Tensor]:
    """Users of 0 to 40 stars; user n has the items n, n + 1 and so on."""
    counts = torch.arange(users) * 7 % 41
    begins = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    all_items = torch.cat([torch.arange(user, user + count) for user, count in enumerate(counts.tolist())])
    which = torch.arange(users - 1, -1, -2)
    stars = int(counts[which].sum())
    whole = {name: torch.empty(stars, dtype=torch.int64) for name in ("items", "kept")}
    whole |= {name: torch.empty(len(which) + 1, dtype=torch.int64) for name in ("offsets", "kept_offsets")}
    real = {name: torch.empty(stars) for name in ("weights", "kept_weights")}
    real |= {"lengths": torch.empty(len(which)), "noise": torch.empty(size)}
    found = whole | real
    order = "items", "weights", "offsets", "lengths", "kept", "kept_weights", "kept_offsets", "noise"
    kernels.draw(
        torch.float32,
        *(len(which), users, len(all_items), size, key, round(dropout * 2**32)),
        *(which, begins, all_items.to(torch.int32)),
        *(found[name] for name in order),
    )
    return found | {"which": which, "counts": counts[which]}


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_draw_is_the_users_bags_and_what_dropout_leaves_whatever_the_number_of_threads(number: int) -> None:
    torch.set_num_threads(number)
    found = drawn(7, 0.3)
    assert found["lengths"].tolist() == found["counts"].tolist()
    bounds = list(zip(found["offsets"].tolist(), found["offsets"].tolist()[1:], strict=False))
    kept_bounds = list(zip(found["kept_offsets"].tolist(), found["kept_offsets"].tolist()[1:], strict=False))
    for user, (low, high), (kept_low, kept_high) in zip(found["which"].tolist(), bounds, kept_bounds, strict=True):
        items, kept = found["items"][low:high].tolist(), found["kept"][kept_low:kept_high].tolist()
        assert items == list(range(user, user + high - low))
        assert [item for item in items if item in kept] == kept
        weight = max(high - low, 1) ** -0.5
        assert found["weights"][low:high].tolist() == pytest.approx([weight] * len(items))
        assert found["kept_weights"][kept_low:kept_high].tolist() == pytest.approx([weight / 0.7] * len(kept))
    assert found["kept_offsets"][-1] / len(found["items"]) == pytest.approx(0.7, abs=0.03)
    torch.set_num_threads(2)
    for name, tensor in drawn(7, 0.3).items():
        end = int(found["kept_offsets"][-1]) if name.startswith("kept") and "offsets" not in name else None
        assert torch.equal(tensor[:end], found[name][:end]), name


def test_noise_is_normal_and_of_its_key_alone() -> None:
    noise = torch.cat([drawn(key, 0.0)["noise"] for key in range(25)]).double().numpy()
    assert len(noise) > 1_000_000
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    assert abs(noise).max() > 4.5
    pairs = {"neighbours": 1, "what one draw made together": 20_001, "keys": 40_001}
    for name, apart in pairs.items():
        assert abs(np.corrcoef(noise[:-apart], noise[apart:])[0, 1]) < 5 / len(noise) ** 0.5, name
        assert abs(np.corrcoef(noise[:-apart] ** 2, noise[apart:] ** 2)[0, 1]) < 5 / len(noise) ** 0.5, name
    assert torch.equal(drawn(3, 0.0)["noise"], drawn(3, 0.9)["noise"])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("number", [1, 2, 3])
def test_kernels_together_wait_for_one_another(number: int) -> None:
    """Each is given what the one before makes of all of it."""
    torch.set_num_threads(number)
    logits, sums = torch.zeros((kernels.CHUNKS, 6000)), torch.empty((kernels.CHUNKS, 6000))
    found = torch.empty((1, 6000))
    both = kernels.together(
        kernels.exponentials.bound(torch.float32, *logits.shape, logits, sums),
        kernels.add_chunks.bound(torch.float32, 1, 6000, sums, found),
    )
    for _ in range(20):
        found.zero_()
        logits.zero_()
        both()
        assert bool((found == kernels.CHUNKS).all())


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 40))
def test_a_table_in_halves_is_what_it_was(seed: int, rows: int, width: int) -> None:
    """Of any bits but those of what is no number."""
    bits = np.random.default_rng(seed).integers(0, 2**32, (rows, width), dtype=np.uint32)
    numbers = bits.view(np.float32)
    numbers[~np.isfinite(numbers) | (np.abs(numbers) > 3.3e38)] = 0.0
    table = torch.from_numpy(numbers.copy())
    with fused.in_halves(table, torch.bfloat16):
        upper = table.view(torch.bfloat16)[:, :width].float()
        normal = torch.from_numpy(np.abs(numbers) > 1e-37)
        away = (upper - torch.from_numpy(numbers)).abs()
        assert bool((away <= torch.from_numpy(np.abs(numbers)) * 2**-8)[normal].all())
    assert np.array_equal(table.numpy().view(np.uint32), numbers.view(np.uint32))
    for dtype, real in ((torch.float32, torch.float32), (torch.float64, torch.float64)):
        table = torch.from_numpy(numbers).to(real)
        before = table.clone()
        with fused.in_halves(table, dtype):
            assert torch.equal(table, before)
        assert torch.equal(table, before)


class FusedRows:
    """Row-wise Adam as `fused` puts it together."""

    def __init__(self, table: torch.Tensor, lazy: bool, dtype: torch.dtype) -> None:
        self.table, self.lazy, self.dtype = table, lazy, dtype
        self.first, self.second = torch.zeros_like(table, dtype=dtype), torch.zeros_like(table[:, 0])

    def step(self, bags: Bags, of_sums: torch.Tensor, adam_step: AdamStep) -> None:
        rows, width = self.table.shape
        users, stars = len(of_sums), len(bags.items)
        count, which, starts, of_all, who = (
            torch.empty(size, dtype=torch.int64) for size in (1, rows, rows + 1, rows + 1, stars)
        )
        ordered = torch.empty_like(bags.weights)
        given = bags.items, bags.offsets, bags.weights
        kernels.turn_around(of_sums.dtype, users, rows, *given, count, which, starts, of_all, who, ordered)
        if not self.lazy:
            count, which, starts = torch.tensor([rows]), torch.arange(rows), of_all
        numbers = torch.tensor(adam_step.numbers, dtype=of_sums.dtype)
        with fused.in_halves(self.table, self.dtype):
            kernels.adam_of_rows(
                self.dtype,
                *(count, width, rows, users, which, starts, who, ordered, of_sums),
                *(self.table, self.first, self.second, numbers),
            )


@pytest.mark.parametrize("lazy", [False, True])
def test_adam_of_rows_is_row_wise_adam_and_lazily_leaves_other_rows_alone(lazy: bool) -> None:
    assert_row_wise(lambda table: FusedRows(table, lazy, torch.float64), lazy)


def test_first_moments_in_bfloat16_are_near() -> None:
    torch.manual_seed(0)
    ours = torch.randn(300, 7)
    theirs = ours.clone()
    rough, exact = FusedRows(ours, True, torch.bfloat16), RowAdam(theirs, True)
    before = ours.clone()
    for number in range(1, 40):
        bags, of_sums = Bags.of(some_stars(number, 12, 300), torch.device("cpu")), torch.randn(12, 7)
        for adam in (rough, exact):
            adam.step(bags, of_sums, AdamStep(0.01, number))
    assert rough.first.dtype == torch.bfloat16
    assert float((ours - theirs).norm() / (theirs - before).norm()) < 0.01


def test_a_sum_of_halved_rows_sees_their_bfloat16_numbers() -> None:
    stars = some_stars(0, 30, 50)
    bags, table, start = Bags.of(stars, torch.device("cpu")), torch.randn(50, 21), torch.randn(21)
    out, expected = torch.empty(30, 21), bags.sums(table.bfloat16().float()) + start
    with fused.in_halves(table, torch.bfloat16):
        sizes = *out.shape, len(table)
        kernels.sums_of_halved_rows(torch.bfloat16, *sizes, bags.items, bags.weights, bags.offsets, start, table, out)
    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)
    out, expected = out.double(), bags.sums(table).double() + start
    kernels.sums_of_halved_rows(
        torch.float64, *sizes, bags.items, bags.weights.double(), bags.offsets, start.double(), table.double(), out
    )
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_what_interrupts_an_epoch_leaves_the_embeddings_whole() -> None:
    table = torch.randn(5, 7)
    before = table.clone()

    def interrupted() -> None:
        with fused.in_halves(table, torch.bfloat16):
            assert not torch.equal(table, before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(table, before)


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
