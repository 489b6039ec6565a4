"""Which registered model a training begins with."""

import dagster as dg
import pytest

from gh_assets.assets import recvae_model
from gh_assets.assets.recvae_model import RecVAEModelConfig
from gh_assets.assets.reuse import model_to_begin_with
from gh_assets.recommender import RecVAEConfig
from gh_assets.recommender.training.training import split_of, train_recvae
from gh_assets.registry import ModelRegistry
from gh_assets.registry.cache import ModelCache
from gh_assets.registry.training import register
from gh_assets.resources import build_resources
from gh_assets.settings import load_settings
from gh_assets_tests.support.registered_models import matrix_of

SMALL = RecVAEConfig(epochs=4, hidden_size=16, latent_size=6)


def test_a_training_begins_with_the_newest_model_until_the_limit(registry: ModelRegistry, cache: ModelCache) -> None:
    before, now = matrix_of(500), matrix_of(520)
    split = split_of(now, 0)
    assert model_to_begin_with(registry, cache, "", now, SMALL, split, 1) is None
    register(registry, train_recvae(before, SMALL), tag="")
    first = model_to_begin_with(registry, cache, "", now, SMALL, split, 1)
    assert first is not None
    assert first.registered.title == "recvae 1"
    assert model_to_begin_with(registry, cache, "other", now, SMALL, split, 1) is None
    registered = register(registry, train_recvae(now, SMALL, earlier=first.trained), tag="")
    assert registered.data["warm_starts"] == 1
    assert model_to_begin_with(registry, cache, "", now, SMALL, split, 1) is None, "the next one begins anew"
    second = model_to_begin_with(registry, cache, "", now, SMALL, split, 2)
    assert second is not None
    assert second.registered.title == "recvae 2"


@pytest.mark.usefixtures("fresh_home")
def test_the_asset_reports_what_its_training_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecVAEModelConfig, "hyperparameters", lambda self, registry: SMALL)
    resources = {name: value for name, value in build_resources(load_settings()).items() if name in ("gcs", "registry")}

    def materialized(users: int, **config: bool) -> dict[str, object]:
        @dg.asset
        def user_item_matrix() -> object:
            return matrix_of(users)

        result = dg.materialize(
            [user_item_matrix, recvae_model],
            resources=resources,
            run_config={"ops": {"recvae_model": {"config": config}}},
        )
        event = result.asset_materializations_for_node("recvae_model")[0]
        return {name: event.metadata[name].value for name in ("began_with", "reused", "version", "epochs")}

    first = {"began_with": "initial weights", "reused": False, "version": 1, "epochs": 4}
    assert materialized(500) == first
    assert materialized(500) == {**first, "reused": True}
    second = {"began_with": "recvae 1", "reused": False, "version": 2, "epochs": 1}
    assert materialized(520) == second
    assert materialized(520) == {**second, "reused": True}
    assert materialized(520, retrain=True) == {**first, "version": 3}
    assert materialized(520) == {**first, "version": 3, "reused": True}, "the model that is reproducible"
