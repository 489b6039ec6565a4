"""Which model serves, and how it is described."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
from pydantic import SecretStr

from gh_assets.errors import ModelNotFoundError, ServiceUnavailableError, StoredDataError
from gh_assets.recommender import EASE
from gh_assets.registry import ModelRegistry, open_registry
from gh_assets.serving.current_model import (
    describe_current,
    load_current_model,
    load_first_usable,
    load_model,
    model_cache,
    rank_models,
    serving_candidates,
)
from gh_assets.settings import load_settings
from gh_assets_tests.conftest import Save
from gh_assets_tests.support.registered_models import DAMAGES, UNREADABLE_DOCUMENT, RegisteredModels, damage


@pytest.mark.parametrize("kind", DAMAGES)
def test_champion_that_cannot_be_loaded_gives_way_to_the_one_before(
    models: RegisteredModels, tmp_path: Path, kind: str
) -> None:
    registry, cache = models.registry, models.cache
    broken = models.register(EASE((10.0,)), EASE((11.0,)))
    models.promote("ease 1", "ease 2")
    damage(registry, tmp_path, broken, kind)
    model = load_first_usable(registry, serving_candidates(registry), cache)
    assert model.registered.version == 1
    skipped = [] if kind == UNREADABLE_DOCUMENT else [True]
    assert [warning.startswith("ease 2 cannot be loaded and is skipped") for warning in model.warnings] == skipped
    if model.warnings:
        public = load_first_usable(registry, serving_candidates(registry), cache, public=True)
        assert public.warnings == ("ease 2 cannot be loaded: the next best serves in its place.",)
    again = load_first_usable(registry, serving_candidates(registry), cache, loaded=model)
    assert again.trained is model.trained, "a model in memory was loaded again"
    result, move = models.judge()
    assert (result.outcome, move) == ("champion already", None)
    current = models.current()
    assert (current["model"], current["champion"]) == ("ease 1", True)
    assert current["why"] == "The champion cannot be loaded, and this was champion before it."
    better = models.register(EASE((10.0,)))
    champion = models.judge()[0].champion
    assert champion is not None
    assert champion.version == 1
    models.promote(better.title)
    assert load_first_usable(registry, serving_candidates(registry), cache).warnings == ()


def test_description_without_a_usable_model(models: RegisteredModels, tmp_path: Path) -> None:
    only = models.register(EASE((10.0,)))
    models.promote("ease 1")
    damage(models.registry, tmp_path, only, "damaged")
    result, move = models.judge()
    assert (result.outcome, result.candidate, move) == ("not judged", None, None)
    with pytest.raises(StoredDataError, match=r"No model can be loaded\. ease 1 cannot be loaded"):
        load_first_usable(models.registry, serving_candidates(models.registry), models.cache)
    current, at = models.current(), models.last_decision().time.isoformat()
    assert (current["model"], current["why"], current["at"]) == (None, "None can be loaded.", at)
    assert "judges again" in current["decision"]


def test_description_explains_why_the_newest_model_does_not_serve(models: RegisteredModels) -> None:
    assert describe_current(models.registry) is None
    models.register(EASE((10.0,)))
    unjudged = "ease 1 has not been judged yet: the next run, or the asset champion, does."
    assert models.current()["decision"] == unjudged
    models.judge("run 1")
    models.register(EASE((9.5,)))
    later = "ease 2 was registered after that and has not been judged yet: the next run does."
    assert models.current()["decision"].endswith(later)
    models.judge("run 2")
    current, at = models.current(), models.last_decision().time.isoformat()
    assert (current["model"], current["newest"]) == ("ease 1", "ease 2")
    assert (current["at"], current["outcome"], current["by"]) == (at, "not better", "run 2")
    assert current["decision"].startswith("ease 2 is not certainly better than ease 1 for ")
    models.promote("ease 2", why="I like it", by="a user")
    current = models.current()
    assert (current["model"], current["why"]) == ("ease 2", "I like it")
    assert current["decision"].endswith("Since then a user made ease 2 champion (promote): I like it")


def test_models_of_several_names_are_ranked(registry: ModelRegistry, save: Save) -> None:
    for name, score in (("a", 0.3), ("b", 0.5), ("c", 0.5), ("d", None)):
        save(name, score)
    ranked = rank_models(registry, ("a", "b", "c", "d"))
    assert [model.name for model in ranked] == ["b", "c", "a"], "of equal scores, the first name comes first"
    with pytest.raises(ModelNotFoundError, match="No scored model 'd'"):
        rank_models(registry, ("d",))
    assert next(serving_candidates(registry, name="c")).name == "c"
    with pytest.raises(ModelNotFoundError):
        next(serving_candidates(registry, tag="production"))


def test_concurrent_loads_download_a_model_once(models: RegisteredModels, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.register(EASE((10.0,)))
    download = Mock(side_effect=models.registry.store.read_to)
    monkeypatch.setattr(models.registry.store, "read_to", download)
    start = threading.Barrier(8)

    def load(_: int) -> str:
        start.wait()
        return load_model(models.registry, model, models.cache).model.name

    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(load, range(8))) == ["ease"] * 8
    assert download.call_count == 1


def test_cached_model_serves_with_a_warning_while_the_services_are_unavailable(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load_settings()
    away = own.model_copy(update={"mongo_uri": SecretStr("mongodb://user:secret@127.0.0.1:1/")})
    monkeypatch.setattr("gh_assets.services.connections.MONGO_SECONDS", 0.2)
    with pytest.raises(ServiceUnavailableError):
        load_current_model(away)
    with open_registry(own) as registry:
        models = RegisteredModels(registry, model_cache(own))
        models.register(EASE((10.0,)))
        models.promote("ease 1")
        assert load_current_model(own).warnings == ()
        cached = load_current_model(away)
        assert (cached.registered.title, cached.trained.model.name) == ("ease 1", "ease")
        (warning,) = cached.warnings
        assert "does not answer" in warning
        assert "This is by ease 1, the last model that was used here" in warning
        assert "secret" not in warning
