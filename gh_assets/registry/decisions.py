"""What the gate to champion said last: who was put against whom, what came of it, and why; for people and sensors.

The moves of the alias keep only what was promoted. That nothing was promoted has a reason, too.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pymongo.collection import Collection

from gh_assets.registry.aliases import PURPOSE
from gh_assets.storage.documents import as_stored

Outcome = Literal["promoted", "champion already", "not better", "refused", "not judged"]

UNDECIDED: tuple[Outcome, ...] = ("refused", "not judged")
"""Outcomes that say nothing of how good a model is: it is judged again, also if nothing else changed."""

MAPPINGS = ("newest", "validation", "checks", "skipped")


class Decision(BaseModel):
    """One judgement.

    Attributes
    ----------
    purpose : str
    outcome : str
        ``promoted``; ``champion already``; ``not better``: compared, and not certainly better; ``refused``: it did not
        pass a check; ``not judged``: there was nothing to compare.
    candidate, champion : str or None
        Titles of the best candidate, and of the champion that it was put against.
    words : str
        The decision in sentences.
    newest : mapping of int
        The newest version of each name at that time: what is newer was not judged.
    validation : mapping of float
        The main metric of all who competed, on the validation users.
    checks : mapping of str
    skipped : mapping of str
        What was said of models that could not be loaded, by their titles.
    by : str
    time : datetime
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    purpose: str = PURPOSE
    outcome: Outcome
    candidate: str | None = None
    champion: str | None = None
    words: str
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
        """Write a decision down in the place of the one before."""
        # Names and titles may have dots, of which Mongo's keys make paths: pairs instead of mappings.
        document = decision.model_dump()
        for field in MAPPINGS:
            document[field] = [[key, value] for key, value in document[field].items()]
        self.documents.replace_one({"_id": decision.purpose}, document, upsert=True)

    def last(self, purpose: str = PURPOSE) -> Decision | None:
        """What was decided last; None, if nothing was."""
        document = self.documents.find_one({"_id": purpose})
        if document is None:
            return None
        for field in MAPPINGS:
            document[field] = dict(document[field])
        return Decision.model_validate(document)
