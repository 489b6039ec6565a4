"""The model that serves people: the champion, else the best; loaded, from this machine if its bytes are here."""

from __future__ import annotations

from dataclasses import dataclass

from pymongo.errors import PyMongoError

from gh_assets.errors import ModelNotFoundError, ServiceUnavailableError
from gh_assets.recommender.training import TrainedModel
from gh_assets.registry import SERVED, ModelRegistry, RegisteredModel
from gh_assets.registry.cache import ModelCache
from gh_assets.services import model_store, open_mongo
from gh_assets.settings import Settings

QUESTION = "the model that serves people"


@dataclass(frozen=True)
class Serving:
    """A loaded model, how it is registered, and what one should know about that."""

    registered: RegisteredModel
    trained: TrainedModel
    warnings: tuple[str, ...] = ()


def model_cache(settings: Settings) -> ModelCache:
    """The models on this machine."""
    return ModelCache(settings.home_path / "cache" / "models")


def serving(settings: Settings) -> Serving:
    """The model that serves people now.

    Without Mongo or Cloud Storage it is the last one that was asked for, if it is on this machine; a warning says so.

    Raises
    ------
    ModelNotFoundError
        If no model is registered.
    ServiceUnavailableError
        If the services are away, and no model is here.
    """
    cache = model_cache(settings)
    try:
        with open_mongo(settings) as database:
            registry = ModelRegistry(model_store(settings), database["models"])
            registered = champion_or_best(registry)
            trained = load_model(registry, registered, cache)
    except (ServiceUnavailableError, PyMongoError) as error:
        kept = cache.remembered(QUESTION)
        if kept is None:
            raise
        ours = isinstance(error, ServiceUnavailableError)
        reason = str(error) if ours else f"MongoDB failed ({type(error).__name__})."
        warning = f"{reason} This is by {kept.title}, the last model that was used here; there may be a newer one."
        return Serving(kept, load_model(None, kept, cache), (warning,))
    cache.remember(QUESTION, registered)
    return Serving(registered, trained)


def champion_or_best(registry: ModelRegistry) -> RegisteredModel:
    """The champion; where none was promoted, the best of `SERVED`.

    Raises
    ------
    ModelNotFoundError
    """
    try:
        return registry.champion()
    except ModelNotFoundError:
        return best_of(registry, SERVED)


def best_of(registry: ModelRegistry, names: tuple[str, ...], tag: str = "") -> RegisteredModel:
    """The model with the best score among those of some names; of equal ones, that of the first name.

    Raises
    ------
    ModelNotFoundError
        If no name has a scored one.
    """
    found: list[RegisteredModel] = []
    missing = ModelNotFoundError("No name of a model was given.")
    for name in names:
        try:
            found.append(registry.best(name, tag))
        except ModelNotFoundError as error:
            missing = error
    if not found:
        raise missing
    return max(found, key=lambda model: model.worth)


def load_model(registry: ModelRegistry | None, registered: RegisteredModel, cache: ModelCache) -> TrainedModel:
    """Load a registered model; without a registry, from this machine.

    Raises
    ------
    StoredDataError, ServiceUnavailableError
        If it cannot be fetched, or is no model.
    """
    with cache.fetched(registry, registered) as folder:
        return TrainedModel.load(folder)
