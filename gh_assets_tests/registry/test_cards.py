"""Model cards: which descriptions are refused."""

from __future__ import annotations

import numpy as np
import pytest

from gh_assets.errors import InputError
from gh_assets.registry import ModelCard


@pytest.mark.parametrize("score", [float("inf"), -float("inf")])
def test_infinite_score_is_refused(score: float) -> None:
    with pytest.raises(InputError, match="not finite"):
        ModelCard("recvae", score)


def test_unknown_direction_is_refused() -> None:
    with pytest.raises(InputError, match="The direction 'up' is neither 'max' nor 'min'"):
        ModelCard("recvae", 0.5, direction="up")


def test_metrics_become_floats_and_tags_unique() -> None:
    card = ModelCard("recvae", 0.5, tags=("a", "b", "a"), metrics={"recall@20": np.float32(0.25)})
    assert card.tags == ("a", "b")
    assert type(card.metrics["recall@20"]) is float


def test_card_that_is_too_large_or_not_storable_is_refused() -> None:
    with pytest.raises(InputError, match=r"takes 2\.0 MB: the maximum is 1 MB"):
        ModelCard("recvae", 0.5, config={"x": "y" * 2_000_000})
    with pytest.raises(InputError, match="cannot be stored in Mongo"):
        ModelCard("recvae", 0.5, config={"x": object()})
