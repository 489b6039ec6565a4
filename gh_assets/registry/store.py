"""The model registry: a file in Cloud Storage and a document in Mongo for each model.

The document is the commit point: it is written last, after the object is there and verified. Objects are named by
their content's SHA-256 and never replaced, so a crash leaves a whole model or nothing that anybody sees.

Versions of a name are given at the commit, under a unique index: 1, 2, 3, … without gap, whoever saves at once, and
whatever the clocks say. So is the serial number over all names. A deleted model leaves its document behind, marked: its
version is never given again.

An object that no document names is an orphan: of a crash, or of a deleted model. `sweep` removes those that are older
than a grace time. It and `save` agree through notes (the collection ``…_objects``): `save` writes down that it wants
the object, `sweep` that it deletes it, each in a document of its own, and only then does each look for the other's.
"""

from __future__ import annotations

import datetime as dt
import getpass
import itertools
import logging
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import bson
import pymongo
from pymongo.errors import DuplicateKeyError, WriteConcernError

from gh_assets import __version__
from gh_assets.errors import (
    ConcurrentWriteError,
    InputError,
    ModelNotFoundError,
    StoredDataError,
)
from gh_assets.local.scratch import Scratch
from gh_assets.registry.aliases import CHAMPION, PURPOSE, Aliases, Move, no_alias
from gh_assets.registry.archives import (
    SUFFIXES,
    Compression,
    extract_archive,
    is_archive,
    stem_of,
    write_archive,
)
from gh_assets.registry.decisions import Decisions
from gh_assets.registry.documents import (
    MAX_DESCRIPTION,
    Direction,
    RegisteredModel,
    check_name,
    check_text,
)
from gh_assets.storage.documents import as_stored
from gh_assets.storage.model_collection import LEGACY_FIELDS, create_indexes, last_serial
from gh_assets.storage.mongo import Documents
from gh_assets.storage.objects import ABSENT, Digest, ObjectStore, StoredObject, digest_of

GRACE = dt.timedelta(hours=1)
"""How old an orphan must be to be swept: a save in progress is younger."""

NEWEST = [("version", pymongo.DESCENDING), ("time", pymongo.DESCENDING), ("_id", pymongo.DESCENDING)]
"""By version; those from before there were versions come after all that have one, by their time."""

NEWEST_OVERALL = [("serial", pymongo.DESCENDING), *NEWEST[1:]]
"""Of several names: by the order in which they were registered, which no clock decides."""

Removed = list[StoredObject]
Names = list[str]

_DELETING = "deleting:"
"""How notes begin that say that a sweep deletes an object."""

MANAGED_OBJECT = re.compile(r"[^/]+/[0-9a-f]{64}(-\d+)?/[^/]+")
"""Names of objects that `save` gives."""

log = logging.getLogger(__name__)


