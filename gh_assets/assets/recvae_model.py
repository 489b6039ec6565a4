"""`recvae_model`: RecVAE trained on the matrix, evaluated on held-out users, and registered."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from gh_assets.assets.definition import AssetConfig, recommender_asset, when_upstream_updated
from gh_assets.assets.metadata import measure_seconds, model_metadata
from gh_assets.assets.progress import asset_progress
from gh_assets.assets.reuse import model_to_begin_with, trained_before
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC
from gh_assets.registry import RECVAE, ModelRegistry
from gh_assets.registry.training import matrix_lineage, register, tuned_hyperparameters
from gh_assets.resources import GcsResource, RegistryResource
from gh_assets.serving.current_model import model_cache

if TYPE_CHECKING:
    from gh_assets.instance.internals import RawMetadataValue
    from gh_assets.recommender.engine.progress import TrainingProgress
    from gh_assets.recommender.models.recvae import RecVAEConfig


class RecVAEModelConfig(AssetConfig):
    """How RecVAE is trained. The defaults are those of `gh_assets.recommender.RecVAEConfig`."""

    epochs: int | None = Field(None, ge=1)
    """Maximum number of epochs; early stopping may need fewer. By default 25, or less with more than 100,000 users."""

    tuned: bool = True
    """Use the hyper-parameters that the newest `gh-assets tune` found, if there is one."""

    gamma: float | None = Field(None, ge=0)
    """KL weight for each star of a user."""

    seed: int = 0
    """Seed of the training and of the split."""

    tag: str = ""
    """Tag of the registered model."""

    retrain: bool = False
    """Train even if the same data and configuration were trained before, and begin with initial weights."""

    def hyperparameters(self, registry: ModelRegistry) -> "RecVAEConfig":
        """Return the configuration of the training."""
        from gh_assets.recommender.models.recvae import RecVAEConfig

        config = RecVAEConfig(epochs=self.epochs, seed=self.seed)
        if self.tuned:
            config = replace(config, **tuned_hyperparameters(registry))
        return config if self.gamma is None else replace(config, gamma=self.gamma)


@recommender_asset(automation_condition=when_upstream_updated(), kinds={"pytorch", "gcs", "mongodb"})
def recvae_model(
    context: dg.AssetExecutionContext,
    config: RecVAEModelConfig,
    user_item_matrix: UserItemMatrix,
    gcs: GcsResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[None]:
    """The registered RecVAE of the current matrix.

    The RecVAE model (Shenbin et al. 2020): weights, item index, configuration, and its metrics on held-out users,
    beside those of popularity on the same split. Stored in the model registry. Data and configuration that were trained
    before are not trained again; an interrupted training continues. Where most repositories are those of the newest
    model, the training begins with its weights (setting GH_ASSETS_WARM_STARTS).
    """
    # torch takes seconds to import, which loading the definitions must not.
    from gh_assets.recommender.training.training import split_of, train_recvae, training_fingerprint
    from gh_assets.serving.promotion import next_test_start

    with registry.open() as models, measure_seconds() as timing:
        wanted = config.hyperparameters(models)
        cache = model_cache(registry.settings())
        test_start = next_test_start(models, cache, user_item_matrix)
        fingerprint = training_fingerprint(user_item_matrix, wanted, config.seed, test_start)
        before = earlier = None
        if not config.retrain:
            before = trained_before(context, models, cache, RECVAE, fingerprint)
        if not config.retrain and before is None and registry.warm_starts:
            warm = training_fingerprint(user_item_matrix, wanted, config.seed, test_start, warm=True)
            before = trained_before(context, models, cache, RECVAE, warm)
        if not config.retrain and before is None and registry.warm_starts:
            split = split_of(user_item_matrix, config.seed, test_start)
            limit = registry.warm_starts
            earlier = model_to_begin_with(models, cache, config.tag, user_item_matrix, wanted, split, limit)
            fingerprint = fingerprint if earlier is None else warm
        if before is not None:
            context.log.info("The same data and configuration were trained before: that model is reused.")
            registered, history = before.registered, before.trained.model.history
            sizes: Mapping[str, int] = {}
        else:
            begins = "initial weights" if earlier is None else f"the weights of {earlier.registered.title}"
            context.log.info(f"The training begins with {begins}.")
            log = _TrainingLog(context)
            result = train_recvae(
                user_item_matrix,
                wanted,
                split_seed=config.seed,
                test_start=test_start,
                on_epoch=log.after_epoch,
                on_progress=log.within_epoch,
                checkpoints=registry.settings().home_path / "checkpoints" / fingerprint,
                earlier=None if earlier is None else earlier.trained,
            )
            lineage = matrix_lineage(gcs.asset_store())
            if earlier is not None:
                lineage["warm_start"] = earlier.registered.title
            registered = register(
                models, result, tag=config.tag, run_id=context.run.run_id, fingerprint=fingerprint, lineage=lineage
            )
            history, sizes = result.trained.model.history, result.split_sizes
    metadata: dict[str, RawMetadataValue] = {"reused": before is not None, **model_metadata(registered, history)}
    metadata["began_with"] = registered.lineage.get("warm_start", "initial weights")
    metadata |= {name.replace(" ", "_"): size for name, size in sizes.items()}
    return dg.MaterializeResult(metadata={**metadata, **timing})


class _TrainingLog:
    """Reports the progress of a training, within each epoch and after it."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._progress, self._epochs = asset_progress(context), 1
        self._last_epoch = ""

    def within_epoch(self, state: "TrainingProgress") -> None:
        self._epochs = state.epochs
        self._progress.report("recvae_model", state.epoch - 1, state.epochs, f"{state}{self._last_epoch}")

    def after_epoch(self, row: dict[str, float]) -> None:
        text = f"loss {row['loss']:.1f}, validation {MAIN_METRIC} {row.get(MAIN_METRIC, float('nan')):.4f}"
        self._last_epoch = f"; after epoch {row['epoch']:.0f}: {text}"
        self._progress.report("recvae_model", int(row["epoch"]), self._epochs, text)
