"""Fixtures of the recommender's tests."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Restore torch's number of threads after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
