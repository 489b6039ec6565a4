"""The typed form of a model's document, and of the original system's documents; the card from which it is made."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import bson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gh_assets.errors import InputError, StoredDataError
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


def _as_utc(value: object) -> object:
    """Convert a time to UTC. The original documents have Mongo dates, ISO 8601 text or seconds since 1970."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return dt.datetime.fromtimestamp(value, dt.UTC)
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            return value
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
    return value


def _nan_as_none(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


class RegisteredModel(BaseModel):
    """A model as its document describes it.

    Attributes
    ----------
    name : str
    version : int
        1, 2, 3, … of a name, in the order of registration; 0: registered before there were versions.
    serial : int
        1, 2, 3, … over all names, in the order of registration; 0: registered before there were versions.
    tags, score, metric, direction, metrics, intervals, config, data, lineage, fingerprint, run_id
        See `ModelCard`.
    time : datetime
        When it was registered (UTC), by the clock of the process that saved it. Order is by version, and over all
        names by serial number, because clocks can be set back.
    bucket, object, generation, sha256, crc32c, size : str or int
        Location and checksums of the object. The original documents have no checksums.
    file_name : str
        Name under which the file is downloaded.
    unpacked : int or None
        Size of the files in an archive, in bytes; None: not an archive.
    code_version : str or None
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: int = 0
    serial: int = 0
    tags: tuple[str, ...] = ()
    score: Annotated[float | None, BeforeValidator(_nan_as_none)] = None
    metric: str = ""
    direction: Direction = "max"
    metrics: Mapping[str, float] = Field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = Field(default_factory=dict)
    time: Annotated[dt.datetime, BeforeValidator(_as_utc)]
    bucket: str
    object: str
    generation: int | None = None
    sha256: str | None = None
    crc32c: str | None = None
    size: int | None = None
    file_name: str
    unpacked: int | None = None
    run_id: str | None = None
    code_version: str | None = None
    config: Mapping[str, Any] = Field(default_factory=dict)
    data: Mapping[str, Any] = Field(default_factory=dict)
    lineage: Mapping[str, str] = Field(default_factory=dict)
    fingerprint: str | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> RegisteredModel:
        """Return the model of a document, of any version of the project or of the original system.

        Raises
        ------
        StoredDataError
            If the document is incomplete or malformed; the message names the field.
        """
        fields = dict(document)
        if "bucket" not in fields and "bucket_name" in fields:
            # The original fields are name, bucket_name, file_name, time, score and tag; file_name is the object's name.
            fields["bucket"] = fields["bucket_name"]
            fields["object"] = fields.get("file_name")
            fields["file_name"] = PurePosixPath(str(fields.get("file_name"))).name
        if "tags" not in fields and fields.get("tag"):
            fields["tags"] = (fields["tag"],)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise StoredDataError(
                f"The document of model {str(document.get('name'))[:60]!r} is wrong at "
                f"{'.'.join(str(part) for part in first['loc'])!r}: {first['msg']}."
            ) from None

    def to_document(self) -> dict[str, Any]:
        """Return the document to store, including the fields ``tag`` and ``bucket_name`` of the original system."""
        document = self.model_dump()
        document["tags"] = list(self.tags)
        document["intervals"] = {name: list(ends) for name, ends in self.intervals.items()}
        return {**document, "tag": self.tag, "bucket_name": self.bucket}

    @property
    def tag(self) -> str:
        """First tag; empty if there is none."""
        return self.tags[0] if self.tags else ""

    @property
    def uri(self) -> str:
        return f"gs://{self.bucket}/{self.object}"

    @property
    def key(self) -> tuple[str, int]:
        """Name and version, which identify the model."""
        return self.name, self.version

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.name} {self.version}" if self.version else f"{self.name} of {self.time:%Y-%m-%d %H:%M}"

    @property
    def comparable_score(self) -> float:
        """Score of which more is better, whatever the direction; -inf without a score."""
        if self.score is None:
            return -math.inf
        return self.score if self.direction == "max" else -self.score


def flatten_metrics(name: str, board: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of a model and its baselines as a card holds them: ``ndcg@100``, ``ease ndcg@100``."""
    return {
        metric if model == name else f"{model} {metric}": value
        for model, metrics in board.items()
        for metric, value in metrics.items()
    }


def leaderboard(model: RegisteredModel) -> dict[str, dict[str, float]]:
    """Return the metrics by model, of this one and its baselines; the inverse of `flatten_metrics`."""
    board: dict[str, dict[str, float]] = {}
    for key, value in model.metrics.items():
        name, _, metric = key.rpartition(" ")
        board.setdefault(name or model.name, {})[metric] = value
    return board
