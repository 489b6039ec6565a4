"""Trained models in the registry: what is recorded beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gh_assets.errors import ModelNotFoundError
from gh_assets.local.scratch import Scratch
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC
from gh_assets.registry.documents import ModelCard, RegisteredModel, flatten_metrics
from gh_assets.registry.names import RECVAE
from gh_assets.registry.store import ModelRegistry
from gh_assets.storage.asset_store import AssetStore

if TYPE_CHECKING:
    from gh_assets.recommender.training.training import TrainingResult

TUNED = "tuned"
"""Tag of the models that `gh-assets tune` registers."""


def tuned_hyperparameters(registry: ModelRegistry) -> dict[str, Any]:
    """Return the best hyper-parameters of the newest search; empty if there was none."""
    from gh_assets.recommender.training.search import SEARCHED

    try:
        tuned = registry.latest(RECVAE, TUNED)
    except ModelNotFoundError:
        return {}
    return {name: tuned.config[name] for name in SEARCHED if name in tuned.config}


def register(
    registry: ModelRegistry,
    result: TrainingResult,
    *,
    tag: str,
    search: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    fingerprint: str | None = None,
    lineage: Mapping[str, str] | None = None,
) -> RegisteredModel:
    """Register a trained model under its own name, scored by the main metric.

    Parameters
    ----------
    registry : ModelRegistry
    result : TrainingResult
    tag : str
    search : mapping, optional
        Search for the hyper-parameters; recorded beside the configuration.
    run_id : str, optional
        Dagster run that trained the model.
    fingerprint : str, optional
        Of data and configuration: a training that has it already is not repeated.
    lineage : mapping of str to str, optional
        What the model was made from, such as `matrix_lineage`.
    """
    trained = result.trained
    card = ModelCard(
        trained.model.name,
        trained.metrics[MAIN_METRIC],
        metric=MAIN_METRIC,
        tags=(tag,) if tag else (),
        metrics=flatten_metrics(trained.model.name, result.leaderboard),
        intervals={metric: (interval.low, interval.high) for metric, interval in result.intervals.items()},
        config=trained.model.to_config() | ({} if search is None else {"search": search}),
        data={key: value for key, value in trained.data.items() if not isinstance(value, list)},
        lineage=lineage or {},
        fingerprint=fingerprint,
        run_id=run_id,
    )
    with Scratch() as scratch:
        return registry.save(trained.save(scratch / card.name), card, archive="zstd")


def matrix_lineage(store: AssetStore) -> dict[str, str]:
    """Return the address and the generation of the stored user-item matrix; empty if there is none."""
    matrix = store.describe("user_item_matrix", "npz")
    return {} if matrix is None else {"matrix": matrix.uri, "matrix_generation": str(matrix.generation)}
