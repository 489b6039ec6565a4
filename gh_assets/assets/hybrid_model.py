"""`hybrid_model`: the RecVAE of the current matrix blended with a linear model, put into the registry."""

import dagster as dg
from pydantic import Field

from gh_assets.assets.conditions import CHAIN_FRESH, when_upstream_updated
from gh_assets.assets.metadata import OWNERS, RECOMMENDER, measure_seconds
from gh_assets.assets.recvae_model import matrix_lineage, model_metadata, recvae_model, register
from gh_assets.assets.retries import retry_transient
from gh_assets.errors import ModelNotFoundError
from gh_assets.local import progress
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import HYBRID, RECVAE, ModelRegistry
from gh_assets.resources import GcsResource, MongoResource
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import Collections


class HybridModelConfig(dg.Config):
    """What is blended."""

    tag: str = Field(default="", description="Tag of the registered model; the newest RecVAE of this tag is taken.")
    seed: int = Field(default=0, description="Seed of the split: that of the RecVAE.")


@dg.asset(
    deps=[recvae_model],
    automation_condition=when_upstream_updated(),
    freshness_policy=CHAIN_FRESH,
    group_name=RECOMMENDER,
    kinds={"pytorch", "scipy", "gcs", "mongodb"},
    owners=OWNERS,
    description=(
        "RecVAE and EASE together: the sum of their standardized scores, weighted as is best for the validation "
        "users. Linear and neural models miss different things; the blend beats both. Registered under its own name."
    ),
)
@retry_transient
def hybrid_model(
    context: dg.AssetExecutionContext,
    config: HybridModelConfig,
    user_item_matrix: UserItemMatrix,
    gcs: GcsResource,
    mongo: MongoResource,
) -> dg.MaterializeResult[None]:
    """The registered hybrid of the current matrix."""
    from gh_assets.recommender.models.hybrid import Hybrid
    from gh_assets.recommender.training.training import train_hybrid
    from gh_assets.serving.current_model import UNLOADABLE, load_model, model_cache

    with mongo.database() as database, measure_seconds() as timing:
        registry = ModelRegistry(gcs.model_store(), database[Collections.MODELS])
        base = registry.latest(RECVAE, config.tag)
        cache = model_cache(load_settings())
        recvae = load_model(registry, base, cache)
        if recvae.data.get("matrix_sha256") != user_item_matrix.fingerprint:
            raise ModelNotFoundError(
                f"The newest {RECVAE} was trained on another user-item matrix: materialize recvae_model first."
            )
        fingerprint = f"hybrid of {base.sha256} less popularity, split {config.seed}"
        registered, before = registry.find(HYBRID, fingerprint), None
        if registered is not None:
            try:
                before = load_model(registry, registered, cache).model
            except UNLOADABLE as error:
                context.log.warning(f"{registered.title} cannot be loaded, so it is blended again: {error}")
        if registered is not None and before is not None:
            hybrid, reused = before, True
        else:
            progress.report("hybrid_model", 0, 1, "the linear part")
            result = train_hybrid(user_item_matrix, recvae.model, split_seed=config.seed)
            hybrid, reused = result.trained.model, False
            registered = register(
                registry,
                result,
                tag=config.tag,
                config=hybrid._config(),
                run_id=context.run.run_id,
                fingerprint=fingerprint,
                lineage={**matrix_lineage(gcs.asset_store()), "recvae": f"{base.name} {base.version}"},
            )
        assert isinstance(hybrid, Hybrid)
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
