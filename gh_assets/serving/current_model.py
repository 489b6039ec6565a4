"""The model that serves people: the champion, else the best; loaded, from this machine if its bytes are here.

A model that cannot be loaded (damaged, of another format, its object missing) stops nobody: the next best serves, and
what was skipped is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymongo.errors import PyMongoError

from gh_assets.errors import InputError, ModelNotFoundError, ServiceUnavailableError, StoredDataError
from gh_assets.registry import SERVED, ModelRegistry, RegisteredModel
from gh_assets.registry.cache import ModelCache
from gh_assets.services.connections import model_store, open_mongo
from gh_assets.settings import Settings
from gh_assets.storage.mongo import Collections

if TYPE_CHECKING:
    from gh_assets.recommender.training.training import TrainedModel

CURRENT_MODEL_KEY = "the model that serves people"

UNLOADABLE = (StoredDataError, InputError)
"""What is raised for a model that is not there or not what it should be, however often one tries."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model, how it is registered, and what one should know about that."""

    registered: RegisteredModel
    trained: TrainedModel
    warnings: tuple[str, ...] = ()


def model_cache(settings: Settings) -> ModelCache:
    """The models on this machine."""
    return ModelCache(settings.home_path / "cache" / "models")


def load_current_model(settings: Settings) -> LoadedModel:
    """The model that serves people now.

    Without Mongo or Cloud Storage it is the last one that was asked for, if it is on this machine; a warning says so.
    Warnings name models that would serve if they could be loaded, too.

    Raises
    ------
    ModelNotFoundError
        If no model is registered.
    StoredDataError
        If none can be loaded.
    ServiceUnavailableError
        If the services are away, and no model is here.
    """
    cache = model_cache(settings)
    try:
        with open_mongo(settings) as database:
            registry = ModelRegistry(model_store(settings), database[Collections.MODELS])
            found = load_first_usable(registry, serving_candidates(registry), cache)
    except (ServiceUnavailableError, PyMongoError) as error:
        kept = cache.load_selection(CURRENT_MODEL_KEY)
        if kept is None:
            raise
        ours = isinstance(error, ServiceUnavailableError)
        reason = str(error) if ours else f"MongoDB failed ({type(error).__name__})."
        warning = f"{reason} This is by {kept.title}, the last model that was used here; there may be a newer one."
        return LoadedModel(kept, load_model(None, kept, cache), (warning,))
    cache.save_selection(CURRENT_MODEL_KEY, found.registered)
    return found


def current_model(registry: ModelRegistry) -> RegisteredModel:
    """The champion; where none was promoted, the best of `SERVED`.

    Raises
    ------
    ModelNotFoundError
    """
    return next(serving_candidates(registry))


def serving_candidates(registry: ModelRegistry) -> Iterator[RegisteredModel]:
    """The champion, the models to which rollbacks would return, and those of `SERVED` from the best on.

    Raises
    ------
    ModelNotFoundError
        If there is none at all.
    """
    seen: set[tuple[str, int]] = set()
    for model in registry.holders():
        seen.add((model.name, model.version))
        yield model
    try:
        others = rank_models(registry, SERVED)
    except ModelNotFoundError:
        if not seen:
            raise
        return
    for model in others:
        if not model.version or (model.name, model.version) not in seen:
            yield model


def best_of(registry: ModelRegistry, names: tuple[str, ...], tag: str = "") -> RegisteredModel:
    """The model with the best score among those of some names; of equal ones, that of the first name.

    Raises
    ------
    ModelNotFoundError
        If no name has a scored one.
    """
    return rank_models(registry, names, tag)[0]


def rank_models(registry: ModelRegistry, names: tuple[str, ...], tag: str = "") -> Sequence[RegisteredModel]:
    """The scored models of some names, the best first; see `best_of`.

    Raises
    ------
    ModelNotFoundError
        If no name has a scored one.
    """
    found: list[RegisteredModel] = []
    missing = ModelNotFoundError("No name of a model was given.")
    for name in names:
        try:
            found += registry.ranked(name, tag)
        except ModelNotFoundError as error:
            missing = error
    if not found:
        raise missing
    return sorted(
        found, key=lambda model: -model.comparable_score
    )  # stable: of equal ones those of the first name come first


def load_first_usable(registry: ModelRegistry, models: Iterable[RegisteredModel], cache: ModelCache) -> LoadedModel:
    """The first model that can be loaded; warnings name those before it.

    Raises
    ------
    StoredDataError
        If none can be.
    ServiceUnavailableError
        If the services are away.
    """
    warnings: list[str] = []
    for registered in models:
        try:
            return LoadedModel(registered, load_model(registry, registered, cache), tuple(warnings))
        except UNLOADABLE as error:
            warnings.append(skipped(registered, str(error)))
    raise StoredDataError(
        f"No model can be loaded. {' '.join(warnings)} Train one (gh-assets run --retrain), or restore a backup."
    )


def skipped(registered: RegisteredModel, reason: str) -> str:
    """What is said of a model that cannot be loaded, by whoever goes on to the next; also in the log."""
    words = f"{registered.title} cannot be loaded and is skipped: {reason.removesuffix('.')}."
    log.warning("%s", words)
    return words


def load_model(registry: ModelRegistry | None, registered: RegisteredModel, cache: ModelCache) -> TrainedModel:
    """Load a registered model; without a registry, from this machine.

    Raises
    ------
    StoredDataError, ServiceUnavailableError
        If it cannot be fetched, or is no model.
    """
    # torch takes seconds to import: whoever only asks which model serves need not wait for it.
    from gh_assets.recommender.training.training import TrainedModel

    with cache.fetched(registry, registered) as folder:
        return TrainedModel.load(folder)
