"""What the registry knows of a model: the typed form of its document, and of the original system's documents."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gh_assets.errors import InputError, StoredDataError

Direction = Literal["max", "min"]

MAX_DESCRIPTION = 1 << 20
"""Bytes that configuration, metrics and data of a model may take in its document."""


def _moment(value: object) -> object:
    """A time as UTC. The original documents have it as Mongo's date, as ISO 8601 or as seconds since 1970."""
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


def _score(value: object) -> object:
    """NaN is no score."""
    return None if isinstance(value, float) and math.isnan(value) else value


class RegisteredModel(BaseModel):
    """One model, as its document describes it.

    Attributes
    ----------
    name : str
    version : int
        1, 2, 3, … of a name, in the order in which they became visible; 0: from before there were versions.
    serial : int
        1, 2, 3, … over all names, in the order in which they became visible; 0: from before there were versions.
    tags : tuple of str
    score : float or None
        Of the metric; None: not scored.
    metric : str
        What the score is, such as ``ndcg@100``.
    direction : {"max", "min"}
        Whether more or less of it is better.
    metrics, intervals : mapping
        All figures of the held-out users, and the 95 % intervals (low, high) of some.
    time : datetime
        When it was registered, by the clock of whoever did (UTC). Order is by version, and over all names by serial
        number: clocks run back.
    bucket, object, generation, sha256, crc32c, size : str or int
        Where its bytes are, and what they are. The original documents have no checksums.
    file_name : str
        What downloads call the file.
    unpacked : int or None
        Bytes of the files in it, if it is an archive.
    run_id, code_version : str or None
    config, data : mapping
        What it was trained with, and on: ``matrix_sha256``, ``users``, ``repositories``, ``stars``.
    lineage : mapping of str
        Where that came from: the matrix's address and generation, the models it was made of.
    fingerprint : str or None
        Of all that decides the training: equal ones need not be trained again.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: int = 0
    serial: int = 0
    tags: tuple[str, ...] = ()
    score: Annotated[float | None, BeforeValidator(_score)] = None
    metric: str = ""
    direction: Direction = "max"
    metrics: Mapping[str, float] = Field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = Field(default_factory=dict)
    time: Annotated[dt.datetime, BeforeValidator(_moment)]
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
        """From a document, of any version of the project or of the original system.

        Raises
        ------
        StoredDataError
            If it is incomplete; the message names what is wrong.
        """
        fields = dict(document)
        if "bucket" not in fields and "bucket_name" in fields:
            # name, bucket_name, file_name, time, score, tag: the object is called by its file's name.
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
        """As Mongo keeps it; with the fields ``tag`` and ``bucket_name`` of the original system beside our own."""
        document = self.model_dump()
        document["tags"] = list(self.tags)
        document["intervals"] = {name: list(ends) for name, ends in self.intervals.items()}
        return {**document, "tag": self.tag, "bucket_name": self.bucket}

    @property
    def tag(self) -> str:
        """The first tag; empty, if there is none."""
        return self.tags[0] if self.tags else ""

    @property
    def uri(self) -> str:
        return f"gs://{self.bucket}/{self.object}"

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.name} {self.version}" if self.version else f"{self.name} of {self.time:%Y-%m-%d %H:%M}"

    @property
    def comparable_score(self) -> float:
        """The score such that more is better, whatever the direction; -inf without one."""
        if self.score is None:
            return -math.inf
        return self.score if self.direction == "max" else -self.score


def flatten_metrics(name: str, board: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metrics of a model and of the baselines beside it as a document keeps them: ``ndcg@100``, ``ease ndcg@100``."""
    return {
        metric if model == name else f"{model} {metric}": value
        for model, metrics in board.items()
        for metric, value in metrics.items()
    }


def leaderboard(model: RegisteredModel) -> dict[str, dict[str, float]]:
    """The inverse of `flatten_metrics`: metrics by model, this one and its baselines."""
    board: dict[str, dict[str, float]] = {}
    for key, value in model.metrics.items():
        name, _, metric = key.rpartition(" ")
        board.setdefault(name or model.name, {})[metric] = value
    return board


def check_name(what: str, value: object) -> str:
    """A name that is safe in paths, queries and on a terminal.

    Raises
    ------
    InputError
        If it is not; the message repeats 60 characters at most.
    """
    text = check_text(what, value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ +=@-]{0,199}", text):
        raise InputError(
            f"The {what} {text[:60]!r} is not usable: give letters, digits, '.', '_', '-', '+', '=', '@' or spaces, "
            "beginning with a letter or digit, 200 at most."
        )
    return text


def check_text(what: str, value: object) -> str:
    """Queries take strings only: {"$ne": ""} in place of a name would match every model."""
    if not isinstance(value, str):
        raise InputError(f"The {what} must be text, not {type(value).__name__}.")
    return value
