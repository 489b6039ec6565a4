"""Which model serves: the champion, or the best one if none was promoted.

A model that cannot be loaded, because it is damaged, of an unknown format or without its object, does not stop the
service: the next candidate serves, with a warning that names the models before it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

from gh_assets.errors import InputError, ModelNotFoundError, ServiceUnavailableError, StoredDataError
from gh_assets.registry import CHAMPION, PURPOSE, SERVED, Decision, ModelRegistry, Move, RegisteredModel, open_registry
from gh_assets.registry.cache import ModelCache
from gh_assets.settings import Settings

if TYPE_CHECKING:
    from gh_assets.recommender.models.trained_model import TrainedModel

CURRENT_MODEL_KEY = "the model that serves people"
"""Key of the cached selection; its hash names the file, so it must not change."""

UNLOADABLE = (StoredDataError, InputError)
"""Errors of a model that is missing or not as it should be, which do not pass with time."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model with its registration.

    Attributes
    ----------
    registered : RegisteredModel
    trained : TrainedModel
    warnings : tuple of str
        Models that were skipped, or services that are unavailable.
    """

    registered: RegisteredModel
    trained: TrainedModel
    warnings: tuple[str, ...] = ()


# -- which model -------------------------------------------------------------------------------------------------------


def current_model(registry: ModelRegistry) -> RegisteredModel:
    """Return the champion, or the best of `SERVED` if none was promoted.

    Raises
    ------
    ModelNotFoundError
    """
    return next(serving_candidates(registry))


def serving_candidates(registry: ModelRegistry, *, name: str = "", tag: str = "") -> Iterator[RegisteredModel]:
    """Yield the models that may serve, in order of preference.

    They are the champion, the models to which rollbacks would return, and those of `SERVED`, best first.

    Parameters
    ----------
    registry : ModelRegistry
    name, tag : str
        If one is given, the models of this name (by default of `SERVED`) and tag, best first, whatever was promoted.

    Raises
    ------
    ModelNotFoundError
        If there is none.
    """
    if name or tag:
        yield from rank_models(registry, (name,) if name else SERVED, tag)
        return
    seen: set[tuple[str, int]] = set()
    for model in registry.holders():
        seen.add(model.key)
        yield model
    try:
        others = rank_models(registry, SERVED)
    except ModelNotFoundError:
        if not seen:
            raise
        return
    for model in others:
        if not model.version or model.key not in seen:
            yield model


def rank_models(registry: ModelRegistry, names: Sequence[str], tag: str = "") -> Sequence[RegisteredModel]:
    """Return the scored models of several names, best first; of equal scores, those of the first name first.

    Raises
    ------
    ModelNotFoundError
        If none has a score.
    """
    models: list[RegisteredModel] = []
    missing = ModelNotFoundError("No name of a model was given.")
    for name in names:
        try:
            models += registry.ranked(name, tag)
        except ModelNotFoundError as error:
            missing = error
    if not models:
        raise missing
    return sorted(models, key=lambda model: -model.comparable_score)


# -- loading -----------------------------------------------------------------------------------------------------------


def model_cache(settings: Settings) -> ModelCache:
    """Return the cache of models on this machine."""
    return ModelCache(settings.home_path / "cache" / "models")


def load_model(registry: ModelRegistry | None, registered: RegisteredModel, cache: ModelCache) -> TrainedModel:
    """Load a registered model; without a registry, from the cache only.

    Raises
    ------
    StoredDataError, ServiceUnavailableError
        If it cannot be downloaded or is not a valid model.
    """
    # Importing torch takes seconds, which is not needed to find out which model serves.
    from gh_assets.recommender.models.trained_model import TrainedModel

    with cache.fetched(registry, registered) as folder:
        return TrainedModel.load(folder)


def find_usable(
    registry: ModelRegistry | None,
    models: Iterable[RegisteredModel],
    cache: ModelCache,
    *,
    loaded: LoadedModel | None = None,
) -> tuple[LoadedModel | None, dict[str, str]]:
    """Load the first model that can be loaded.

    Parameters
    ----------
    registry : ModelRegistry or None
    models : iterable of RegisteredModel
        Candidates in order of preference.
    cache : ModelCache
    loaded : LoadedModel, optional
        A model in memory, which is not loaded again if it is the first usable one.

    Returns
    -------
    model : LoadedModel or None
        None if no candidate can be loaded.
    skipped : dict
        Warnings about the candidates before it, by their titles.

    Raises
    ------
    ServiceUnavailableError
    """
    skipped: dict[str, str] = {}
    tried = set()
    for registered in models:
        identity = model_identity(registered)
        if identity in tried:
            continue
        tried.add(identity)
        if loaded is not None and model_identity(loaded.registered) == identity:
            return replace(loaded, warnings=()), skipped
        try:
            return LoadedModel(registered, load_model(registry, registered, cache)), skipped
        except UNLOADABLE as error:
            skipped[registered.title] = report_skipped(registered, str(error))
    return None, skipped


def load_first_usable(
    registry: ModelRegistry | None,
    models: Iterable[RegisteredModel],
    cache: ModelCache,
    *,
    loaded: LoadedModel | None = None,
    public: bool = False,
) -> LoadedModel:
    """Load the first model that can be loaded, with warnings about those before it.

    Parameters
    ----------
    registry, models, cache, loaded
        See `find_usable`.
    public : bool
        Leave the reasons, which contain addresses, to the log.

    Raises
    ------
    StoredDataError
        If no model can be loaded.
    ServiceUnavailableError
    """
    model, skipped = find_usable(registry, models, cache, loaded=loaded)
    warnings = tuple(skipped.values())
    if public:
        warnings = tuple(f"{title} cannot be loaded: the next best serves in its place." for title in skipped)
    if model is None:
        raise StoredDataError(
            f"No model can be loaded. {' '.join(warnings)} Train one (gh-assets run --retrain), or restore a backup."
        )
    return replace(model, warnings=warnings)


def load_current_model(settings: Settings) -> LoadedModel:
    """Load the model that serves.

    Without Mongo or Cloud Storage it is the last one that served on this machine, if it is cached, with a warning.

    Raises
    ------
    ModelNotFoundError
        If no model is registered.
    StoredDataError
        If no model can be loaded.
    ServiceUnavailableError
        If the services are unavailable and no model is cached.
    """
    cache = model_cache(settings)
    try:
        with open_registry(settings) as registry:
            current = load_first_usable(registry, serving_candidates(registry), cache)
    except (ServiceUnavailableError, PyMongoError) as error:
        cached = cache.load_selection(CURRENT_MODEL_KEY)
        if cached is None:
            raise
        known = isinstance(error, ServiceUnavailableError)
        reason = str(error) if known else f"MongoDB failed ({type(error).__name__})."
        warning = f"{reason} This is by {cached.title}, the last model that was used here; there may be a newer one."
        return LoadedModel(cached, load_model(None, cached, cache), (warning,))
    cache.save_selection(CURRENT_MODEL_KEY, current.registered)
    return current


def report_skipped(registered: RegisteredModel, reason: str) -> str:
    """Log and return the warning about a model that cannot be loaded."""
    warning = f"{registered.title} cannot be loaded and is skipped: {reason.removesuffix('.')}."
    log.warning("%s", warning)
    return warning


def model_identity(model: RegisteredModel) -> tuple[str, int, str | None]:
    """Return what distinguishes a registered model from all others."""
    return model.name, model.version, model.sha256


# -- why ---------------------------------------------------------------------------------------------------------------


def describe_current(registry: ModelRegistry) -> dict[str, Any] | None:
    """Describe which model serves, and why the newest one does or does not, as a JSON document.

    No model is read: unusable are those that the last decision could not load, and those without their object.

    Returns
    -------
    dict or None
        None if no model is registered; else

        * ``model``, ``name``, ``version``: the model that serves; None if none can be loaded.
        * ``champion``: whether it was promoted; ``why``: the reason it serves.
        * ``newest``: the model registered last; ``decision``: in sentences, why it serves or not.
        * ``outcome``, ``by``, ``at``: the last decision's outcome, author and time; None if there was none.
        * ``skipped``: warnings about models that cannot be loaded.
    """
    models, decision, move = registry.list(), registry.decisions.last(), registry.aliases.current(PURPOSE, CHAMPION)
    if not models:
        return None
    skipped = {} if decision is None else dict(decision.skipped)
    model = _first_available(registry, skipped)
    promoted = model is not None and any(holder == model for holder in registry.holders())
    if model is None:
        why = "None can be loaded."
    elif not promoted:
        why = "It has the best score; none was promoted."
    elif move is not None and move.key == model.key:
        why = move.why
    else:
        why = "The champion cannot be loaded, and this was champion before it."
    return {
        "model": None if model is None else model.title,
        "name": None if model is None else model.name,
        "version": None if model is None else model.version,
        "champion": promoted,
        "why": why,
        "newest": models[0].title,
        "decision": _explain_decision(models[0], decision, None if model is None else move),
        "outcome": None if decision is None else decision.outcome,
        "by": None if decision is None else decision.by,
        "at": None if decision is None else decision.time.isoformat(),
        "skipped": list(skipped.values()),
    }


def _first_available(registry: ModelRegistry, skipped: dict[str, str]) -> RegisteredModel | None:
    """Return the first usable candidate; add a warning to `skipped` for each one without its object."""
    with suppress(ModelNotFoundError):
        for model in serving_candidates(registry):
            problem = registry.problem(model)
            if problem is not None:
                skipped[model.title] = f"{model.title} cannot be loaded and is skipped: {problem}."
            elif model.title not in skipped:
                return model
    return None


def _explain_decision(newest: RegisteredModel, decision: Decision | None, move: Move | None) -> str:
    if decision is None:
        return f"{newest.title} has not been judged yet: the next run, or the asset champion, does."
    sentences = [decision.summary]
    if decision.newest.get(newest.name, 0) < newest.version:
        sentences.append(f"{newest.title} was registered after that and has not been judged yet: the next run does.")
    elif newest.title not in decision.validation and newest.title not in decision.skipped and decision.validation:
        sentences.append(f"{newest.title} did not compete: it was trained on a different matrix.")
    if decision.undecided:
        sentences.append("The next run, or the asset champion, judges again.")
    expected = decision.candidate if decision.outcome in ("promoted", "champion already") else decision.champion
    if move is not None and expected != move.title:
        sentences.append(f"Since then {move.by} made {move.title} champion ({move.action}): {move.why}")
    return " ".join(sentences)
