"""Which model serves, and how it is described."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from gh_assets.embedded import supervision
from gh_assets.errors import ModelNotFoundError, ServiceUnavailableError, StoredDataError
from gh_assets.recommender import EASE
from gh_assets.registry import ModelCard, ModelRegistry, Promotion
from gh_assets.registry.cache import ModelCache
from gh_assets.services.connections import model_store, open_mongo
from gh_assets.serving.current_model import (
    describe_current,
    load_current_model,
    load_first_usable,
    load_model,
    rank_models,
    serving_candidates,
)
from gh_assets.serving.promotion import promote_if_better
from gh_assets.settings import Settings
from gh_assets_tests.support.registered_models import DAMAGES, UNREADABLE_DOCUMENT, damage, fitted, matrix_of, register


@pytest.mark.parametrize("kind", DAMAGES)
def test_champion_that_cannot_be_loaded_gives_way_to_the_one_before(
    registry: ModelRegistry, cache: ModelCache, tmp_path: Path, kind: str
) -> None:
    matrix = matrix_of()
    register(registry, matrix, fitted(matrix, EASE((10.0,))))
    broken = register(registry, matrix, fitted(matrix, EASE((11.0,))))
    for version in (1, 2):
        registry.promote(Promotion("ease", version, why=f"version {version}"))
    damage(registry, tmp_path, broken, kind)
    model = load_first_usable(registry, serving_candidates(registry), cache)
    assert model.registered.version == 1
    assert [warning.startswith("ease 2 cannot be loaded and is skipped") for warning in model.warnings] == (
        [] if kind == UNREADABLE_DOCUMENT else [True]
    )
    if model.warnings:
        public = load_first_usable(registry, serving_candidates(registry), cache, public=True)
        assert public.warnings == ("ease 2 cannot be loaded: the next best serves in its place.",)
    again = load_first_usable(registry, serving_candidates(registry), cache, loaded=model)
    assert again.trained is model.trained, "a model in memory was loaded again"
    result, move = promote_if_better(registry, cache, matrix, by="a test")
    assert (result.outcome, move) == ("champion already", None)
    current = describe_current(registry)
    assert (current.model.title, current.promoted) == ("ease 1", True)
    assert current.why == "The champion cannot be loaded, and this was champion before it."
    better = register(registry, matrix, fitted(matrix, EASE((10.0,))))
    assert promote_if_better(registry, cache, matrix, by="a test")[0].champion.version == 1
    registry.promote(Promotion("ease", better.version, why="by hand"))
    assert load_first_usable(registry, serving_candidates(registry), cache).warnings == ()


def test_description_without_a_usable_model(registry: ModelRegistry, cache: ModelCache, tmp_path: Path) -> None:
    matrix = matrix_of()
    only = register(registry, matrix, fitted(matrix, EASE((10.0,))))
    registry.promote(Promotion("ease", 1, why="the first"))
    damage(registry, tmp_path, only, "damaged")
    result, move = promote_if_better(registry, cache, matrix, by="a test")
    assert (result.outcome, result.candidate, move) == ("not judged", None, None)
    with pytest.raises(StoredDataError, match=r"No model can be loaded\. ease 1 cannot be loaded"):
        load_first_usable(registry, serving_candidates(registry), cache)
    current = describe_current(registry)
    assert (current.model, current.why, current.decision.outcome) == (None, "None can be loaded.", "not judged")
    assert "judges again" in current.explanation


def test_description_explains_why_the_newest_model_does_not_serve(registry: ModelRegistry, cache: ModelCache) -> None:
    assert describe_current(registry) is None
    matrix = matrix_of()
    register(registry, matrix, fitted(matrix, EASE((10.0,))))
    assert describe_current(registry).explanation == (
        "ease 1 has not been judged yet: the next run, or the asset champion, does."
    )
    promote_if_better(registry, cache, matrix, by="run 1")
    register(registry, matrix, fitted(matrix, EASE((10.5,))))
    assert describe_current(registry).explanation.endswith(
        "ease 2 was registered after that and has not been judged yet: the next run does."
    )
    promote_if_better(registry, cache, matrix, by="run 2")
    current = describe_current(registry)
    assert (current.model.title, current.newest.title) == ("ease 1", "ease 2")
    assert (current.decision.outcome, current.decision.by) == ("not better", "run 2")
    assert current.explanation.startswith("ease 2 is not certainly better than ease 1 for ")
    registry.promote(Promotion("ease", 2, why="I like it", by="a user"))
    current = describe_current(registry)
    assert (current.model.title, current.why) == ("ease 2", "I like it")
    assert current.explanation.endswith("Since then a user made ease 2 champion (promote): I like it")


def test_models_of_several_names_are_ranked(registry: ModelRegistry, file: Path) -> None:
    for name, score in (("a", 0.3), ("b", 0.5), ("c", 0.5), ("d", None)):
        registry.save(file, ModelCard(name, score))
    ranked = rank_models(registry, ("a", "b", "c", "d"))
    assert [model.name for model in ranked] == ["b", "c", "a"], "of equal scores, the first name comes first"
    with pytest.raises(ModelNotFoundError, match="No scored model 'd'"):
        rank_models(registry, ("d",))
    assert next(serving_candidates(registry, name="c")).name == "c"
    with pytest.raises(ModelNotFoundError):
        next(serving_candidates(registry, tag="production"))


def test_concurrent_loads_download_a_model_once(
    registry: ModelRegistry, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = matrix_of()
    model = register(registry, matrix, fitted(matrix, EASE((10.0,))))
    downloads = []
    real = registry.store.read_to

    def counted(*arguments: object, **more: object) -> str:
        downloads.append(arguments)
        return str(real(*arguments, **more))

    monkeypatch.setattr(registry.store, "read_to", counted)
    start = threading.Barrier(8)

    def load() -> str:
        start.wait()
        return load_model(registry, model, cache).model.name

    with ThreadPoolExecutor(8) as executor:
        names = [future.result() for future in [executor.submit(load) for _ in range(8)]]
    assert names == ["ease"] * 8
    assert len(downloads) == 1


def test_cached_model_serves_with_a_warning_while_the_services_are_unavailable(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test_{secrets.token_hex(6)}"
    own = settings.model_copy(
        update={"mongo_database": name, "gcs_model_bucket": name.replace("_", "-"), "home": tmp_path / "home"}
    )
    away = own.model_copy(update={"mongo_uri": SecretStr("mongodb://user:secret@127.0.0.1:1/")})
    monkeypatch.setattr("gh_assets.services.connections.MONGO_SECONDS", 0.2)
    with pytest.raises(ServiceUnavailableError):
        load_current_model(away)
    matrix = matrix_of()
    with open_mongo(own) as database:
        registry = ModelRegistry(model_store(own), database["models"])
        register(registry, matrix, fitted(matrix, EASE((10.0,))))
        registry.promote(Promotion("ease", 1, why="the first"))
        assert load_current_model(own).warnings == ()
        cached = load_current_model(away)
        assert (cached.registered.title, cached.trained.model.name) == ("ease 1", "ease")
        (warning,) = cached.warnings
        assert "does not answer" in warning
        assert "This is by ease 1, the last model that was used here" in warning
        assert "secret" not in warning
        database.client.drop_database(name)
    supervision.release("mongo", own.home_path)
    supervision.release("bucket", own.home_path)
