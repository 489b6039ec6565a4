"""`hybrid_model`: the RecVAE of the current matrix blended with closed-form models, and registered."""

from functools import partial

import dagster as dg

from gh_assets.assets.definition import AssetConfig, recommender_asset, when_upstream_updated
from gh_assets.assets.metadata import markdown_table, measure_seconds, model_metadata
from gh_assets.assets.progress import asset_progress
from gh_assets.assets.recvae_model import recvae_model
from gh_assets.assets.reuse import newest_model, trained_before
from gh_assets.local.progress import repeated
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import HYBRID, RECVAE
from gh_assets.registry.training import matrix_lineage, register
from gh_assets.resources import GcsResource, RegistryResource
from gh_assets.serving.current_model import model_cache


class HybridModelConfig(AssetConfig):
    """Which models are blended."""

    tag: str = ""
    """Tag of the registered model; the newest RecVAE with this tag is used."""

    seed: int = 0
    """Seed of the split: that of the RecVAE."""


@recommender_asset(
    deps=[recvae_model], automation_condition=when_upstream_updated(), kinds={"pytorch", "scipy", "gcs", "mongodb"}
)
def hybrid_model(
    context: dg.AssetExecutionContext,
    config: HybridModelConfig,
    user_item_matrix: UserItemMatrix,
    gcs: GcsResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[None]:
    """The registered hybrid of the current matrix.

    RecVAE, EASE, a graph filter, GF-CF and popularity together: the sum of their standardized scores. The weights
    depend on the number of a user's known stars, and are those that are best on the validation users with their
    histories cut to 1, 2, 3, 5, ... stars. Registered under its own name.
    """
    from gh_assets.recommender.models.hybrid import Hybrid
    from gh_assets.recommender.training.training import train_hybrid
    from gh_assets.serving.promotion import own_test_start

    with registry.open() as models, measure_seconds() as timing, repeated(asset_progress(context).report) as report:
        cache = model_cache(registry.settings())
        recvae = newest_model(models, cache, RECVAE, config.tag, user_item_matrix)
        base = recvae.registered
        fingerprint = f"blend of {base.sha256} by known stars with GF-CF, split {config.seed}"
        before = trained_before(context, models, cache, HYBRID, fingerprint)
        if before is not None:
            registered, hybrid = before.registered, before.trained.model
        else:
            result = train_hybrid(
                user_item_matrix,
                recvae.trained.model,
                split_seed=config.seed,
                test_start=own_test_start(recvae),
                unseen=recvae.trained.data.get("test_users"),
                on_step=partial(report, "hybrid_model"),
            )
            hybrid, lineage = result.trained.model, matrix_lineage(gcs.asset_store()) | {"recvae": base.title}
            registered = register(
                models, result, tag=config.tag, run_id=context.run.run_id, fingerprint=fingerprint, lineage=lineage
            )
        assert isinstance(hybrid, Hybrid)
        names = " + ".join(part.name for part in hybrid.parts)
        report("hybrid_model", 1, 1, names)
    rows = list(hybrid.describe())
    return dg.MaterializeResult(
        metadata={
            "reused": before is not None,
            "parts": names,
            "weights": markdown_table(list(rows[0]), [list(row.values()) for row in rows]),
            "recvae": dg.MetadataValue.path(base.uri),
            **model_metadata(registered, ()),
            **timing,
        }
    )
