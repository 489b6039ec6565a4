"""torch's version counter of a tensor, a private attribute."""

import torch

from gh_assets.recommender.cpu.torch_internals import Derived


def test_a_derived_value_is_computed_again_only_after_a_change() -> None:
    """If this fails after an upgrade of torch, find what replaces ``Tensor._version`` and change `torch_internals`."""
    parameter = torch.nn.Parameter(torch.ones(3))
    sums: list[float] = []

    def compute() -> float:
        sums.append(float(parameter.sum()))
        return sums[-1]

    total = Derived([parameter], compute)
    assert (total(), total(), sums) == (3.0, 3.0, [3.0])
    with torch.no_grad():
        parameter.add_(1.0)
    assert (total(), total(), sums) == (6.0, 6.0, [3.0, 6.0])
    parameter.detach().numpy()[:] = 5.0  # torch does not notice
    assert total() == 6.0
    total.forget()
    assert total() == 15.0
