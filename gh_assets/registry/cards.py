"""Model cards: what describes a model when it is saved, apart from its file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import bson

from gh_assets.errors import InputError
from gh_assets.registry.names import check_name

Direction = Literal["max", "min"]

MAX_DESCRIPTION = 1 << 20
"""Maximum size of a card's mappings in the model's document, in bytes."""


@dataclass(frozen=True)
class ModelCard:
    """Description of a model that is to be saved.

    Parameters
    ----------
    name : str
    score : float or None
        None or NaN: not scored, hence never the best.
    metric : str
        Metric of the score, such as ``ndcg@100``.
    direction : {"max", "min"}
        Whether higher or lower scores are better.
    tags : tuple of str
    metrics : mapping of float
        Metrics of the held-out users.
    intervals : mapping of (float, float)
        95 % intervals (low, high) of some metrics.
    config, data : mapping
        Hyper-parameters, and figures of the training data.
    lineage : mapping of str
        Where the training data came from, and the models that this one was made of.
    fingerprint : str or None
        Hash of everything that determines the training; an equal one need not be trained again.
    run_id : str or None

    Raises
    ------
    InputError
        If a name is not valid, the score is infinite, or the mappings cannot be stored or are too large.
    """

    name: str
    score: float | None
    metric: str = ""
    direction: Direction = "max"
    tags: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    run_id: str | None = None

    def __post_init__(self) -> None:
        check_name("model name", self.name)
        object.__setattr__(self, "tags", tuple(dict.fromkeys(check_name("tag", tag) for tag in self.tags)))
        object.__setattr__(self, "metrics", {name: float(value) for name, value in self.metrics.items()})
        if self.score is not None and math.isinf(self.score):
            raise InputError(f"The score {self.score} of model {self.name!r} is not finite: give None if it has none.")
        if self.direction not in ("max", "min"):
            raise InputError(f"The direction {self.direction!r} is neither 'max' nor 'min'.")
        self._check_size()

    def _check_size(self) -> None:
        mappings = (self.config, self.metrics, self.intervals, self.data, self.lineage)
        try:
            size = sum(len(bson.encode(dict(mapping))) for mapping in mappings)
        except (bson.errors.InvalidDocument, OverflowError, ValueError) as error:
            raise InputError(
                f"The card of model {self.name!r} cannot be stored in Mongo: {str(error)[:200]}."
            ) from None
        if size > MAX_DESCRIPTION:
            raise InputError(
                f"The card of model {self.name!r} takes {size / 1e6:.1f} MB: the maximum is "
                f"{MAX_DESCRIPTION / 1e6:.0f} MB. Put large data into the model's file."
            )
