"""Aliases of models, such as the champion: a log of moves, of which the last one holds.

An alias belongs to a purpose, not to a name of models: RecVAE, the hybrid and the baselines compete for one champion.
Each move is one document with the next number, under a unique index: it is there or it is not, two at once cannot both
be next, and who moved what, when and why is never overwritten.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import bson
import pymongo
from pydantic import BaseModel, ConfigDict, Field
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from gh_assets.errors import ConcurrentWriteError, ModelNotFoundError
from gh_assets.registry.documents import check_text
from gh_assets.storage.documents import as_stored
from gh_assets.storage.model_collection import create_move_index

PURPOSE = "recommend repositories"
CHAMPION = "champion"
CANDIDATE = "candidate"

SERVED = ("hybrid", "recvae")
"""Names of the models that serve people as long as none was promoted; beside them, all are baselines."""


class Move(BaseModel):
    """One move of an alias.

    Attributes
    ----------
    purpose, alias : str
    revision : int
        1, 2, 3, …
    name, version : str, int
        The model that the alias points to since then.
    action : {"promote", "rollback"}
    below : int or None
        The move to which a rollback would return.
    by, why : str
    time : datetime
    evidence : mapping
        What the decision was made on.
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


class Aliases:
    """The moves of all aliases.

    Parameters
    ----------
    moves : pymongo.collection.Collection
    """

    def __init__(self, moves: Collection[dict[str, Any]]) -> None:
        self.moves = moves

    def current(self, purpose: str, alias: str) -> Move | None:
        """The move that holds; None, if there was none."""
        document = self.moves.find_one(_wanted(purpose, alias), sort=[("revision", pymongo.DESCENDING)])
        return None if document is None else Move.model_validate(document)

    def history(self, purpose: str, alias: str) -> list[Move]:
        """All moves, the last one first."""
        found = self.moves.find(_wanted(purpose, alias), sort=[("revision", pymongo.DESCENDING)])
        return [Move.model_validate(document) for document in found]

    def holding(self, purpose: str, alias: str) -> Iterator[Move]:
        """The move that holds, and then those to which one rollback after the other would return."""
        by_revision = {move.revision: move for move in self.history(purpose, alias)}
        revision: int | None = max(by_revision, default=None)
        while revision is not None and revision in by_revision:
            move = by_revision[revision]
            yield move
            revision = move.below

    def promote(
        self,
        purpose: str,
        alias: str,
        name: str,
        version: int,
        *,
        by: str,
        why: str,
        after: Move | None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Move:
        """Point the alias to a model.

        Parameters
        ----------
        after : Move or None
            The move that the decision was made against: if there is a newer one meanwhile, nothing happens.

        Raises
        ------
        ConcurrentWriteError
            If there is.
        """
        below = None if after is None else after.revision
        fields = {"name": name, "version": version, "action": "promote", "below": below, "evidence": evidence or {}}
        return self._append(after, **_wanted(purpose, alias), **fields, by=by, why=why)

    def rollback(self, to: Move, *, by: str, why: str, after: Move, evidence: Mapping[str, Any] | None = None) -> Move:
        """Return to an earlier move of the same alias; a further rollback goes on to what was below that one."""
        fields = {"name": to.name, "version": to.version, "action": "rollback", "below": to.below}
        fields["evidence"] = dict(evidence or {})
        return self._append(after, **_wanted(to.purpose, to.alias), **fields, by=by, why=why)

    def _append(self, after: Move | None, **fields: Any) -> Move:
        revision = 1 if after is None else after.revision + 1
        move = Move(revision=revision, time=as_stored(dt.datetime.now(dt.UTC)), **fields)
        create_move_index(self.moves)
        key = bson.ObjectId()
        try:
            self.moves.insert_one({"_id": key, **move.model_dump()})
        except DuplicateKeyError:
            if self.moves.find_one({"_id": key}) is not None:
                return move  # the answer to our own insert was lost, and the driver tried again
            current = self.current(move.purpose, move.alias)
            holder = "nobody knows" if current is None else f"{current.name} {current.version} ({current.why})"
            raise ConcurrentWriteError(
                f"The {move.alias} was moved by somebody else meanwhile, to {holder}. Look at it, and decide again."
            ) from None
        return move


def _wanted(purpose: str, alias: str) -> dict[str, str]:
    return {"purpose": check_text("purpose", purpose), "alias": check_text("alias", alias)}


def no_alias(purpose: str, alias: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"There is no {alias} to {purpose} yet. Promote a model: gh-assets models promote NAME VERSION --why TEXT, or "
        "materialize the asset champion."
    )
