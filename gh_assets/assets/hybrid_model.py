"""`hybrid_model`: the RecVAE of the current matrix blended with a linear model, and registered."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from gh_assets.assets.conditions import CHAIN_FRESH, when_upstream_updated
from gh_assets.assets.definition import RECOMMENDER, chain_asset
from gh_assets.assets.metadata import measure_seconds, model_metadata
from gh_assets.assets.recvae_model import recvae_model
from gh_assets.errors import ModelNotFoundError
from gh_assets.local import progress
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import HYBRID, RECVAE, ModelRegistry, RegisteredModel
from gh_assets.registry.cache import ModelCache
from gh_assets.registry.training import matrix_lineage, register
from gh_assets.resources import GcsResource, RegistryResource

if TYPE_CHECKING:
    from gh_assets.recommender.models.hybrid import Hybrid


class HybridModelConfig(dg.Config):
    """Which models are blended."""

    tag: str = Field(default="", description="Tag of the registered model; the newest RecVAE with this tag is used.")
    seed: int = Field(default=0, description="Seed of the split: that of the RecVAE.")


@chain_asset(
    RECOMMENDER,
    deps=[recvae_model],
    automation_condition=when_upstream_updated(),
    freshness_policy=CHAIN_FRESH,
    kinds={"pytorch", "scipy", "gcs", "mongodb"},
    description=(
        "RecVAE and EASE together: the sum of their standardized scores, with the weights that are best on the "
        "validation users. Linear and neural models make different errors; the blend is better than both. Registered "
        "under its own name."
    ),
)
def hybrid_model(
    context: dg.AssetExecutionContext,
    config: HybridModelConfig,
    user_item_matrix: UserItemMatrix,
    gcs: GcsResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[None]:
    """The registered hybrid of the current matrix."""
    from gh_assets.recommender.training.training import train_hybrid
    from gh_assets.serving.current_model import load_model, model_cache

    with registry.open() as models, measure_seconds() as timing:
        base = models.latest(RECVAE, config.tag)
        cache = model_cache(registry.settings())
        recvae = load_model(models, base, cache)
        if recvae.data.get("matrix_sha256") != user_item_matrix.fingerprint:
            raise ModelNotFoundError(
                f"The newest {RECVAE} was trained on another user-item matrix: materialize recvae_model first."
            )
        fingerprint = f"hybrid of {base.sha256} less popularity, split {config.seed}"
        registered, hybrid = _blended_before(context, models, cache, fingerprint)
        reused = hybrid is not None
        if registered is None or hybrid is None:
            progress.report("hybrid_model", 0, 1, "the linear part")
            result = train_hybrid(user_item_matrix, recvae.model, split_seed=config.seed)
            hybrid = _hybrid(result.trained.model)
            registered = register(
                models,
                result,
                tag=config.tag,
                config=hybrid.to_config(),
                run_id=context.run.run_id,
                fingerprint=fingerprint,
                lineage={**matrix_lineage(gcs.asset_store()), "recvae": f"{base.name} {base.version}"},
            )
        progress.report("hybrid_model", 1, 1, f"{hybrid.weight:g} of {hybrid.first.name}")
    return dg.MaterializeResult(
        metadata={
            "reused": reused,
            "weight": hybrid.weight,
            "popularity taken back": hybrid.popularity,
            "parts": f"{hybrid.weight:g} × {hybrid.first.name} + {1 - hybrid.weight:g} × {hybrid.second.name}",
            "recvae": dg.MetadataValue.path(base.uri),
            **model_metadata(registered, ()),
            **timing,
        }
    )


def _blended_before(
    context: dg.AssetExecutionContext, models: ModelRegistry, cache: ModelCache, fingerprint: str
) -> "tuple[RegisteredModel | None, Hybrid | None]":
    """Return the hybrid of the same RecVAE that is registered, and the model if it can be loaded."""
    from gh_assets.serving.current_model import UNLOADABLE, load_model

    registered = models.find(HYBRID, fingerprint)
    if registered is None:
        return None, None
    try:
        return registered, _hybrid(load_model(models, registered, cache).model)
    except UNLOADABLE as error:
        context.log.warning(f"{registered.title} cannot be loaded, so it is blended again: {error}")
        return registered, None


def _hybrid(model: object) -> "Hybrid":
    from gh_assets.recommender.models.hybrid import Hybrid

    assert isinstance(model, Hybrid)
    return model
