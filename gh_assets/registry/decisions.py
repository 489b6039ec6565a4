"""The last decision about the champion: which models were compared, with what outcome and why.

The moves of the alias record promotions only; a decision is kept as well if nothing was promoted.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from pymongo.collection import Collection

from gh_assets.registry.names import PURPOSE
from gh_assets.storage.documents import as_stored

Outcome = Literal["promoted", "champion already", "not better", "refused", "not judged"]

UNDECIDED: tuple[Outcome, ...] = ("refused", "not judged")
"""Outcomes without a comparison: the model is compared again even if nothing else has changed."""

MAPPINGS = ("newest", "validation", "checks", "skipped")
"""Fields that are stored as pairs, because names and titles may contain dots, which Mongo's keys treat as paths."""


class Decision(BaseModel):
    """One decision.

    Attributes
    ----------
    purpose : str
    outcome : str
        ``promoted``; ``champion already``; ``not better``: not certainly better than the champion; ``refused``: a check
        failed; ``not judged``: there was nothing to compare.
    candidate, champion : str or None
        Titles of the best candidate, and of the champion that it was compared with.
    summary : str
        The decision in sentences; stored as ``words``.
    newest : mapping of int
        Newest version of each name at that time; later versions were not considered.
    validation : mapping of float
        Main metric of all candidates on the validation users.
    checks : mapping of str
        Finding of each check.
    skipped : mapping of str
        Why models could not be loaded, by their titles.
    by : str
        Who decided: a person or a run.
    time : datetime
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    purpose: str = PURPOSE
    outcome: Outcome
    candidate: str | None = None
    champion: str | None = None
    summary: str = Field(validation_alias=AliasChoices("summary", "words"), serialization_alias="words")
    newest: Mapping[str, int] = Field(default_factory=dict)
    validation: Mapping[str, float] = Field(default_factory=dict)
    checks: Mapping[str, str] = Field(default_factory=dict)
    skipped: Mapping[str, str] = Field(default_factory=dict)
    by: str
    time: dt.datetime = Field(default_factory=lambda: as_stored(dt.datetime.now(dt.UTC)))

    @property
    def undecided(self) -> bool:
        return self.outcome in UNDECIDED


class Decisions:
    """The last decision of each purpose.

    Parameters
    ----------
    documents : pymongo.collection.Collection
    """

    def __init__(self, documents: Collection[dict[str, Any]]) -> None:
        self.documents = documents

    def record(self, decision: Decision) -> None:
        """Replace the last decision of its purpose."""
        document = decision.model_dump(by_alias=True)
        for field in MAPPINGS:
            document[field] = [[key, value] for key, value in document[field].items()]
        self.documents.replace_one({"_id": decision.purpose}, document, upsert=True)

    def last(self, purpose: str = PURPOSE) -> Decision | None:
        """Return the last decision; None if there was none."""
        document = self.documents.find_one({"_id": purpose})
        if document is None:
            return None
        for field in MAPPINGS:
            document[field] = dict(document[field])
        return Decision.model_validate(document)
