"""The best registered model, loaded: from the cache under the home if its bytes are there, else from the bucket."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from gh_assets.errors import ModelNotFoundError
from gh_assets.recommender.training import TrainedModel
from gh_assets.registry import ModelRegistry, RegisteredModel


def load_best(
    registry: ModelRegistry, names: Sequence[str], cache: Path, tag: str = ""
) -> tuple[RegisteredModel, TrainedModel]:
    """Load the model with the best score among those of some names (and a tag).

    Parameters
    ----------
    registry : ModelRegistry
    names : sequence of str
        Of equal scores, the first.
    tag : str
    cache : Path
        Folder for unpacked models, by their SHA-256.

    Raises
    ------
    ModelNotFoundError, StoredDataError
    """
    found: list[RegisteredModel] = []
    missing: ModelNotFoundError | None = None
    for name in names:
        try:
            found.append(registry.best(name, tag))
        except ModelNotFoundError as error:
            missing = error
    if not found:
        raise missing or ModelNotFoundError("No name of a model was given.")
    registered = max(found, key=lambda model: model.score or 0.0)
    return registered, load_model(registry, registered, cache)


def load_model(registry: ModelRegistry, registered: RegisteredModel, cache: Path) -> TrainedModel:
    """Load a registered model; see `load_best`."""
    place = cache / registered.sha256
    folder = place / registered.file_name.removesuffix(".tar.gz")
    if not folder.is_dir():  # the last step of unpacking makes it, whole
        registry.download(registered, place, unpack=True)
        _forget_others(cache, keep=4)
    return TrainedModel.load(folder)


def _forget_others(cache: Path, keep: int) -> None:
    folders = sorted(cache.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in folders[keep:]:
        shutil.rmtree(folder, ignore_errors=True)
