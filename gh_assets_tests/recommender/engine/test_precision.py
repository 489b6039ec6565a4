"""The choice of the precision."""

import pytest
import torch

from gh_assets.errors import ConfigurationError
from gh_assets.recommender.engine.precision import precision

CPU = torch.device("cpu")


def test_precision_is_measured_or_given() -> None:
    assert precision("auto", CPU) in (torch.float32, torch.bfloat16)
    assert precision("auto", CPU) == precision("auto", CPU)
    assert precision("float64", CPU) == torch.float64
    with pytest.raises(ConfigurationError, match="'float8' is none of auto"):
        precision("float8", CPU)
