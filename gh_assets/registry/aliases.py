"""Aliases of models, such as the champion: a log of moves, of which the last one is in effect, and the last decision.

An alias belongs to a purpose, not to a model's name: RecVAE, the hybrid and the baselines compete for one champion.
Each move is one document with the next revision under a unique index: it is written whole or not at all, concurrent
moves cannot both be next, and no move is overwritten.

The moves record promotions only. The last decision about the champion says which models were compared, with what
outcome and why, even if nothing was promoted.
"""

import datetime as dt
import getpass
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import bson
import pymongo
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pymongo.errors import DuplicateKeyError

from gh_assets.errors import ConcurrentWriteError, InputError, ModelNotFoundError
from gh_assets.registry.names import CHAMPION, PURPOSE, check_name, check_text
from gh_assets.storage.documents import as_stored
from gh_assets.storage.model_collection import create_move_index
from gh_assets.storage.mongo import Documents

MAX_REASON = 2000
"""Maximum length of a reason, in characters."""


Outcome = Literal["promoted", "champion already", "not better", "refused", "not judged"]

UNDECIDED: tuple[Outcome, ...] = ("refused", "not judged")
"""Outcomes without a comparison: the model is compared again even if nothing else has changed."""

Value = TypeVar("Value")

Pairs = Annotated[Mapping[str, Value], BeforeValidator(dict), PlainSerializer(lambda mapping: list(mapping.items()))]
"""A mapping that is stored as pairs, because names and titles may contain dots, which Mongo's keys treat as paths."""


class Move(BaseModel):
    """One move of an alias.

    Attributes
    ----------
    purpose, alias : str
    revision : int
        1, 2, 3, …
    name, version : str, int
        Model that the alias points to from then on.
    action : {"promote", "rollback"}
    below : int or None
        Revision to which a rollback returns.
    by, why : str
        Who moved it, and the reason.
    time : datetime
    evidence : mapping
        Figures that the decision was based on.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    purpose: str
    alias: str
    revision: int
    name: str
    version: int
    action: Literal["promote", "rollback"]
    below: int | None
    by: str
    why: str
    time: dt.datetime
    evidence: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        """Name and version of the model; equal to `RegisteredModel.key`."""
        return self.name, self.version

    @property
    def title(self) -> str:
        """Name and version of the model, for people."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Promotion:
    """The decision to point an alias to a model.

    Parameters
    ----------
    name, version : str, int
    why : str
        The reason, which is kept with the move.
    by : str or None
        A person or a run; None: the user of this process.
    evidence : mapping
        Figures that the decision is based on.
    alias, purpose : str

    Raises
    ------
    InputError
        If the reason is empty or too long, or a name is not valid.
    """

    name: str
    version: int
    why: str
    by: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    alias: str = CHAMPION
    purpose: str = PURPOSE

    def __post_init__(self) -> None:
        check_text("name", self.name)
        check_name("alias", self.alias)
        check_text("purpose", self.purpose)
        check_reason(self.why)


class Aliases:
    """The moves of all aliases.

    Parameters
    ----------
    moves : pymongo.collection.Collection
    """

    def __init__(self, moves: Documents) -> None:
        self.moves = moves

    def current(self, purpose: str, alias: str) -> Move | None:
        """Return the move in effect; None if the alias was never moved."""
        document = self.moves.find_one(_query(purpose, alias), sort=[("revision", pymongo.DESCENDING)])
        return None if document is None else Move.model_validate(document)

    def history(self, purpose: str, alias: str) -> list[Move]:
        """Return all moves, newest first."""
        documents = self.moves.find(_query(purpose, alias), sort=[("revision", pymongo.DESCENDING)])
        return [Move.model_validate(document) for document in documents]

    def holding(self, purpose: str, alias: str) -> Iterator[Move]:
        """Yield the move in effect, and then those to which successive rollbacks would return."""
        by_revision = {move.revision: move for move in self.history(purpose, alias)}
        revision: int | None = max(by_revision, default=None)
        while revision is not None and revision in by_revision:
            move = by_revision[revision]
            yield move
            revision = move.below

    def promote(self, promotion: Promotion, *, after: Move | None) -> Move:
        """Point the alias to a model.

        Parameters
        ----------
        promotion : Promotion
        after : Move or None
            Move that was in effect when the decision was made.

        Raises
        ------
        ConcurrentWriteError
            If the alias has moved since.
        """
        below = None if after is None else after.revision
        fields = vars(promotion) | {"by": promotion.by or current_user()}
        return self._append(after, fields, action="promote", below=below)

    def rollback(self, to: Move, *, by: str, why: str, after: Move, evidence: Mapping[str, Any]) -> Move:
        """Return to an earlier move of the same alias; a further rollback continues with the move below that one."""
        return self._append(after, to.model_dump(), action="rollback", by=by, why=why, evidence=evidence)

    def _append(self, after: Move | None, fields: Mapping[str, Any], **changes: Any) -> Move:
        revision = 1 if after is None else after.revision + 1
        now = as_stored(dt.datetime.now(dt.UTC))
        move = Move.model_validate({**fields, **changes, "revision": revision, "time": now})
        create_move_index(self.moves)
        key = bson.ObjectId()
        try:
            self.moves.insert_one({"_id": key, **move.model_dump()})
        except DuplicateKeyError:
            if self.moves.find_one({"_id": key}) is not None:
                return move  # the response to this insert was lost, and the driver retried it
            current = self.current(move.purpose, move.alias)
            holder = "an unknown model" if current is None else f"{current.title} ({current.why})"
            raise ConcurrentWriteError(
                f"The {move.alias} was moved to {holder} in the meantime. Review that move and decide again."
            ) from None
        return move


# -- decisions ---------------------------------------------------------------------------------------------------------


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
    newest: Pairs[int] = Field(default_factory=dict)
    validation: Pairs[float] = Field(default_factory=dict)
    checks: Pairs[str] = Field(default_factory=dict)
    skipped: Pairs[str] = Field(default_factory=dict)
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

    def __init__(self, documents: Documents) -> None:
        self.documents = documents

    def record(self, decision: Decision) -> None:
        """Replace the last decision of its purpose."""
        self.documents.replace_one({"_id": decision.purpose}, decision.model_dump(by_alias=True), upsert=True)

    def last(self, purpose: str = PURPOSE) -> Decision | None:
        """Return the last decision; None if there was none."""
        document = self.documents.find_one({"_id": purpose})
        return None if document is None else Decision.model_validate(document)


def check_reason(why: str) -> None:
    """Raise an `InputError` unless a reason is text of a usable length."""
    if not check_text("reason", why).strip() or len(why) > MAX_REASON:
        raise InputError(f"Give a reason of at most {MAX_REASON:,} characters: it is kept with the decision.")


def current_user() -> str:
    """Return the name of the user of this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"


def _query(purpose: str, alias: str) -> dict[str, str]:
    return {"purpose": check_text("purpose", purpose), "alias": check_text("alias", alias)}


def alias_not_set(purpose: str, alias: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"There is no {alias} to {purpose} yet. Promote a model: gh-assets models promote NAME VERSION --why TEXT, or "
        "materialize the asset champion."
    )
