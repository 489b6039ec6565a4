"""Registered models that the assets reuse: trained before from the same data, or the newest of a name."""

from typing import TYPE_CHECKING

import dagster as dg

from gh_assets.errors import ModelNotFoundError
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import RECVAE, ModelRegistry
from gh_assets.registry.cache import ModelCache
from gh_assets.serving.current_model import LoadedModel, find_usable, load_model

if TYPE_CHECKING:
    from gh_assets.recommender.data.splits import StrongGeneralizationSplit
    from gh_assets.recommender.models.recvae import RecVAEConfig


def trained_before(
    context: dg.AssetExecutionContext, models: ModelRegistry, cache: ModelCache, name: str, fingerprint: str
) -> LoadedModel | None:
    """Return the model that was trained from the same data and configuration, if there is one that can be loaded."""
    registered = models.find(name, fingerprint)
    before, skipped = find_usable(models, [] if registered is None else [registered], cache)
    for warning in skipped.values():
        context.log.warning(f"{warning} It is trained again.")
    return before


def newest_model(models: ModelRegistry, cache: ModelCache, name: str, tag: str, matrix: UserItemMatrix) -> LoadedModel:
    """Load the newest model of a name.

    Raises
    ------
    ModelNotFoundError
        If it was trained on another matrix.
    """
    registered = models.latest(name, tag)
    trained = load_model(models, registered, cache)
    if trained.data.get("matrix_sha256") != matrix.fingerprint:
        raise ModelNotFoundError(
            f"The newest {name} was trained on another user-item matrix: materialize {name}_model first."
        )
    return LoadedModel(registered, trained)


def model_to_begin_with(
    models: ModelRegistry,
    cache: ModelCache,
    tag: str,
    matrix: UserItemMatrix,
    config: "RecVAEConfig",
    split: "StrongGeneralizationSplit",
    warm_starts: int,
) -> LoadedModel | None:
    """Return the newest RecVAE if a training may begin with its weights.

    Parameters
    ----------
    tag : str
        Only a model with this tag. Empty: with any.
    split : StrongGeneralizationSplit
        On whose training users the model is to be trained.
    warm_starts : int
        Maximum number of trainings in a row that begin so.
    """
    from gh_assets.recommender.training.training import warm_start_of

    newest = next(iter(models.list(RECVAE, tag)), None)
    if newest is None or newest.data.get("warm_starts", 0) >= warm_starts:
        return None
    earlier, _ = find_usable(models, [newest], cache)
    if earlier is None or warm_start_of(earlier.trained, matrix, config, split) is None:
        return None
    return earlier
