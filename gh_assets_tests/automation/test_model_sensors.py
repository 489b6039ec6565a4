"""Sensors that spend no quota: when they request training, judging and recommending."""

from pathlib import Path

import dagster as dg
import pytest

from gh_assets.assets import collection_plan, recommendations, recvae_model, users
from gh_assets.assets.collection_plan import STARS_COLLECTED
from gh_assets.automation.model_sensors import champion_changed, enough_new_stars, models_to_judge
from gh_assets.registry import Decision, ModelCard, Promotion, open_registry
from gh_assets_tests.automation.conftest import AutomationHome
from gh_assets_tests.conftest import clock_behind


def test_retraining_waits_for_enough_new_stars(automation: AutomationHome) -> None:

    def materialize(asset: dg.AssetsDefinition, **metadata: int) -> None:
        automation.instance.report_runless_asset_event(dg.AssetMaterialization(asset.key, metadata=metadata))

    assert "There is no plan yet" in str(automation.tick(enough_new_stars))
    materialize(collection_plan, **{STARS_COLLECTED: 1000})
    first = automation.requested(enough_new_stars)
    materialize(users, **{STARS_COLLECTED: 1000})
    assert automation.requested(enough_new_stars).run_key == first.run_key, "nothing was trained"
    materialize(recvae_model)
    assert automation.tick(enough_new_stars) == "0 stars changed since the last training; 50 are enough."
    materialize(collection_plan, **{STARS_COLLECTED: 1049})
    materialize(users, **{STARS_COLLECTED: 1049})  # the lists were refreshed, and nothing was trained
    assert automation.tick(enough_new_stars) == "49 stars changed since the last training; 50 are enough."
    materialize(collection_plan, **{STARS_COLLECTED: 1050})
    second, third = automation.requested(enough_new_stars), automation.requested(enough_new_stars)
    assert second.run_key == third.run_key != first.run_key
    materialize(collection_plan, **{STARS_COLLECTED: 950})
    automation.requested(enough_new_stars)  # stars that were taken back count, too


def test_judging_and_recommending_follow_the_registry(
    automation: AutomationHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert automation.tick(models_to_judge) == "No model is registered yet."
    assert automation.tick(champion_changed) == "There is no champion yet."
    with open_registry(automation.settings) as registry:
        weights = tmp_path / "weights.bin"
        weights.write_bytes(b"1")
        registry.save(weights, ModelCard("recvae", 0.4))
        automation.requested(models_to_judge)
        judged = Decision(outcome="not better", summary="It is not better.", newest={"recvae": 1}, by="a test")
        registry.decisions.record(judged)
        assert automation.tick(models_to_judge) == "recvae 1, the newest model, has been judged."
        with clock_behind(monkeypatch):
            registry.save(weights, ModelCard("recvae", 0.5))
        behind = automation.requested(models_to_judge)
        assert behind.tags["gh_assets/why"] == "recvae 2 is new.", "the clock does not decide which model is new"
        undecided = {"outcome": "refused", "summary": "It is too slow.", "newest": {"recvae": 2}}
        registry.decisions.record(judged.model_copy(update=undecided))
        again = automation.requested(models_to_judge)  # a refused model is judged again
        assert again.tags["gh_assets/why"] == "There was no decision the last time: It is too slow."
        registry.decisions.record(judged.model_copy(update={"newest": {"recvae": 2}}))
        assert automation.tick(models_to_judge) == "recvae 2, the newest model, has been judged."
        registry.promote(Promotion("recvae", 1, why="a test"))
        request = automation.requested(champion_changed)
        assert request.tags["gh_assets/why"] == "recvae 1 is the champion (promote)."
        automation.instance.report_runless_asset_event(
            dg.AssetMaterialization(recommendations.key, metadata={"champion_revision": 1})
        )
        assert automation.tick(champion_changed) == "The recommendations are those of recvae 1."
        registry.promote(Promotion("recvae", 1, why="again"))
        later = automation.requested(champion_changed)
        assert later.run_key != request.run_key
