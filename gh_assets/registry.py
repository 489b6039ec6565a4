"""The model registry: a file in Cloud Storage and a document in Mongo for each model.

The document is the commit point: it is written last, after the object is there and verified. Objects are named by
their content's SHA-256 and never replaced, so a crash leaves a whole model or nothing that anybody sees.
"""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import math
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pymongo
from pymongo.collection import Collection

from gh_assets.documents import as_stored
from gh_assets.errors import ConcurrentWriteError, InputError, ModelNotFoundError, StoredDataError
from gh_assets.objects import ABSENT, ObjectStore

Documents = Collection[dict[str, Any]]

CHUNK = 1 << 20


@dataclass(frozen=True)
class RegisteredModel:
    """One model, as its document describes it."""

    name: str
    tag: str
    score: float | None
    metric: str
    time: dt.datetime
    bucket: str
    object: str
    generation: int
    sha256: str
    crc32c: str
    size: int
    file_name: str
    run_id: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> RegisteredModel:
        """From a document, ignoring fields that this version does not know."""
        try:
            return cls(**{name: document[name] for name in cls.__dataclass_fields__ if name in document})
        except TypeError as error:
            raise StoredDataError(f"The document of model {document.get('name')!r} is incomplete: {error}.") from error

    def to_document(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def uri(self) -> str:
        return f"gs://{self.bucket}/{self.object}"


class ModelRegistry:
    """Models in one bucket and one collection.

    Parameters
    ----------
    store : ObjectStore
        Bucket of the models.
    documents : pymongo.collection.Collection
        One document a model.
    """

    def __init__(self, store: ObjectStore, documents: Documents) -> None:
        self.store = store
        self.documents = documents
        documents.create_index([("name", pymongo.ASCENDING), ("tag", pymongo.ASCENDING), ("time", pymongo.DESCENDING)])

    def save(
        self,
        path: Path,
        name: str,
        score: float | None,
        *,
        tag: str = "",
        metric: str = "",
        file_name: str | None = None,
        tar_zip: bool = False,
        run_id: str | None = None,
        config: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        fingerprint: str | None = None,
    ) -> RegisteredModel:
        """Store a file or folder as a model, and register it.

        Parameters
        ----------
        path : Path
            A file, or with `tar_zip` also a folder.
        name, tag : str
        score : float or None
            Higher is better; None or NaN: not scored, never the best.
        metric : str
            What the score is, such as ``ndcg@100``.
        file_name : str, optional
            Name of the file as downloads will write it; by default the path's own. With `tar_zip` its stem gets
            ``.tar.gz``.
        tar_zip : bool
            Compress into a ``.tar.gz`` whose bytes depend on the content only.

        Returns
        -------
        RegisteredModel

        Raises
        ------
        InputError
            If the file does not exist, or a name is not usable.
        """
        _check_name("model name", name)
        if tag:
            _check_name("tag", tag)
        path = Path(path)
        if not path.exists():
            raise InputError(f"{path} does not exist: there is no model to store.")
        if path.is_dir() and not tar_zip:
            raise InputError(f"{path} is a folder: store it with tar_zip=True.")
        kept_name = file_name or path.name
        if tar_zip:
            kept_name = Path(kept_name).stem + ".tar.gz"
        _check_name("file name", kept_name)
        with tempfile.TemporaryDirectory(prefix="gh-assets-") as scratch:
            source = path
            if tar_zip:
                source = Path(scratch) / "archive.tar.gz"
                write_archive(path, source)
            digest, size = _sha256(source), source.stat().st_size
            target = f"{name}/{digest}/{kept_name}"
            try:
                stored = self.store.write(target, source, if_generation=ABSENT, metadata={"sha256": digest})
            except ConcurrentWriteError:
                # The same content is there already: from an earlier save, or a retry of this one.
                found = self.store.describe(target)
                if found is None:
                    raise
                stored = found
        if stored.size != size:
            raise StoredDataError(f"{stored.uri} has {stored.size} bytes instead of {size}: not registered.")
        model = RegisteredModel(
            name=name,
            tag=tag,
            score=None if score is None or math.isnan(score) else float(score),
            metric=metric,
            # Mongo keeps milliseconds: what we return is what will be read.
            time=as_stored(dt.datetime.now(dt.UTC)),
            bucket=stored.bucket,
            object=stored.name,
            generation=stored.generation,
            sha256=digest,
            crc32c=stored.crc32c,
            size=size,
            file_name=kept_name,
            run_id=run_id,
            config=dict(config or {}),
            metrics=dict(metrics or {}),
            fingerprint=fingerprint,
        )
        self.documents.insert_one(model.to_document())
        return model

    def models(self, name: str | None = None, tag: str | None = None) -> list[RegisteredModel]:
        """Models, newest first."""
        wanted = {key: _text(key, value) for key, value in (("name", name), ("tag", tag)) if value is not None}
        found = self.documents.find(wanted).sort([("time", pymongo.DESCENDING), ("_id", pymongo.DESCENDING)])
        return [RegisteredModel.from_document(document) for document in found]

    def latest(self, name: str, tag: str = "") -> RegisteredModel:
        """The newest model of a name (and of a tag, if one is given).

        Raises
        ------
        ModelNotFoundError
        """
        return self._first(name, tag, [("time", pymongo.DESCENDING), ("_id", pymongo.DESCENDING)], scored=False)

    def best(self, name: str, tag: str = "") -> RegisteredModel:
        """The model of a name (and tag) with the highest score; of equal scores, the newest.

        Raises
        ------
        ModelNotFoundError
        """
        order = [("score", pymongo.DESCENDING), ("time", pymongo.DESCENDING), ("_id", pymongo.DESCENDING)]
        return self._first(name, tag, order, scored=True)

    def find(self, name: str, fingerprint: str) -> RegisteredModel | None:
        """The newest model of a name with this fingerprint of data, configuration and code; None if there is none."""
        wanted = {"name": _text("name", name), "fingerprint": _text("fingerprint", fingerprint)}
        document = self.documents.find_one(wanted, sort=[("time", pymongo.DESCENDING)])
        return None if document is None else RegisteredModel.from_document(document)

    def is_stored(self, model: RegisteredModel) -> bool:
        """Whether the model's object is there, as it was registered."""
        found = self.store.describe(model.object) if model.bucket == self.store.name else None
        return found is not None and found.generation == model.generation and found.crc32c == model.crc32c

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
        directory.mkdir(parents=True, exist_ok=True)
        _check_name("file name", model.file_name)
        target = directory / model.file_name
        descriptor, draft_name = tempfile.mkstemp(prefix=f".{model.file_name}.", dir=directory)
        os.close(descriptor)
        draft = Path(draft_name)
        try:
            self.store.read_to(model.object, draft, generation=model.generation)
            if draft.stat().st_size != model.size or _sha256(draft) != model.sha256:
                raise StoredDataError(f"{model.uri} is not what was registered: its SHA-256 differs.")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        if not unpack:
            return target
        folder = directory / model.file_name.removesuffix(".tar.gz")
        extract_archive(target, folder)
        target.unlink()
        return folder

    def _first(self, name: str, tag: str, order: list[tuple[str, int]], *, scored: bool) -> RegisteredModel:
        wanted: dict[str, Any] = {"name": _text("name", name)}
        if tag:
            wanted["tag"] = _text("tag", tag)
        if scored:
            wanted["score"] = {"$type": "number"}
        document = self.documents.find_one(wanted, sort=order)
        if document is None:
            names = ", ".join(sorted(self.documents.distinct("name"))) or "none"
            raise ModelNotFoundError(
                f"No {'scored ' if scored else ''}model {name!r}{f' with tag {tag!r}' if tag else ''} is registered "
                f"(registered: {names}). Train one: gh-assets run."
            )
        return RegisteredModel.from_document(document)


def flat_metrics(name: str, board: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metrics of a model and of the baselines beside it as a document keeps them: ``ndcg@100``, ``ease ndcg@100``."""
    return {
        metric if model == name else f"{model} {metric}": value
        for model, metrics in board.items()
        for metric, value in metrics.items()
    }


def leaderboard(model: RegisteredModel) -> dict[str, dict[str, float]]:
    """The inverse of `flat_metrics`: metrics by model, this one and its baselines."""
    board: dict[str, dict[str, float]] = {}
    for key, value in model.metrics.items():
        name, _, metric = key.rpartition(" ")
        board.setdefault(name or model.name, {})[metric] = value
    return board


def file_to_storage(
    file_path: Path | str,
    model_name: str,
    score: float | None,
    tag: str = "",
    db_conn: Documents | None = None,
    file_name: str | None = None,
    tar_zip: bool = False,
) -> dict[str, Any]:
    """Store a model's file in the model bucket and register it.

    Parameters
    ----------
    file_path : path
        The file (or folder, with `tar_zip`).
    model_name, tag : str
    score : float or None
        Higher is better.
    db_conn : pymongo collection, optional
        Where the document goes; by default the collection ``models`` of the configured database.
    file_name : str, optional
        Registered file name; by default that of `file_path`.
    tar_zip : bool
        Compress into the file's stem + ``.tar.gz``.

    Returns
    -------
    dict
        The registered document.
    """
    registry = _configured_registry(db_conn)
    model = registry.save(Path(file_path), model_name, score, tag=tag, file_name=file_name, tar_zip=tar_zip)
    return model.to_document()


def download_file(
    model_name: str,
    db_conn: Documents | None = None,
    tag: str = "",
    latest: bool = True,
    directory: Path | str = ".",
    unpack: bool = False,
) -> Path:
    """Fetch a registered model's file.

    Parameters
    ----------
    model_name, tag : str
        An empty tag: any.
    db_conn : pymongo collection, optional
    latest : bool
        True: the newest; False: the one with the best score.
    directory : path
        Where the file goes, under its registered name.
    unpack : bool
        Unpack an archive into a folder of its name.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    ModelNotFoundError, StoredDataError
    """
    registry = _configured_registry(db_conn)
    model = registry.latest(model_name, tag) if latest else registry.best(model_name, tag)
    return registry.download(model, Path(directory), unpack=unpack)


def write_archive(source: Path, target: Path) -> None:
    """Pack a file or folder into a ``.tar.gz`` whose bytes depend on names and content only."""
    members = sorted(source.rglob("*")) if source.is_dir() else [source]
    with (
        target.open("wb") as raw,
        # No name and no time in the header: equal content gives equal bytes, hence one object.
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member in members:
            if not member.is_file() or member.is_symlink():
                continue
            name = member.relative_to(source).as_posix() if source.is_dir() else member.name
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = member.stat().st_size, 0o644
            with member.open("rb") as content:
                archive.addfile(entry, content)


def extract_archive(archive: Path, folder: Path) -> None:
    """Unpack a ``.tar.gz`` into a folder, which is replaced. Only plain files that stay inside are accepted.

    Raises
    ------
    StoredDataError
        If it is no archive, or has members with other kinds or paths.
    """
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with tarfile.open(archive, "r:gz") as opened:
            for member in opened:
                _extract_member(opened, member, draft)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise StoredDataError(f"{archive.name} cannot be unpacked: {error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _extract_member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    # By hand, because tarfile's own filters came with Python 3.11.4, and because nothing but content is wanted.
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
        raise tarfile.TarError(f"its member {member.name!r} is not a plain file inside the archive")
    target = folder / path
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    content = archive.extractfile(member)
    assert content is not None, "a regular file has content"
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file, CHUNK)


def _configured_registry(documents: Documents | None) -> ModelRegistry:
    from gh_assets.services import connect_mongo, model_store
    from gh_assets.settings import load_settings

    settings = load_settings()
    if documents is None:
        documents = connect_mongo(settings)["models"]
    return ModelRegistry(model_store(settings), documents)


def _check_name(what: str, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ +=@-]{0,199}", _text(what, value)):
        raise InputError(
            f"The {what} {value[:60]!r} is not usable: give letters, digits, '.', '_', '-', '+', '=', '@' or spaces, "
            "beginning with a letter or digit, 200 at most."
        )


def _text(what: str, value: object) -> str:
    """Queries take strings only: {"$ne": ""} in place of a name would match every model."""
    if not isinstance(value, str):
        raise InputError(f"The {what} must be text, not {type(value).__name__}.")
    return value


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
