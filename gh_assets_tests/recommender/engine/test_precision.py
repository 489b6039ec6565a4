"""The choice of the precision."""

import llvmlite.binding
import pytest
import torch

from gh_assets.errors import ConfigurationError
from gh_assets.recommender.engine.precision import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx512bf16": True, "amx-bf16": False}, torch.bfloat16),
        ({"avx512bf16": False, "amx-bf16": True}, torch.bfloat16),
        ({"avx512bf16": False, "avx512f": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_precision_follows_from_what_the_processor_can_do(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", lambda: features)
    assert precision("auto", CPU) == expected


def test_precision_is_given_by_name() -> None:
    assert precision("float64", CPU) == torch.float64
    with pytest.raises(ConfigurationError, match="'float8' is none of auto"):
        precision("float8", CPU)
