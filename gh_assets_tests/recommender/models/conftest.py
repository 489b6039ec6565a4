"""Stars that the models' gradients are compared on."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp


@pytest.fixture
def stars() -> sp.csr_array:
    """Twelve users; all of them have the first item."""
    rng = np.random.default_rng(1)
    dense = (rng.random((12, 30)) < 0.25).astype(np.float32)
    dense[:, 0] = 1
    return sp.csr_array(dense)