class ModelRegistry:
    """Models in one bucket and one collection.

    Parameters
    ----------
    store : ObjectStore
        Bucket of the models.
    documents : pymongo.collection.Collection
        One document a model. Beside it, ``…_aliases``, ``…_decisions`` and ``…_objects``.
    """

    def __init__(self, store: ObjectStore, documents: Documents) -> None:
        self.store = store

        def with_majority_writes(collection: Documents) -> Documents:
            # What a save acknowledges must survive the loss of a server, unless the connection says what is enough.
            told = collection.write_concern
            firm = pymongo.WriteConcern(w="majority", wtimeout=30_000)
            return collection.with_options(
                read_preference=pymongo.ReadPreference.PRIMARY,
                write_concern=firm if told.is_server_default or told.document == {"w": "majority"} else told,
            )

        self.documents = with_majority_writes(documents)
        self._objects = with_majority_writes(documents.database[f"{documents.name}_objects"])
        self.aliases = Aliases(with_majority_writes(documents.database[f"{documents.name}_aliases"]))
        self.decisions = Decisions(with_majority_writes(documents.database[f"{documents.name}_decisions"]))
        self._identity: str | None = None

    # -- saving --------------------------------------------------------------------------------------------------

    def save(
        self,
        path: Path,
        name: str,
        score: float | None,
        *,
        tag: str = "",
        tags: Sequence[str] = (),
        metric: str = "",
        direction: Direction = "max",
        file_name: str | None = None,
        tar_zip: bool = False,
        compression: Compression = "gzip",
        run_id: str | None = None,
        config: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        intervals: Mapping[str, tuple[float, float]] | None = None,
        data: Mapping[str, Any] | None = None,
        lineage: Mapping[str, str] | None = None,
        fingerprint: str | None = None,
    ) -> RegisteredModel:
        """Store a file or folder as a model, and register it.

        Parameters
        ----------
        path : Path
            A file, or with `tar_zip` also a folder.
        name : str
        score : float or None
            None or NaN: not scored, never the best.
        tag, tags : str
            Any number of them; `tag` comes first.
        metric : str
            What the score is, such as ``ndcg@100``.
        direction : {"max", "min"}
            Whether more or less of it is better.
        file_name : str, optional
            Name of the file as downloads will write it; by default the path's own. With `tar_zip` its stem gets the
            archive's suffix.
        tar_zip : bool
            Compress into an archive whose bytes depend on the content only.
        compression : {"gzip", "zstd"}
            Into ``.tar.gz`` or ``.tar.zst``.
        run_id, config, metrics, intervals, data, lineage, fingerprint
            See `RegisteredModel`.

        Returns
        -------
        RegisteredModel

        Raises
        ------
        InputError
            If the file does not exist, a name is not usable, the score is infinite, or the description too large.
        """
        check_name("model name", name)
        all_tags = tuple(dict.fromkeys(check_name("tag", one) for one in ((tag, *tags) if tag else tags)))
        if score is not None and math.isinf(score):
            raise InputError(f"The score {score} of model {name!r} is not finite: give None if it has none.")
        if direction not in ("max", "min"):
            raise InputError(f"The direction {direction!r} is neither 'max' nor 'min'.")
        described = {
            "config": dict(config or {}),
            "metrics": {key: float(value) for key, value in (metrics or {}).items()},
            "intervals": dict(intervals or {}),
            "data": dict(data or {}),
            "lineage": dict(lineage or {}),
        }
        _check_description(name, described)
        path = Path(path)
        if not path.exists():
            raise InputError(f"{path} does not exist: there is no model to store.")
        if path.is_dir() and not tar_zip:
            raise InputError(f"{path} is a folder: store it with tar_zip=True.")
        kept_name = file_name or path.name
        if tar_zip:
            if compression not in SUFFIXES:
                raise InputError(f"The compression {compression!r} is neither gzip nor zstd.")
            kept_name = Path(kept_name).stem + SUFFIXES[compression]
        check_name("file name", kept_name)
        create_indexes(self.documents)
        with Scratch() as scratch:
            source, unpacked = path, None
            if tar_zip:
                source = scratch / "archive"
                unpacked = write_archive(path, source, compression)
            digest = digest_of(source)
            stored = self._upload(source, name, kept_name, digest)
        return self._commit(
            RegisteredModel(
                name=name,
                tags=all_tags,
                score=score,
                metric=metric,
                direction=direction,
                # Mongo keeps milliseconds: what we return is what will be read.
                time=as_stored(dt.datetime.now(dt.UTC)),
                bucket=stored.bucket,
                object=stored.name,
                generation=stored.generation,
                sha256=digest.sha256,
                crc32c=digest.crc32c,
                size=digest.size,
                file_name=kept_name,
                unpacked=unpacked,
                run_id=run_id,
                code_version=__version__,
                fingerprint=fingerprint,
                **described,
            )
        )

    def _upload(self, source: Path, name: str, file_name: str, digest: Digest) -> StoredObject:
        """Bring the bytes to where their checksum says, unless they are there."""
        metadata = {"sha256": digest.sha256, "registry": self.identity}
        for attempt in itertools.count():
            target = f"{name}/{digest.sha256}{f'-{attempt}' if attempt else ''}/{file_name}"
            if not self._claim_object(target):
                continue  # it is being deleted: the bytes go beside it
            try:
                stored = self.store.write(target, source, if_generation=ABSENT, metadata=metadata)
            except ConcurrentWriteError:
                # The same content is there already: from an earlier save, or a retry of this one.
                found = self.store.describe(target)
                if found is None or found.metadata.get("registry") != self.identity:
                    continue  # another registry may delete its object at any time
                stored = found
            if (stored.size, stored.crc32c) == (digest.size, digest.crc32c):
                return stored
        raise AssertionError("there is always a further name")

    def _claim_object(self, target: str) -> bool:
        """Write down, by the server's clock, that the object is needed; False if it is being deleted.

        First the own note, then a look at the other side's, as in `_remove`: so at least one of two sees the other,
        whatever a server makes of conditions in updates.
        """
        self._objects.update_one({"_id": target}, {"$currentDate": {"wanted_at": True}}, upsert=True)
        note = self._objects.find_one({"_id": target}) or {}
        # The field is of the first form of these notes: a sweep that was killed may have left it.
        return note.get("deleting") is None and self._objects.find_one(_deletions(target)) is None

    def _commit(self, model: RegisteredModel) -> RegisteredModel:
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
                # It was written, and not confirmed by as many servers as wanted: it may be taken back, or stay.
                if self.documents.find_one({"_id": key}) is None:
                    raise
                log.warning(
                    "%s is saved, but not confirmed by as many servers as its write concern wants (code %s).",
                    numbered.title,
                    error.code,
                )
            except DuplicateKeyError:
                # Somebody else has one of the numbers; or the answer to our own insert was lost, and the driver tried
                # again.
                if self.documents.find_one({"_id": key}) is None:
                    continue
            return numbered

    @property
    def identity(self) -> str:
        """Which registry this is: two may share a bucket, and neither sweeps the other's objects."""
        if self._identity is None:
            with suppress(DuplicateKeyError):  # another process was first
                self._objects.insert_one({"_id": "registry", "identity": uuid4().hex})
            found = self._objects.find_one({"_id": "registry"})
            assert found is not None, "it was there, or made"
            self._identity = str(found["identity"])
        return self._identity

    # -- finding -------------------------------------------------------------------------------------------------

    def list(self, name: str | None = None, tag: str | None = None) -> Sequence[RegisteredModel]:
        """Models, newest first: those of one name by version, those of all in the order of their registration.

        One whose document cannot be read is left out, with a warning in the log.
        """
        return [*self._readable(self._find(name, tag, NEWEST if name is not None else NEWEST_OVERALL))]

    def get(self, name: str, version: int) -> RegisteredModel:
        """One model.

        Raises
        ------
        ModelNotFoundError
        """
        if isinstance(version, bool) or not isinstance(version, int):
            raise InputError(f"The version must be a whole number, not {type(version).__name__}.")
        wanted = {"name": check_text("name", name), "version": version, "deleted": None}
        document = self.documents.find_one(wanted)
        if document is None:
            known = ", ".join(str(model.version) for model in self.list(name)[:10]) or "none"
            raise ModelNotFoundError(f"There is no version {version} of model {name!r} (newest: {known}).")
        return RegisteredModel.from_document(document)

    def latest(self, name: str, tag: str = "") -> RegisteredModel:
        """The newest model of a name (and of a tag, if one is given): that with the highest version.

        Raises
        ------
        ModelNotFoundError
        StoredDataError
            If there are models, and no document of them can be read.
        """
        documents = [*self._find(check_text("name", name), tag or None, NEWEST)]
        for model in self._readable(iter(documents)):
            return model
        for document in documents:
            RegisteredModel.from_document(document)
        raise self._missing(name, tag, "")

    def best(self, name: str, tag: str = "") -> RegisteredModel:
        """The model of a name (and tag) with the best score; of equal scores, the newest.

        Scores of different metrics do not compare: those of the newest scored model's metric count.

        Raises
        ------
        ModelNotFoundError
        """
        return self.ranked(name, tag)[0]

    def ranked(self, name: str, tag: str = "") -> Sequence[RegisteredModel]:
        """The best model of a name (and tag), and those that come after it, as `best` decides.

        Raises
        ------
        ModelNotFoundError
            If there is no scored one.
        """
        found = self._find(check_text("name", name), tag or None, NEWEST, {"score": {"$type": "number"}})
        # A stored NaN is a number, and no score.
        scored = [model for model in self._readable(found) if model.score is not None]
        if not scored:
            raise self._missing(name, tag, "scored ")
        alike = [m for m in scored if (m.metric, m.direction) == (scored[0].metric, scored[0].direction)]
        return sorted(alike, key=lambda model: -model.comparable_score)  # stable: of equal ones the newest comes first

    def find(self, name: str, fingerprint: str) -> RegisteredModel | None:
        """The newest model of a name with this fingerprint of data, configuration and code.

        None if there is none, or its object is not there as it was registered: then it has to be made again.
        """
        more = {"fingerprint": check_text("fingerprint", fingerprint)}
        for model in self._readable(self._find(check_text("name", name), None, NEWEST, more)):
            return model if self.is_stored(model) else None
        return None

    def _find(
        self,
        name: str | None,
        tag: str | None,
        order: Sequence[tuple[str, int]],
        more: Mapping[str, Any] | None = None,
    ) -> Iterator[dict[str, Any]]:
        wanted: dict[str, Any] = {"deleted": None, **(more or {})}
        if name is not None:
            wanted["name"] = check_text("name", name)
        if tag is not None:
            check_text("tag", tag)
            wanted["$or"] = [{"tags": tag}, {"tag": tag}]  # documents of the original system have one
        yield from self.documents.find(wanted).sort([*order])

    def _readable(self, documents: Iterator[dict[str, Any]]) -> Iterator[RegisteredModel]:
        """One damaged document does not hide the others."""
        for document in documents:
            try:
                yield RegisteredModel.from_document(document)
            except StoredDataError as error:
                log.warning("%s It is left out.", error)

    def _missing(self, name: str, tag: str, scored: str) -> ModelNotFoundError:
        names = ", ".join(sorted(str(one) for one in self.documents.distinct("name", {"deleted": None}))) or "none"
        return ModelNotFoundError(
            f"No {scored}model {name!r}{f' with tag {tag!r}' if tag else ''} is registered (registered: {names}). "
            "Train one: gh-assets run."
        )

    # -- aliases -------------------------------------------------------------------------------------------------

    def champion(self, purpose: str = PURPOSE, alias: str = CHAMPION) -> RegisteredModel:
        """The model that an alias points to.

        Raises
        ------
        ModelNotFoundError
            If it was never promoted.
        """
        for model in self.holders(purpose, alias):
            return model
        raise no_alias(purpose, alias)

    def holders(self, purpose: str = PURPOSE, alias: str = CHAMPION) -> Iterator[RegisteredModel]:
        """The model that an alias points to, and then those to which one rollback after the other would return."""
        seen: set[tuple[str, int]] = set()
        for move in self.aliases.holding(purpose, alias):
            model = self._visible(move)  # one may be deleted by whoever did not see the promotion
            if model is not None and (model.name, model.version) not in seen:
                seen.add((model.name, model.version))
                yield model

    def promote(
        self,
        name: str,
        version: int,
        *,
        why: str,
        by: str | None = None,
        purpose: str = PURPOSE,
        alias: str = CHAMPION,
        evidence: Mapping[str, Any] | None = None,
        after: Move | Literal["present"] | None = "present",
    ) -> Move:
        """Point an alias to a model, which must be there as it was registered.

        Parameters
        ----------
        name, version : str, int
        why : str
            For those who will ask.
        by : str, optional
            A person, or a run; by default the user of this process.
        purpose, alias, evidence
            See `Move`.
        after : Move or None, optional
            The move that the decision was made against; by default the present one.

        Raises
        ------
        ConcurrentWriteError
            If the alias moved meanwhile.
        ModelNotFoundError, StoredDataError
            If the model is not there, or not what it was.
        """
        check_name("alias", alias)
        _check_reason(why)
        model = self.get(name, version)
        if not self.is_stored(model):
            raise StoredDataError(f"{model.uri} is missing or not what was registered: {model.title} stays as it is.")
        current = self.aliases.current(purpose, alias) if after == "present" else after
        assert current is None or isinstance(current, Move), "only the word stands for the present one"
        move = self.aliases.promote(
            purpose, alias, name, version, by=by or _current_user(), why=why, after=current, evidence=evidence
        )
        if self._visible(move) is None:
            raise ModelNotFoundError(f"{model.title} was deleted while it was promoted: the {alias} is what it was.")
        return move

    def rollback(self, *, why: str, by: str | None = None, purpose: str = PURPOSE, alias: str = CHAMPION) -> Move:
        """Return an alias to the model before the present one; again, to the one before that.

        Models that were deleted, or whose object is not what was registered, are passed over; the evidence of the move
        says which, and why (``passed_over``).

        Raises
        ------
        ModelNotFoundError
            If there is none to return to; the message says what became of those that there were.
        """
        _check_reason(why)
        moves = [*self.aliases.holding(purpose, alias)]
        if not moves:
            raise no_alias(purpose, alias)
        # A champion that was deleted behind the registry's back is none: the present one is the first that is there.
        present = next((place for place, move in enumerate(moves) if self._visible(move) is not None), 0)
        current, below = moves[present], moves[present + 1 :]
        passed_over: Names = []
        for move in below:
            problem = self._unavailable_reason(move)
            if problem is None:
                evidence = {"passed_over": passed_over} if passed_over else {}
                return self.aliases.rollback(move, by=by or _current_user(), why=why, after=moves[0], evidence=evidence)
            if problem not in passed_over:
                passed_over.append(problem)
        if passed_over:
            raise ModelNotFoundError(
                f"There is nothing to return to: before {current.name} {current.version}, {'; '.join(passed_over)}. "
                "Promote another model: gh-assets models promote NAME VERSION --why TEXT."
            )
        raise ModelNotFoundError(
            f"There was no {alias} before {current.name} {current.version}: there is nothing to return to."
        )

    def _unavailable_reason(self, move: Move) -> str | None:
        """Why one cannot return to a move's model, in words; None: one can."""
        model = self._visible(move)
        title = f"{move.name} {move.version}"
        if model is not None:
            problem = self.problem(model)
            return None if problem is None else f"{title} cannot be read any more ({problem})"
        document = self.documents.find_one({"name": move.name, "version": move.version}, {"deleted": 1}) or {}
        if not document:
            return f"{title} has no document any more"
        note = document.get("deleted")
        if note is None:
            return f"{title} has a document that cannot be read"
        reason = note.get("why") if isinstance(note, dict) else None
        return f"{title} was deleted" + (f" ({reason})" if reason else "")

    def _visible(self, move: Move) -> RegisteredModel | None:
        try:
            return self.get(move.name, move.version)
        except (ModelNotFoundError, StoredDataError):
            return None

    # -- looking after -------------------------------------------------------------------------------------------

    def is_stored(self, model: RegisteredModel) -> bool:
        """Whether the model's object is there, as it was registered, by what the bucket says of it."""
        return not self.problem(model)

    def problem(self, model: RegisteredModel) -> str | None:
        """What is wrong with the model's object by what the bucket says of it; None: nothing."""
        if model.bucket != self.store.name:
            return f"it lies in another bucket, gs://{model.bucket}"
        found = self.store.describe(model.object)
        if found is None:
            return f"{model.uri} is missing"
        for what, registered, stored in (
            ("generation", model.generation, found.generation),
            ("size", model.size, found.size),
            ("crc32c", model.crc32c, found.crc32c),
        ):
            if registered is not None and registered != stored:
                return f"{model.uri} has the {what} {stored} instead of {registered}"
        return None

    def verify(self, model: RegisteredModel) -> str | None:
        """What is wrong with a model, by reading all of its bytes; None: nothing.

        Archives are unpacked to see that they can be.
        """
        try:
            with Scratch() as scratch:
                self.download(model, scratch, unpack=is_archive(model.file_name))
        except (StoredDataError, InputError) as error:
            return self.problem(model) or str(error)
        return self.problem(model)

    def delete(self, name: str, version: int, *, why: str, by: str | None = None) -> RegisteredModel:
        """Make a model invisible, for ever. Its object goes with the next `sweep` after the grace time.

        Raises
        ------
        InputError
            If it is a champion.
        ModelNotFoundError
        """
        _check_reason(why)
        model = self.get(name, version)
        self._refuse_if_held(model)
        place = {"name": name, "version": version}
        note = {"by": by or _current_user(), "why": why, "time": as_stored(dt.datetime.now(dt.UTC))}
        # Whoever looks for models as the original system did must not find a deleted one.
        self.documents.update_one(place, {"$set": {"deleted": note}, "$unset": dict.fromkeys(LEGACY_FIELDS, 1)})
        try:
            self._refuse_if_held(model)  # promoted between the look and the deed
        except InputError:
            again = {field: model.to_document()[field] for field in LEGACY_FIELDS}
            self.documents.update_one(place, {"$unset": {"deleted": 1}, "$set": again})
            raise
        return model

    def _refuse_if_held(self, model: RegisteredModel) -> None:
        for move in self._holding_moves():
            if move.alias == CHAMPION and (move.name, move.version) == (model.name, model.version):
                raise InputError(
                    f"{model.title} is the {move.alias} to {move.purpose}: promote another one or roll back before it "
                    "is deleted."
                )

    def alias_holders(self) -> Mapping[tuple[str, int], Sequence[str]]:
        """Aliases by name and version of the models that they point to."""
        found: dict[tuple[str, int], Names] = {}
        for move in self._holding_moves():
            found.setdefault((move.name, move.version), []).append(move.alias)
        return found

    def _holding_moves(self) -> Iterator[Move]:
        """The present move of every alias."""
        for first in self.aliases.moves.find({"revision": 1}, {"purpose": 1, "alias": 1}).sort("alias"):
            move = self.aliases.current(first["purpose"], first["alias"])
            if move is not None:
                yield move

    def sweep(self, grace: dt.timedelta = GRACE, *, dry_run: bool = False) -> Sequence[StoredObject]:
        """Remove objects that no visible model names: of crashes, and of deleted models.

        Parameters
        ----------
        grace : timedelta
            Younger ones stay, and those that a save wanted later than that.
        only_look : bool
            Only say which they are.

        Returns
        -------
        list of StoredObject
            Those that were removed.
        """
        now = self._now()
        named = self._named()
        removed: Removed = []
        for found in self.store.list(""):
            old = found.created is not None and now - found.created >= grace
            mine = MANAGED_OBJECT.fullmatch(found.name) and found.metadata.get("registry") == self.identity
            if not mine or not old or found.name in named:
                continue
            if dry_run or self._remove(found, now - grace):
                removed.append(found)
        return removed

    def _remove(self, orphan: StoredObject, wanted_before: dt.datetime) -> bool:
        """Delete an object unless a save wants it, in an order in which either side sees the other."""
        own = {"_id": f"{_DELETING}{orphan.name}:{uuid4().hex}"}
        self._objects.update_one(own, {"$currentDate": {"at": True}}, upsert=True)
        # From here on no save takes it. One that did before the grace time, and slept, has its document by now.
        wanted_at = (self._objects.find_one({"_id": orphan.name}) or {}).get("wanted_at")
        if wanted_at is not None and not wanted_at.tzinfo:
            wanted_at = wanted_at.replace(tzinfo=dt.UTC)
        if (wanted_at is not None and wanted_at >= wanted_before) or orphan.name in self._named(orphan.name):
            self._objects.update_one({"_id": orphan.name}, {"$unset": {"deleting": 1}})
            self._objects.delete_one(own)
            return False
        self.store.delete(orphan.name, if_generation=orphan.generation)
        # The notes go last, those of sweeps that were killed with them: until then no save takes the name.
        self._objects.delete_one({"_id": orphan.name})
        self._objects.delete_many(_deletions(orphan.name))
        return True

    def _named(self, name: str | None = None) -> set[str]:
        """Objects that visible models name; or whether this one is."""
        wanted: dict[str, Any] = {"deleted": None}
        if name is not None:
            wanted["object"] = name
        return {
            str(document.get("object") or document.get("file_name"))
            for document in self.documents.find(wanted, {"object": 1, "file_name": 1})
        }

    def _now(self) -> dt.datetime:
        """By the server's clock, which all processes share."""
        now = self.documents.database.command("hello").get("localTime") or dt.datetime.now(dt.UTC)
        return now if now.tzinfo else now.replace(tzinfo=dt.UTC)

    # -- fetching ------------------------------------------------------------------------------------------------

    def download(self, model: RegisteredModel, directory: Path, *, unpack: bool = False) -> Path:
        """Fetch a model's file, whole and verified, or leave nothing.

        Returns
        -------
        Path
            The file in `directory`, under its registered name; with `unpack`, the folder that the archive became.

        Raises
        ------
        StoredDataError
            If the object is missing or not what was registered.
        """
        if model.bucket != self.store.name:
            raise StoredDataError(
                f"Model {model.name!r} lies in gs://{model.bucket}; this registry reads gs://{self.store.name}. "
                "Set GCS_MODEL_BUCKET."
            )
        directory = Path(directory)
        check_name("file name", model.file_name)
        if unpack and not is_archive(model.file_name):
            raise InputError(f"{model.file_name} of {model.title} is no archive: download it without unpacking.")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor, draft_name = tempfile.mkstemp(prefix=f".{model.file_name}.", dir=directory)
        except OSError as error:
            raise _not_written(directory, error) from error
        os.close(descriptor)
        draft, target = Path(draft_name), directory / model.file_name
        try:
            sha256 = self.store.read_to(model.object, draft)
            # Original documents do not say what it should be: there the bucket's checksum has to do.
            if model.sha256 not in (None, sha256):
                raise StoredDataError(f"{model.uri} is not what was registered: its SHA-256 differs.")
            if unpack:
                folder = directory / stem_of(model.file_name)
                named = draft.rename(draft.with_name(f"{draft.name}.{model.file_name}"))
                draft = named
                extract_archive(draft, folder, most_bytes=model.unpacked)
                return folder
            draft.replace(target)
        except OSError as error:
            raise _not_written(directory, error) from error
        finally:
            draft.unlink(missing_ok=True)
        return target


def _deletions(name: str) -> dict[str, Any]:
    """The notes of sweeps that delete an object."""
    return {"_id": {"$gte": f"{_DELETING}{name}:", "$lt": f"{_DELETING}{name};"}}


def _not_written(directory: Path, error: OSError) -> StoredDataError:
    return StoredDataError(
        f"{directory} cannot be written to ({error.strerror or error}): make room or choose another folder. Nothing "
        "was left there."
    )


def _check_description(name: str, described: Mapping[str, Any]) -> None:
    try:
        size = len(bson.encode(dict(described)))
    except (bson.errors.InvalidDocument, OverflowError, ValueError) as error:
        raise InputError(f"What describes model {name!r} cannot be kept by Mongo: {str(error)[:200]}.") from None
    if size > MAX_DESCRIPTION:
        raise InputError(
            f"What describes model {name!r} takes {size / 1e6:.1f} MB: {MAX_DESCRIPTION / 1e6:.0f} MB at most. Put it "
            "into the model's file."
        )


def _check_reason(why: str) -> None:
    if not check_text("reason", why).strip() or len(why) > 2000:
        raise InputError("Say why, in 2,000 characters at most: it is kept with the decision.")


def _current_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"
