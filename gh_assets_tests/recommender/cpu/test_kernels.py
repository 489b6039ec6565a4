"""The kernels against the torch operations that they replace, and what they promise besides."""

from types import SimpleNamespace

import pytest
import torch

from gh_assets.recommender.cpu import kernels
from gh_assets.recommender.cpu.kernel import CHUNKS, Kernel
from gh_assets.recommender.cpu.llvm_internals import usable
from gh_assets.recommender.engine.adam import AdamStep, RowAdam
from gh_assets.recommender.engine.bags import Bags
from gh_assets_tests.support.matrices import random_stars
from gh_assets_tests.support.reference_models import assert_row_wise

pytestmark = pytest.mark.skipif(not usable(), reason="torch runs on another thread library than GNU OpenMP")

REAL = {torch.float64: torch.float64, torch.float32: torch.float32, torch.bfloat16: torch.float32}
SIZES = {"users": 37, "width": 21, "columns": 23, "latent": 9, "items": 70, "rows": 70, "blocks": 3, "size": 101}
SIZES |= {"stars": 150, "every_user": 61, "every_star": 600, "boundaries": 38, "row_boundaries": 71, "copied": 24}

Arguments = dict[str, torch.Tensor | int | float]


def bags(users: int, items: int, stars: int) -> dict[str, torch.Tensor]:
    """Offsets and items of bags, some of them empty."""
    ends = torch.cat([torch.zeros(2), torch.randint(0, stars, (users - 2,)).sort().values, torch.tensor([stars])])
    return {"offsets": ends.long(), "items": torch.randint(0, items, (stars,))}


def example(kernel: Kernel, dtype: torch.dtype) -> Arguments:
    """Random arguments; variances, normalizers and constants of Adam are positive, indices in range."""
    special: Arguments = {"is_first": 0, "is_last": 0, "lazy": 1, "dropout": torch.tensor([0.5])}
    special |= {"all_offsets": torch.arange(61) * 4, "batch": torch.randperm(60)[:37], "chances": torch.rand(150)}
    special["constants"] = torch.tensor([0.1, 0.999, 0.03, 2.0, 1e-8])
    if kernel is kernels.adam_of_rows:
        matrix = bags(70, 37, 150)
        special |= {"row_offsets": matrix["offsets"], "row_users": matrix["items"]}
    special |= bags(37, 70, 150)
    arguments: Arguments = {}
    for name, (kind, shape) in kernel.layout.items():
        lengths = [eval(size, {"CHUNKS": CHUNKS}, SIZES) for size in shape]
        value = special.get(name, 0.3)
        if name not in special and kind in ("int64", "int32"):
            value = torch.randint(0, 50, lengths, dtype=getattr(torch, kind))
        elif name not in special and kind != "number":
            value = torch.randn(lengths, dtype=torch.float64)
            if name in ("second", "sums", "parts", "lengths", "inverses", "weights"):
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


def transposed(items: torch.Tensor, offsets: torch.Tensor, rows: int) -> dict[str, torch.Tensor]:
    result = {"row_offsets": torch.empty(rows + 1, dtype=torch.int64), "row_users": torch.empty_like(items)}
    kernels.transpose.bound(torch.float32, items=items, offsets=offsets, **result)()
    return result


def test_bags_are_transposed_in_order() -> None:
    result = transposed(torch.tensor([4, 1, 1, 0, 4]), torch.tensor([0, 2, 2, 5]), 6)
    assert result["row_offsets"].tolist() == [0, 1, 3, 3, 3, 5, 5]
    assert result["row_users"].tolist() == [2, 0, 2, 0, 2]


class FusedRows:
    """Row-wise Adam as the fused steps compose it."""

    def __init__(self, table: torch.Tensor, lazy: bool, dtype: torch.dtype) -> None:
        self.table, self.lazy, self.dtype = table, lazy, dtype
        self.first, self.second = torch.zeros_like(table, dtype=dtype), torch.zeros_like(table[:, 0])
        self.copy = table.to(dtype)

    def step(self, bags: Bags, sum_gradients: torch.Tensor, adam_step: AdamStep) -> None:
        weights = (
            torch.zeros(len(sum_gradients)).to(sum_gradients).index_copy(0, bags.users, bags.weights.to(sum_gradients))
        )
        result: Arguments = {**transposed(bags.items, bags.offsets, len(self.table)), "lazy": self.lazy}
        result |= {"first": self.first, "second": self.second, "weight": self.table, "copy": self.copy}
        result |= {"gradients": (sum_gradients * weights[:, None]).to(self.dtype)}
        constants = torch.tensor(adam_step.constants, dtype=sum_gradients.dtype)
        kernels.adam_of_rows.bound(self.dtype, constants=constants, **result)()
        torch.testing.assert_close(self.copy.to(self.table), self.table, rtol=2**-8, atol=0)  # what sums see


@pytest.mark.parametrize("lazy", [False, True])
def test_adam_of_rows_is_row_wise_adam_and_lazily_leaves_other_rows_unchanged(lazy: bool) -> None:
    assert_row_wise(lambda table: FusedRows(table, lazy, torch.float64), lazy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_results_do_not_depend_on_addresses(dtype: torch.dtype) -> None:
    """Rows of 16 numbers: the compiler makes several versions of a loop, of which some need arrays that lie apart."""
    torch.manual_seed(0)
    table, gradients = torch.randn(1000, 16), torch.randn(1000, 16).to(dtype)
    each, kept, results = torch.arange(1001), [], set()
    for number in range(200):
        place = 16 * (number % 17)
        weight = torch.zeros(16 * 1020)[place : place + 16 * 1000].view(1000, 16).copy_(table)
        copy = weight if dtype == torch.float32 else torch.zeros_like(gradients)
        first, second = torch.ones_like(gradients), torch.full((1000,), 0.3)
        kept.append([weight, copy, first, second, torch.zeros(37 * number % 1000 + 1)])
        state: Arguments = {"weight": weight, "copy": copy, "first": first, "second": second, "lazy": 0}
        bags = {"gradients": gradients.clone(), "row_users": each[:-1], "row_offsets": each}
        constants = torch.tensor([0.1, 0.999, 0.01, 3.0, 1e-8])
        kernels.adam_of_rows.bound(dtype, **state, **bags, constants=constants)()
        results.add(weight.numpy().tobytes())
    assert len(results) == 1


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
