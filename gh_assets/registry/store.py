"""The model registry: an object in Cloud Storage and a document in Mongo for each model.

The document is the commit point: it is written last, after the object was stored and verified, so that a crash leaves
a whole model or nothing that is visible.

Versions of a name are assigned at the commit under a unique index: 1, 2, 3, … without gaps, for any number of
concurrent processes and whatever their clocks say; likewise the serial number over all names. The document of a deleted
model remains, marked as deleted, so that its version is not assigned again.
"""

import datetime as dt
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import bson
import pymongo
from pymongo.errors import DuplicateKeyError, WriteConcernError

from gh_assets import __version__
from gh_assets.errors import InputError, ModelNotFoundError, StoredDataError
from gh_assets.local.scratch import Scratch
from gh_assets.registry.aliases import Aliases, Decisions, Move, Promotion, alias_not_set, check_reason, current_user
from gh_assets.registry.archives import SUFFIXES, Compression, write_archive
from gh_assets.registry.documents import ModelCard, RegisteredModel
from gh_assets.registry.names import CHAMPION, PURPOSE, check_name, check_text
from gh_assets.registry.objects import ModelObjects
from gh_assets.storage.documents import as_stored
from gh_assets.storage.model_collection import LEGACY_FIELDS, create_indexes, last_serial
from gh_assets.storage.mongo import Documents
from gh_assets.storage.objects import ObjectStore, digest_of

NEWEST = [("version", pymongo.DESCENDING), ("time", pymongo.DESCENDING), ("_id", pymongo.DESCENDING)]
"""Order of the models of one name: by version, followed by those without a version by time."""

NEWEST_OVERALL = [("serial", pymongo.DESCENDING), *NEWEST[1:]]
"""Order of the models of several names: by registration."""

# Within the class `list` is a method.

Texts = list[str]

log = logging.getLogger(__name__)


