"""Stars that the models' gradients are compared on."""

import pytest
import scipy.sparse as sp

from gh_assets_tests.support.matrices import twelve_users


@pytest.fixture
def stars() -> sp.csr_array:
    return twelve_users()
