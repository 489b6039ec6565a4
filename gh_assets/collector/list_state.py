"""The state of a list of stars in Mongo, which repositories' and users' lists have in common."""

import datetime as dt
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from gh_assets.github.outcomes import Outcome
from gh_assets.storage.messages import Message, versioned
from gh_assets.storage.mongo import Collections

HAS_STATE = {"state": {"$exists": True}}
"""Filter of documents with a state: others have only other sub-documents, such as ``seed``."""


class ListState(BaseModel):
    """State of one list, stored as the sub-document ``state``; its id is the document's.

    Attributes
    ----------
    outcome : Outcome
        Of the last request.
    reason : str or None
        Why the outcome is not ok, or the list is not proven.
    complete : bool
        Whether the list was read to its end.
    max_pages : int
        Maximum number of pages of the run that read it.
    collected_at, asked_at : datetime or None
        When it was last read, and when it was last requested (UTC).
    proven : bool
        Whether the stored stars are proven to be all that were requested. False for lists that a version without this
        field read, so that they are read once more.
    entries, null_entries, failed_entries : int
        Entries of the list, and those that are not stored: without a user or repository, and those that GitHub could
        not return.
    """

    model_config = ConfigDict(frozen=True)

    collection: ClassVar[Collections]
    id_field: ClassVar[str]

    outcome: Outcome
    reason: str | None = None
    complete: bool = False
    max_pages: int = 0
    collected_at: dt.datetime | None = None
    asked_at: dt.datetime | None = None
    proven: bool = False
    entries: int = 0
    null_entries: int = 0
    failed_entries: int = 0

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Parse a document of the collection."""
        return cls.model_validate({**document["state"], cls.id_field: document["_id"]})

    def message(self) -> Message:
        """Return the message that stores the state; of several, the one with the latest ``asked_at`` wins."""
        assert self.asked_at is not None
        value = self.model_dump(exclude={self.id_field}) | {"outcome": self.outcome.value}
        identity = getattr(self, self.id_field)
        return Message(update=versioned(self.collection, identity, "state", value, self.asked_at))
