"""`recvae_model`: RecVAE trained on the matrix, proven on held-out users, put into the registry."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue
from pydantic import Field

from gh_assets import progress
from gh_assets.assets.common import (
    OWNERS,
    RECOMMENDER,
    learning_curve,
    markdown_table,
    now_and_then,
    stopwatch,
)
from gh_assets.recommender.interactions import UserItemMatrix
from gh_assets.registry import ModelRegistry, RegisteredModel, flat_metrics, leaderboard
from gh_assets.resources import GcsResource, MongoResource
from gh_assets.settings import load_settings

MODEL_NAME = "recvae"


class RecVAEModelConfig(dg.Config):
    """What is trained. The defaults are those of `gh_assets.recommender.RecVAEConfig`."""

    epochs: int = Field(default=25, ge=1, description="At most so many epochs; early stopping may need fewer.")
    gamma: float = Field(default=0.005, ge=0, description="KL weight a star of a user.")
    seed: int = Field(default=0, description="Seed of the training and of the split.")
    tag: str = Field(default="", description="Tag of the registered model.")
    retrain: bool = Field(
        default=False, description="Train even if the same data and configuration were trained before."
    )


@dg.asset(
    group_name=RECOMMENDER,
    kinds={"pytorch", "gcs", "mongodb"},
    owners=OWNERS,
    description=(
        "The RecVAE model (Shenbin et al. 2020): weights, item index, configuration, and its metrics on users that "
        "were held out whole, beside popularity and EASE on the same split. Stored in the model registry. "
        "Data and configuration that were trained before are not trained again."
    ),
)
def recvae_model(
    context: dg.AssetExecutionContext,
    config: RecVAEModelConfig,
    user_item_matrix: UserItemMatrix,
    gcs: GcsResource,
    mongo: MongoResource,
) -> dg.MaterializeResult[None]:
    """The registered RecVAE of the current matrix."""
    # torch takes seconds to import: whoever only looks at the definitions need not wait for it.
    from gh_assets.model_cache import load_model
    from gh_assets.recommender.recvae import RecVAEConfig
    from gh_assets.recommender.training import MAIN_METRIC, train_recvae, training_fingerprint

    wanted = RecVAEConfig(epochs=config.epochs, gamma=config.gamma, seed=config.seed)
    fingerprint = training_fingerprint(user_item_matrix, wanted, config.seed)
    log = now_and_then(context.log.info)

    def tell(row: dict[str, float]) -> None:
        words = f"loss {row['loss']:.1f}, validation {MAIN_METRIC} {row.get(MAIN_METRIC, float('nan')):.4f}"
        progress.report("recvae_model", int(row["epoch"]), wanted.epochs, words)
        log(f"epoch {row['epoch']:.0f} of {wanted.epochs}: {words}")

    with mongo.database() as database:
        registry = ModelRegistry(gcs.model_store(), database["models"])
        before = None if config.retrain else registry.find(MODEL_NAME, fingerprint)
        if before is not None and registry.is_stored(before):
            context.log.info("The same data and configuration were trained before: that model is taken.")
            with stopwatch() as timing:
                trained = load_model(registry, before, load_settings().home_path / "cache" / "models")
            return dg.MaterializeResult(metadata={"reused": True, **_metadata(before, trained.model.history), **timing})
        with stopwatch() as timing:
            result = train_recvae(user_item_matrix, wanted, split_seed=config.seed, on_epoch=tell)
        with tempfile.TemporaryDirectory(prefix="gh-assets-") as scratch:
            folder = result.trained.save(Path(scratch) / MODEL_NAME)
            registered = registry.save(
                folder,
                MODEL_NAME,
                result.trained.metrics[MAIN_METRIC],
                tag=config.tag,
                metric=MAIN_METRIC,
                tar_zip=True,
                run_id=context.run.run_id,
                config=asdict(wanted),
                metrics=flat_metrics(MODEL_NAME, result.leaderboard),
                fingerprint=fingerprint,
            )
    return dg.MaterializeResult(
        metadata={
            "reused": False,
            **_metadata(registered, result.history),
            **{name.replace(" ", "_"): size for name, size in result.split_sizes.items()},
            **timing,
        }
    )


def _metadata(model: RegisteredModel, history: Sequence[Mapping[str, float]]) -> dict[str, RawMetadataValue]:
    board = leaderboard(model)
    header = ["model", *next(iter(board.values()))]
    metrics = {name.replace("@", "_at_").replace(" ", "_"): float(value) for name, value in model.metrics.items()}
    return {
        "model": model.name,
        "tag": model.tag,
        "score": float(model.score or 0.0),
        "metric": model.metric,
        "uri": dg.MetadataValue.path(model.uri),
        "bytes": model.size,
        "sha256": model.sha256,
        "leaderboard": markdown_table(header, [(name, *values.values()) for name, values in board.items()]),
        "learning_curve": learning_curve(history, model.metric),
        "epochs": len(history),
        **metrics,
    }
