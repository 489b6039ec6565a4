"""Model cards: which descriptions are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gh_assets.errors import InputError
from gh_assets.registry import ModelCard


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"score": float("inf")}, "not finite"),
        ({"score": -float("inf")}, "not finite"),
        ({"direction": "up"}, "The direction 'up' is neither 'max' nor 'min'"),
        ({"config": {"x": "y" * 2_000_000}}, r"takes 2\.0 MB: the maximum is 1 MB"),
        ({"config": {"x": object()}}, "cannot be stored in Mongo"),
    ],
)
def test_card_that_is_wrong_too_large_or_not_storable_is_refused(fields: dict[str, Any], reason: str) -> None:
    card: dict[str, Any] = {"name": "recvae", "score": 0.5, **fields}
    with pytest.raises(InputError, match=reason):
        ModelCard(**card)


def test_metrics_become_floats_and_tags_unique() -> None:
    float32: Any = np.float32(0.25)
    card = ModelCard("recvae", 0.5, tags=("a", "b", "a"), metrics={"recall@20": float32})
    assert card.tags == ("a", "b")
    assert type(card.metrics["recall@20"]) is float
