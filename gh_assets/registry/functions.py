"""The registry that the settings configure, and the two functions of the original system on top of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gh_assets.registry.documents import ModelCard
from gh_assets.registry.store import ModelRegistry
from gh_assets.services.connections import connect_mongo, model_store, open_mongo
from gh_assets.settings import Settings, load_settings
from gh_assets.storage.mongo import Collections, Documents


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
        The file; with `tar_zip` also a folder.
    model_name, tag : str
    score : float or None
        Higher is better.
    db_conn : pymongo collection, optional
        Collection of the document; by default ``models`` of the configured database.
    file_name : str, optional
        Registered file name; by default that of `file_path`.
    tar_zip : bool
        Compress into the file's stem + ``.tar.gz``.

    Returns
    -------
    dict
        The registered document.
    """
    card = ModelCard(model_name, score, tags=(tag,) if tag else ())
    registry = configured_registry(db_conn)
    model = registry.save(Path(file_path), card, archive="gzip" if tar_zip else None, file_name=file_name)
    return model.to_document()


def download_file(
    model_name: str,
    db_conn: Documents | None = None,
    tag: str = "",
    latest: bool = True,
    directory: Path | str = ".",
    unpack: bool = False,
) -> Path:
    """Download a registered model's file.

    Parameters
    ----------
    model_name, tag : str
        An empty tag matches any.
    db_conn : pymongo collection, optional
    latest : bool
        True: the newest model; False: the one with the best score.
    directory : path
        Folder in which the file is written under its registered name.
    unpack : bool
        Unpack an archive into a folder of its name.

    Returns
    -------
    Path
        The file or folder that was written.

    Raises
    ------
    ModelNotFoundError, StoredDataError
    """
    registry = configured_registry(db_conn)
    model = registry.latest(model_name, tag) if latest else registry.best(model_name, tag)
    return registry.download(model, Path(directory), unpack=unpack)


@contextmanager
def open_registry(settings: Settings) -> Iterator[ModelRegistry]:
    """Open the registry that settings configure for the length of a block."""
    with open_mongo(settings) as database:
        yield ModelRegistry(model_store(settings), database[Collections.MODELS])


def configured_registry(documents: Documents | None = None) -> ModelRegistry:
    """Return the registry that the settings configure; with another collection, if one is given."""
    settings = load_settings()
    if documents is None:
        documents = connect_mongo(settings)[Collections.MODELS]
    return ModelRegistry(model_store(settings), documents)
