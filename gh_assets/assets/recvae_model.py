"""`recvae_model`: RecVAE trained on the matrix, proven on held-out users, put into the registry."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue
from pydantic import Field

from gh_assets.assets.conditions import CHAIN_FRESH, when_upstream_updated
from gh_assets.assets.metadata import (
    OWNERS,
    RECOMMENDER,
    learning_curve,
    markdown_table,
    measure_seconds,
    throttled,
)
from gh_assets.assets.retries import retry_transient
from gh_assets.errors import ModelNotFoundError
from gh_assets.local import progress
from gh_assets.local.scratch import Scratch
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC
from gh_assets.registry import RECVAE, ModelCard, ModelRegistry, RegisteredModel
from gh_assets.registry.documents import flatten_metrics, leaderboard
from gh_assets.resources import GcsResource, MongoResource
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import Collections

if TYPE_CHECKING:
    from gh_assets.recommender.training.training import TrainingResult

TUNED = "tuned"
"""Tag of the models that `gh-assets tune` registers."""


class RecVAEModelConfig(dg.Config):
    """What is trained. The defaults are those of `gh_assets.recommender.RecVAEConfig`."""

    epochs: int = Field(default=25, ge=1, description="At most so many epochs; early stopping may need fewer.")
    tuned: bool = Field(
        default=True,
        description="Take the hyper-parameters that the newest `gh-assets tune` found, if there was any.",
    )
    gamma: float | None = Field(default=None, ge=0, description="KL weight a star of a user.")
    seed: int = Field(default=0, description="Seed of the training and of the split.")
    tag: str = Field(default="", description="Tag of the registered model.")
    retrain: bool = Field(
        default=False, description="Train even if the same data and configuration were trained before."
    )


@dg.asset(
    automation_condition=when_upstream_updated(),
    freshness_policy=CHAIN_FRESH,
    group_name=RECOMMENDER,
    kinds={"pytorch", "gcs", "mongodb"},
    owners=OWNERS,
    description=(
        "The RecVAE model (Shenbin et al. 2020): weights, item index, configuration, and its metrics on users that "
        "were held out whole, beside popularity on the same split. Stored in the model registry. Data and "
        "configuration that were trained before are not trained again; a training that was interrupted goes on."
    ),
)
@retry_transient
def recvae_model(
    context: dg.AssetExecutionContext,
    config: RecVAEModelConfig,
    user_item_matrix: UserItemMatrix,
    gcs: GcsResource,
    mongo: MongoResource,
) -> dg.MaterializeResult[None]:
    """The registered RecVAE of the current matrix."""
    # torch takes seconds to import: whoever only looks at the definitions need not wait for it.
    from gh_assets.recommender.models.recvae import RecVAEConfig
    from gh_assets.recommender.training.training import train_recvae, training_fingerprint
    from gh_assets.serving.current_model import UNLOADABLE, load_model, model_cache

    log = throttled(context.log.info)
    settings = load_settings()
    home = settings.home_path

    def tell(row: dict[str, float]) -> None:
        words = f"loss {row['loss']:.1f}, validation {MAIN_METRIC} {row.get(MAIN_METRIC, float('nan')):.4f}"
        progress.report(RECVAE + "_model", int(row["epoch"]), wanted.epochs, words)
        left = (wanted.epochs - row["epoch"]) * (row["seconds"] + row.get("validation_seconds", 0.0))
        log(f"epoch {row['epoch']:.0f} of {wanted.epochs}: {words}; at most {left:.0f} s left")

    with mongo.database() as database:
        registry = ModelRegistry(gcs.model_store(), database[Collections.MODELS])
        wanted = RecVAEConfig(epochs=config.epochs, seed=config.seed)
        if config.tuned:
            wanted = replace(wanted, **tuned_hyperparameters(registry))
        if config.gamma is not None:
            wanted = replace(wanted, gamma=config.gamma)
        fingerprint = training_fingerprint(user_item_matrix, wanted, config.seed)
        before = None if config.retrain else registry.find(RECVAE, fingerprint)
        trained = None
        if before is not None:
            with measure_seconds() as timing:
                try:
                    trained = load_model(registry, before, model_cache(settings))
                except UNLOADABLE as error:
                    context.log.warning(f"{before.title} cannot be loaded, so it is trained again: {error}")
        if before is not None and trained is not None:
            context.log.info("The same data and configuration were trained before: that model is taken.")
            history = trained.model.history
            return dg.MaterializeResult(metadata={"reused": True, **model_metadata(before, history), **timing})
        with measure_seconds() as timing:
            result = train_recvae(
                user_item_matrix,
                wanted,
                split_seed=config.seed,
                on_epoch=tell,
                checkpoints=home / "checkpoints" / fingerprint,
            )
        registered = register(
            registry,
            result,
            tag=config.tag,
            config=asdict(wanted),
            run_id=context.run.run_id,
            fingerprint=fingerprint,
            lineage=matrix_lineage(gcs.asset_store()),
        )
    return dg.MaterializeResult(
        metadata={
            "reused": False,
            **model_metadata(registered, result.history),
            **{name.replace(" ", "_"): size for name, size in result.split_sizes.items()},
            **timing,
        }
    )


def tuned_hyperparameters(registry: ModelRegistry) -> dict[str, Any]:
    """What the newest search found to be best; nothing, if there was none."""
    from gh_assets.recommender.training.search import SEARCHED

    try:
        found = registry.latest(RECVAE, TUNED)
    except ModelNotFoundError:
        return {}
    return {name: found.config[name] for name in SEARCHED if name in found.config}


def register(
    registry: ModelRegistry,
    result: "TrainingResult",
    *,
    tag: str,
    config: Mapping[str, Any],
    run_id: str | None = None,
    fingerprint: str | None = None,
    lineage: Mapping[str, str] | None = None,
) -> RegisteredModel:
    """Put a trained model under its own name into the registry, scored by the main metric."""
    trained = result.trained
    card = ModelCard(
        trained.model.name,
        trained.metrics[MAIN_METRIC],
        metric=MAIN_METRIC,
        tags=(tag,) if tag else (),
        metrics=flatten_metrics(trained.model.name, result.leaderboard),
        intervals={metric: (interval.low, interval.high) for metric, interval in result.intervals.items()},
        config=config,
        data={key: value for key, value in trained.data.items() if not isinstance(value, list)},
        lineage=lineage or {},
        fingerprint=fingerprint,
        run_id=run_id,
    )
    with Scratch() as scratch:
        return registry.save(trained.save(scratch / card.name), card, archive="gzip")


def matrix_lineage(store: AssetStore) -> dict[str, str]:
    """Which stored matrix a model comes from."""
    found = store.describe("user_item_matrix", "npz")
    return {} if found is None else {"matrix": found.uri, "matrix_generation": str(found.generation)}


def model_metadata(model: RegisteredModel, history: Sequence[Mapping[str, float]]) -> dict[str, RawMetadataValue]:
    """What the UI shows of a registered model; with its learning curve, if it was trained in epochs."""
    board = leaderboard(model)
    header = ["model", *next(iter(board.values()))]
    metrics = {name.replace("@", "_at_").replace(" ", "_"): float(value) for name, value in model.metrics.items()}
    return {
        "model": model.name,
        "version": model.version,
        "tag": model.tag,
        "score": float(model.score or 0.0),
        "metric": model.metric,
        "uri": dg.MetadataValue.path(model.uri),
        "bytes": model.size,
        "sha256": model.sha256,
        "leaderboard": markdown_table(header, [(name, *values.values()) for name, values in board.items()]),
        **({"learning_curve": learning_curve(history, model.metric), "epochs": len(history)} if history else {}),
        **metrics,
    }
