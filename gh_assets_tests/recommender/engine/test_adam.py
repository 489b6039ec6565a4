"""Adam against its reference, for whole parameters and for rows."""

import pytest
import torch

from gh_assets.recommender.engine.adam import DenseAdam, RowAdam
from gh_assets_tests.support.reference_models import RowWiseAdam, assert_row_wise

SHAPES = {"weight": (5, 7), "bias": (5,)}


@pytest.mark.parametrize("lazy", [False, True])
def test_row_adam_is_row_wise_adam_and_lazily_leaves_other_rows_unchanged(lazy: bool) -> None:
    assert_row_wise(lambda table: RowAdam(table, lazy), lazy)


@pytest.mark.parametrize("row_wise", [False, True])
def test_adam_of_whole_parameters_is_row_wise_for_matrices_or_that_of_torch(row_wise: bool) -> None:
    torch.manual_seed(0)
    expected = {name: torch.nn.Parameter(torch.randn(shape).double()) for name, shape in SHAPES.items()}
    actual = {name: parameter.detach().clone() for name, parameter in expected.items()}
    plain = [parameter for parameter in expected.values() if not row_wise or parameter.ndim == 1]
    adam, reference = DenseAdam(actual, row_wise=row_wise), torch.optim.Adam(plain)
    rows = RowWiseAdam(expected["weight"], 0.1)
    for number in range(1, 9):
        rate = 0.1 / number
        gradients = {name: torch.randn_like(parameter) for name, parameter in expected.items()}
        rows.lr = reference.param_groups[0]["lr"] = rate
        for name, parameter in expected.items():
            parameter.grad = gradients[name].detach()
        if row_wise:
            rows.step(gradients["weight"].detach())
        reference.step()
        adam.step({name: gradient.detach() for name, gradient in gradients.items()}, adam.next_step(rate))
    for name, parameter in expected.items():
        torch.testing.assert_close(actual[name], parameter.detach(), rtol=1e-9, atol=1e-12)
    assert adam.moments().keys() == {f"{name}.{key}" for name in actual for key in ("exp_avg", "exp_avg_sq")}
