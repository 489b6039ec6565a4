"""The kernels against the torch operations that they replace, and what they promise besides."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from gh_assets.recommender.cpu import kernels
from gh_assets.recommender.cpu.kernel import CHUNKS, Kernel
from gh_assets.recommender.cpu.llvm_internals import usable
from gh_assets.recommender.engine.adam import AdamStep, RowAdam
from gh_assets.recommender.engine.bags import Bags
from gh_assets_tests.support.matrices import random_stars
from gh_assets_tests.support.reference_models import assert_row_wise

pytestmark = pytest.mark.skipif(not usable(), reason="torch runs on another thread library than GNU OpenMP")

REAL = {torch.float64: torch.float64, torch.float32: torch.float32, torch.bfloat16: torch.float32}
SIZES = {"users": 37, "width": 21, "latent": 9, "inputs": 9, "items": 70, "rows": 70, "blocks": 3, "size": 101}
SIZES |= {"stars": 150, "users_in_batch": 40, "users_here": 40, "every_user": 61, "every_star": 600, "noise": 8}
SIZES |= {"boundaries": 38}

Arguments = dict[str, torch.Tensor | int | float]


def bags(users: int, items: int, stars: int) -> dict[str, torch.Tensor]:
    """Offsets and items of bags, some of them empty."""
    ends = torch.cat([torch.zeros(2), torch.randint(0, stars, (users - 2,)).sort().values, torch.tensor([stars])])
    return {"offsets": ends.long(), "items": torch.randint(0, items, (stars,))}


def example(kernel: Kernel, dtype: torch.dtype) -> Arguments:
    """Random arguments; variances, normalizers and constants of Adam are positive, indices in range."""
    special: Arguments = {"settings": torch.tensor([5, 0, 0]), "is_first": 0, "is_last": 0}
    special |= {"all_offsets": torch.arange(61) * 4, "batch": torch.randperm(60)[:37]}
    special["constants"] = torch.tensor([0.1, 0.999, 0.03, 2.0, 1e-8])
    matrix = bags(70, 37, 150)
    of_rows = {"row_offsets": matrix["offsets"], "row_users": matrix["items"], "count": torch.tensor([68])}
    of_rows |= {"touched": torch.randperm(70), "touched_offsets": matrix["offsets"]}
    if kernel is not kernels.transpose:
        special |= of_rows
    special |= bags(37, 70, 150)
    arguments: Arguments = {}
    for name, (kind, shape) in kernel.layout.items():
        lengths = [eval(size, {"CHUNKS": CHUNKS}, SIZES) for size in shape]
        value = special.get(name, 0.3)
        if name not in special and kind in ("int64", "int32"):
            value = torch.randint(0, 50, lengths, dtype=getattr(torch, kind))
        elif name not in special and kind != "number":
            value = torch.randn(lengths, dtype=torch.float64)
            if name in ("second", "sums", "parts", "lengths", "inverses"):
                value = value.abs() + 0.1
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value = value.to(dtype if kind == "stored" else REAL[dtype])
        arguments[name] = value
    return arguments


def assert_as_reference(kernel: Kernel, dtype: torch.dtype, arguments: Arguments) -> None:
    """Run a kernel and compare what it writes with its reference, computed in float64."""
    tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    exact = {name: t.double() if t.is_floating_point() else t.clone() for name, t in tensors.items()}
    expected = kernel.reference(SimpleNamespace(**{**arguments, **exact}))
    kernel.bound(dtype, **arguments)()
    rounding = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 2e-2}[dtype]
    assert expected
    for name, values in expected.items():
        actual = tensors[name].sum(dim=0) if kernel.layout[name][1][:1] == ["CHUNKS"] else tensors[name]
        actual = actual[tuple(slice(length) for length in values.shape)].double()
        error = float((actual - values).abs().max())
        assert error <= rounding * max(1.0, float(values.abs().max())), name


@pytest.mark.parametrize("dtype", REAL, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("kernel", kernels.KERNELS, ids=lambda kernel: kernel.name)
def test_a_kernel_computes_what_the_torch_operations_compute_that_it_replaces(
    kernel: Kernel, dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    assert_as_reference(kernel, dtype, example(kernel, dtype))


@pytest.mark.parametrize(("first", "last"), [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("kernel", [kernels.layer_forward, kernels.layer_backward], ids=["forward", "backward"])
def test_the_first_and_the_last_layer_differ_as_in_the_reference(kernel: Kernel, first: int, last: int) -> None:
    torch.manual_seed(1)
    arguments = example(kernel, torch.float64)
    arguments |= {name: value for name, value in {"is_first": first, "is_last": last}.items() if name in arguments}
    assert_as_reference(kernel, torch.float64, arguments)


def exponentials(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    result = logits.clone()
    sums = torch.empty((CHUNKS, logits.shape[1]), dtype=torch.float32)
    kernels.exponentials.bound(logits.dtype, logits=result, sums=sums)()
    return result, sums.sum(dim=0)


def test_exponentials_are_exact_to_the_last_digits_of_float32() -> None:
    logits = torch.linspace(-87, 88, 7 * 9999).view(7, 9999).contiguous()
    result, sums = exponentials(logits)
    error = (result.double() / logits.double().exp() - 1).abs()
    assert bool((error < 2.5e-7 + 1e-7 * logits.abs()).all()), "the second part is the rounding of the logit itself"
    torch.testing.assert_close(sums.double(), logits.double().exp().sum(dim=0), rtol=6e-6, atol=0)


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    logits = torch.randn((50, 40)).bfloat16()
    result, _ = exponentials(logits)
    wrong = result != logits.float().exp().bfloat16()
    assert wrong.float().mean() < 0.01, "only where the exponential itself lies between two numbers"


@pytest.mark.usefixtures("restored_threads")
def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    logits = torch.randn((1000, 30))
    sums = []
    for number in (1, 2, 5, 2):
        torch.set_num_threads(number)
        sums.append(exponentials(logits)[1])
    assert all(torch.equal(other, sums[0]) for other in sums)


def transposed(items: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor, rows: int) -> dict[str, torch.Tensor]:
    sizes = {"count": 1, "touched": rows, "touched_offsets": rows + 1, "row_offsets": rows + 1, "row_users": len(items)}
    result = {name: torch.empty(size, dtype=torch.int64) for name, size in sizes.items()}
    result["row_weights"] = torch.empty_like(weights)
    kernels.transpose.bound(weights.dtype, items=items, offsets=offsets, weights=weights, **result)()
    return result


@pytest.mark.parametrize("others", [0, 2], ids=["all users", "users behind others"])
def test_bags_are_transposed_in_order(others: int) -> None:
    items, offsets, weights = [3] * others + [4, 1, 1, 0, 4], [0, 2, 2, 5], [9.0] * others + [0.0, 1, 2, 3, 4]
    result = transposed(torch.tensor(items), torch.tensor(offsets) + others, torch.tensor(weights), 6)
    assert result["count"].tolist() == [3]
    assert result["touched"][:3].tolist() == [0, 1, 4]
    assert result["touched_offsets"][:4].tolist() == [0, 1, 3, 5]
    assert result["row_offsets"].tolist() == [0, 1, 3, 3, 3, 5, 5]
    assert result["row_users"][:5].tolist() == [2, 0, 2, 0, 2]
    assert result["row_weights"][:5].tolist() == [3, 1, 2, 0, 4]


def drawn(key: int, dropout: float, users: int = 500, size: int = 40_001) -> dict[str, torch.Tensor]:
    """Users of 0 to 40 stars; user n has the items n, n + 1 and so on."""
    counts = torch.arange(users) * 7 % 41
    all_offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    all_items = torch.cat([torch.arange(user, user + count) for user, count in enumerate(counts.tolist())])
    batch = torch.arange(users - 1, -1, -2)
    stars = int(counts[batch].sum())
    result = {name: torch.empty(stars, dtype=torch.int64) for name in ("items", "kept")}
    result |= {name: torch.empty(len(batch) + 1, dtype=torch.int64) for name in ("offsets", "kept_offsets")}
    result |= {name: torch.empty(stars) for name in ("weights", "kept_weights")}
    result |= {"lengths": torch.empty(len(batch)), "noise": torch.empty(size)}
    stars_of_all = {"all_offsets": all_offsets, "all_items": all_items.to(torch.int32)}
    settings = torch.tensor([key, round(dropout * 2**32), size])
    kernels.draw.bound(torch.float32, batch=batch, settings=settings, **stars_of_all, **result)()
    return result | {"batch": batch, "counts": counts[batch]}


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_draw_is_the_users_bags_and_what_dropout_leaves_whatever_the_number_of_threads(number: int) -> None:
    torch.set_num_threads(number)
    result = drawn(7, 0.3)
    assert result["lengths"].tolist() == result["counts"].tolist()
    bounds = list(zip(result["offsets"].tolist(), result["offsets"].tolist()[1:], strict=False))
    kept_bounds = list(zip(result["kept_offsets"].tolist(), result["kept_offsets"].tolist()[1:], strict=False))
    for user, (low, high), (kept_low, kept_high) in zip(result["batch"].tolist(), bounds, kept_bounds, strict=True):
        items, kept = result["items"][low:high].tolist(), result["kept"][kept_low:kept_high].tolist()
        assert items == list(range(user, user + high - low))
        assert [item for item in items if item in kept] == kept
        weight = max(high - low, 1) ** -0.5
        assert result["weights"][low:high].tolist() == pytest.approx([weight] * len(items))
        assert result["kept_weights"][kept_low:kept_high].tolist() == pytest.approx([weight / 0.7] * len(kept))
    assert result["kept_offsets"][-1] / len(result["items"]) == pytest.approx(0.7, abs=0.03)
    torch.set_num_threads(2)
    for name, tensor in drawn(7, 0.3).items():
        end = int(result["kept_offsets"][-1]) if name.startswith("kept") and "offsets" not in name else None
        assert torch.equal(tensor[:end], result[name][:end]), name


def test_noise_is_normal_and_determined_by_its_key() -> None:
    noise = torch.cat([drawn(key, 0.0)["noise"] for key in range(25)]).double().numpy()
    assert len(noise) > 1_000_000
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    assert abs(noise).max() > 4.5
    pairs = {"neighbours": 1, "drawn together": 20_001, "keys": 40_001}
    for name, apart in pairs.items():
        assert abs(np.corrcoef(noise[:-apart], noise[apart:])[0, 1]) < 5 / len(noise) ** 0.5, name
        assert abs(np.corrcoef(noise[:-apart] ** 2, noise[apart:] ** 2)[0, 1]) < 5 / len(noise) ** 0.5, name
    assert torch.equal(drawn(3, 0.0)["noise"], drawn(3, 0.9)["noise"])


class FusedRows:
    """Row-wise Adam as the fused steps compose it."""

    def __init__(self, table: torch.Tensor, lazy: bool, dtype: torch.dtype) -> None:
        self.table, self.lazy, self.dtype = table, lazy, dtype
        self.first, self.second = torch.zeros_like(table, dtype=dtype), torch.zeros_like(table[:, 0])
        self.copy = table.to(dtype)

    def step(self, bags: Bags, sum_gradients: torch.Tensor, adam_step: AdamStep) -> None:
        rows = len(self.table)
        result = transposed(bags.items, bags.offsets, bags.weights.to(sum_gradients.dtype), rows)
        row_offsets = result.pop("row_offsets")
        if not self.lazy:
            every = {"count": torch.tensor([rows]), "touched": torch.arange(rows), "touched_offsets": row_offsets}
            result |= every
        result |= {"gradients": sum_gradients, "first": self.first, "second": self.second, "weight": self.table}
        constants = torch.tensor(adam_step.constants, dtype=sum_gradients.dtype)
        kernels.adam_of_rows.bound(self.dtype, constants=constants, copy=self.copy, **result)()
        torch.testing.assert_close(self.copy.to(self.table), self.table, rtol=2**-8, atol=0)  # what sums see


@pytest.mark.parametrize("lazy", [False, True])
def test_adam_of_rows_is_row_wise_adam_and_lazily_leaves_other_rows_unchanged(lazy: bool) -> None:
    assert_row_wise(lambda table: FusedRows(table, lazy, torch.float64), lazy)


def test_first_moments_in_bfloat16_are_close() -> None:
    torch.manual_seed(0)
    table = torch.randn(300, 7)
    before, reference = table.clone(), table.clone()
    rough, exact = FusedRows(table, True, torch.bfloat16), RowAdam(reference, True)
    for number in range(1, 40):
        bags, sum_gradients = Bags.of(random_stars(number, 12, 300), torch.device("cpu")), torch.randn(12, 7)
        for adam in (rough, exact):
            adam.step(bags, sum_gradients, AdamStep(0.01, number))
    assert rough.first.dtype == torch.bfloat16
    assert float((table - reference).norm() / (reference - before).norm()) < 0.01