class ModelRegistry(ModelObjects):
    """Models in one bucket and one collection.

    Parameters
    ----------
    store : ObjectStore
        Bucket of the models.
    documents : pymongo.collection.Collection
        One document per model. Beside it lie the collections ``…_aliases``, ``…_decisions`` and ``…_objects``.
    """

    def __init__(self, store: ObjectStore, documents: Documents) -> None:
        def beside(suffix: str) -> Documents:
            return _with_majority_writes(documents.database[f"{documents.name}_{suffix}"])

        super().__init__(store, _with_majority_writes(documents), beside("objects"))
        self.aliases = Aliases(beside("aliases"))
        self.decisions = Decisions(beside("decisions"))

    # -- saving --------------------------------------------------------------------------------------------------

    def save(
        self, path: Path, card: ModelCard, *, archive: Compression | None = None, file_name: str | None = None
    ) -> RegisteredModel:
        """Store a file or folder as a model and register it.

        Parameters
        ----------
        path : Path
            A file; with `archive` also a folder.
        card : ModelCard
        archive : {"gzip", "zstd"}, optional
            Pack into ``.tar.gz`` or ``.tar.zst``, with bytes that depend on the content only.
        file_name : str, optional
            Name under which the file is downloaded; by default the path's own. With `archive`, its suffix is replaced
            by the archive's.

        Returns
        -------
        RegisteredModel

        Raises
        ------
        InputError
            If the file does not exist, or its name or the compression is not valid.
        """
        path = Path(path)
        if not path.exists():
            raise InputError(f"{path} does not exist: there is no model to store.")
        if path.is_dir() and archive is None:
            raise InputError(f'{path} is a folder: store it as an archive (archive="gzip", or tar_zip=True).')
        file_name, source, unpacked = file_name or path.name, path, None
        check_name("file name", file_name)
        create_indexes(self.documents)
        with Scratch() as scratch:
            if archive is not None:
                source = scratch / "archive"
                unpacked = write_archive(path, source, archive)
                file_name = Path(file_name).stem + SUFFIXES[archive]
            digest = digest_of(source)
            stored = self.upload(source, card.name, file_name, digest)
        return self._commit(
            RegisteredModel(
                **vars(card),
                **vars(digest),
                # Mongo keeps milliseconds; the returned model equals the one that will be read.
                time=as_stored(dt.datetime.now(dt.UTC)),
                bucket=stored.bucket,
                object=stored.name,
                generation=stored.generation,
                file_name=file_name,
                unpacked=unpacked,
                code_version=__version__,
            )
        )

    def _commit(self, model: RegisteredModel) -> RegisteredModel:
        """Insert the model's document with the next version and serial number."""
        key = bson.ObjectId()
        while True:
            last = self.documents.find_one(
                {"name": model.name, "version": {"$exists": True}}, {"version": 1}, sort=[("version", -1)]
            )
            numbers = {"version": 1 + (int(last["version"]) if last else 0), "serial": last_serial(self.documents) + 1}
            numbered = model.model_copy(update=numbers)
            try:
                self.documents.insert_one({"_id": key, **numbered.to_document()})
            except WriteConcernError as error:
                # The document was written, but not acknowledged by enough servers: it may be rolled back, or stay.
                if self.documents.find_one({"_id": key}) is None:
                    raise
                text = "%s is saved, but not acknowledged by as many servers as its write concern requires (code %s)."
                log.warning(text, numbered.title, error.code)
            except DuplicateKeyError:
                # Another process took one of the numbers; or the response to this insert was lost and it was retried.
                if self.documents.find_one({"_id": key}) is None:
                    continue
            return numbered

    # -- finding -------------------------------------------------------------------------------------------------

    def list(self, name: str | None = None, tag: str | None = None) -> Sequence[RegisteredModel]:
        """Return models, newest first: those of one name by version, those of all names by registration.

        A model whose document cannot be read is left out, with a warning in the log.
        """
        return [*self._models({} if name is None else _named(name), tag)]

    def get(self, name: str, version: int) -> RegisteredModel:
        """Return one model.

        Raises
        ------
        ModelNotFoundError
        """
        if isinstance(version, bool) or not isinstance(version, int):
            raise InputError(f"The version must be a whole number, not {type(version).__name__}.")
        document = self.documents.find_one({**_named(name), "version": version, "deleted": None})
        if document is None:
            known = ", ".join(str(model.version) for model in self.list(name)[:10]) or "none"
            raise ModelNotFoundError(f"There is no version {version} of model {name!r} (newest: {known}).")
        return RegisteredModel.from_document(document)

    def latest(self, name: str, tag: str = "") -> RegisteredModel:
        """Return the model of a name (and tag, if one is given) with the highest version.

        Raises
        ------
        ModelNotFoundError
        StoredDataError
            If there are models, but none of their documents can be read.
        """
        for model in self._models(_named(name), tag):
            return model
        for document in self._documents(_named(name), tag):
            RegisteredModel.from_document(document)  # says why it cannot be read
        raise self._not_found(name, tag, "")

    def best(self, name: str, tag: str = "") -> RegisteredModel:
        """Return the model of a name (and tag) with the best score; of equal scores, the newest.

        Scores of different metrics are not comparable: the metric of the newest scored model counts.

        Raises
        ------
        ModelNotFoundError
        """
        return self.ranked(name, tag)[0]

    def ranked(self, name: str, tag: str = "") -> Sequence[RegisteredModel]:
        """Return the models of a name (and tag) that are comparable, best first; see `best`.

        Raises
        ------
        ModelNotFoundError
            If none has a score.
        """
        scored = [model for model in self._models(_named(name), tag) if model.score is not None]
        if not scored:
            raise self._not_found(name, tag, "scored ")
        metric = scored[0].metric, scored[0].direction
        comparable = [model for model in scored if (model.metric, model.direction) == metric]
        return sorted(comparable, key=lambda model: -model.comparable_score)  # stable: of equal scores the newest first

    def find(self, name: str, fingerprint: str) -> RegisteredModel | None:
        """Return the newest model of a name with this fingerprint of data, configuration and code.

        None if there is none, or if its object is not as it was registered, so that it has to be trained again.
        """
        query = _named(name) | {"fingerprint": check_text("fingerprint", fingerprint)}
        model = next(self._models(query), None)
        return model if model is not None and self.problem(model) is None else None

    def _documents(self, query: Mapping[str, Any], tag: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the documents of visible models, newest first."""
        tagged: dict[str, Any] = {}
        if tag is not None and check_text("tag", tag):
            tagged["$or"] = [{"tags": tag}, {"tag": tag}]  # the original documents have a single tag
        order = NEWEST if "name" in query else NEWEST_OVERALL
        yield from self.documents.find({"deleted": None, **query, **tagged}).sort(order)

    def _models(self, query: Mapping[str, Any], tag: str | None = None) -> Iterator[RegisteredModel]:
        """Yield the models of those documents that can be read."""
        for document in self._documents(query, tag):
            try:
                yield RegisteredModel.from_document(document)
            except StoredDataError as error:
                log.warning("%s It is left out.", error)

    def _not_found(self, name: str, tag: str, scored: str) -> ModelNotFoundError:
        names = ", ".join(sorted(str(one) for one in self.documents.distinct("name", {"deleted": None}))) or "none"
        return ModelNotFoundError(
            f"No {scored}model {name!r}{f' with tag {tag!r}' if tag else ''} is registered (registered: {names}). "
            "Train one: gh-assets run."
        )

    # -- aliases -------------------------------------------------------------------------------------------------

    def champion(self, purpose: str = PURPOSE, alias: str = CHAMPION) -> RegisteredModel:
        """Return the model that an alias points to.

        Raises
        ------
        ModelNotFoundError
            If no model was promoted.
        """
        for model in self.holders(purpose, alias):
            return model
        raise alias_not_set(purpose, alias)

    def holders(self, purpose: str = PURPOSE, alias: str = CHAMPION) -> Iterator[RegisteredModel]:
        """Yield the model that an alias points to, and then those to which successive rollbacks would return."""
        seen: set[tuple[str, int]] = set()
        for move in self.aliases.holding(purpose, alias):
            model = self._visible(move)  # a model may be deleted by a process that did not see its promotion
            if model is not None and model.key not in seen:
                seen.add(model.key)
                yield model

    def promote(self, promotion: Promotion, *, after: Move | Literal["current"] | None = "current") -> Move:
        """Point an alias to a model, whose object must be as it was registered.

        Parameters
        ----------
        promotion : Promotion
        after : Move or None, optional
            Move that was in effect when the decision was made; by default the one that is in effect now.

        Raises
        ------
        ConcurrentWriteError
            If the alias has moved since.
        ModelNotFoundError, StoredDataError
            If the model is not registered, or its object is not as it was registered.
        """
        model = self.get(promotion.name, promotion.version)
        if self.problem(model) is not None:
            raise StoredDataError(
                f"{model.uri} is missing or not what was registered, so {model.title} is not promoted."
            )
        if after == "current":
            after = self.aliases.current(promotion.purpose, promotion.alias)
        move = self.aliases.promote(promotion, after=after)
        if self._visible(move) is None:
            raise ModelNotFoundError(
                f"{model.title} was deleted while it was promoted: the {promotion.alias} stays as it was."
            )
        return move

    def rollback(self, *, why: str, by: str | None = None, purpose: str = PURPOSE, alias: str = CHAMPION) -> Move:
        """Return an alias to the model before the current one; once more, to the one before that.

        Models that were deleted, or whose object is not as it was registered, are passed over; the move's evidence
        names them with the reason (``passed_over``).

        Raises
        ------
        ModelNotFoundError
            If there is no model to return to; the message says why.
        """
        check_reason(why)
        moves = [*self.aliases.holding(purpose, alias)]
        if not moves:
            raise alias_not_set(purpose, alias)
        # If the champion's document was deleted by other means, the current champion is the first model that is left.
        place = next((place for place, move in enumerate(moves) if self._visible(move) is not None), 0)
        current, below = moves[place], moves[place + 1 :]
        passed_over: Texts = []
        for move in below:
            problem = self._unavailable_reason(move)
            if problem is None:
                evidence = {"passed_over": passed_over} if passed_over else {}
                return self.aliases.rollback(move, by=by or current_user(), why=why, after=moves[0], evidence=evidence)
            if problem not in passed_over:
                passed_over.append(problem)
        if passed_over:
            raise ModelNotFoundError(
                f"There is nothing to return to: before {current.title}, {'; '.join(passed_over)}. "
                "Promote another model: gh-assets models promote NAME VERSION --why TEXT."
            )
        raise ModelNotFoundError(f"There was no {alias} before {current.title}: there is nothing to return to.")

    def _unavailable_reason(self, move: Move) -> str | None:
        """Return why a rollback to a move's model is not possible; None if it is."""
        model = self._visible(move)
        if model is not None:
            problem = self.problem(model)
            return None if problem is None else f"{move.title} cannot be read any more ({problem})"
        document = self.documents.find_one({"name": move.name, "version": move.version}, {"deleted": 1}) or {}
        if not document:
            return f"{move.title} has no document any more"
        note = document.get("deleted")
        if note is None:
            return f"{move.title} has a document that cannot be read"
        reason = note.get("why") if isinstance(note, dict) else None
        return f"{move.title} was deleted" + (f" ({reason})" if reason else "")

    def _visible(self, move: Move) -> RegisteredModel | None:
        try:
            return self.get(move.name, move.version)
        except (ModelNotFoundError, StoredDataError):
            return None

    def alias_holders(self) -> Mapping[tuple[str, int], Sequence[str]]:
        """Return the aliases that point to models, by the models' names and versions."""
        holders: dict[tuple[str, int], Texts] = {}
        for move in self._current_moves():
            holders.setdefault(move.key, []).append(move.alias)
        return holders

    def _current_moves(self) -> Iterator[Move]:
        """Yield the move in effect of every alias."""
        for first in self.aliases.moves.find({"revision": 1}, {"purpose": 1, "alias": 1}).sort("alias"):
            move = self.aliases.current(first["purpose"], first["alias"])
            if move is not None:
                yield move

    # -- deleting ------------------------------------------------------------------------------------------------

    def delete(self, name: str, version: int, *, why: str, by: str | None = None) -> RegisteredModel:
        """Make a model invisible permanently. Its object is removed by the next `sweep` after the grace period.

        Raises
        ------
        InputError
            If it is a champion.
        ModelNotFoundError
        """
        check_reason(why)
        model = self.get(name, version)
        self._refuse_champion(model)
        place = {"name": name, "version": version}
        note = {"by": by or current_user(), "why": why, "time": as_stored(dt.datetime.now(dt.UTC))}
        # Queries of the original system must not find a deleted model.
        self.documents.update_one(place, {"$set": {"deleted": note}, "$unset": dict.fromkeys(LEGACY_FIELDS, 1)})
        try:
            self._refuse_champion(model)  # it may have been promoted since the first check
        except InputError:
            again = {field: model.to_document()[field] for field in LEGACY_FIELDS}
            self.documents.update_one(place, {"$unset": {"deleted": 1}, "$set": again})
            raise
        return model

    def _refuse_champion(self, model: RegisteredModel) -> None:
        for move in self._current_moves():
            if move.alias == CHAMPION and move.key == model.key:
                raise InputError(
                    f"{model.title} is the {move.alias} to {move.purpose}: promote another one or roll back before it "
                    "is deleted."
                )


def _named(name: str) -> dict[str, Any]:
    return {"name": check_text("name", name)}


def _with_majority_writes(collection: Documents) -> Documents:
    """Require majority writes, unless the connection sets another write concern; read from the primary.

    An acknowledged save must survive the loss of a server.
    """
    configured = collection.write_concern
    majority = pymongo.WriteConcern(w="majority", wtimeout=30_000)
    by_default = configured.is_server_default or configured.document == {"w": "majority"}
    return collection.with_options(
        read_preference=pymongo.ReadPreference.PRIMARY, write_concern=majority if by_default else configured
    )
