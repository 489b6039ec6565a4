"""The cache of models: whole, verified before use, and evicted when no process reads it."""

import datetime as dt
from pathlib import Path

import pytest

from gh_assets.errors import StoredDataError
from gh_assets.registry import ModelCard, ModelRegistry
from gh_assets.registry.cache import CHECKSUMS, ModelCache
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.conftest import Save


def test_incomplete_download_is_removed_by_the_next_one(registry: ModelRegistry, cache: ModelCache, save: Save) -> None:
    model = save()
    with cache.fetched(registry, model) as path:
        place = path.parent
    path.unlink()
    (place / ".model.bin.1234").write_bytes(b"half")
    (place / ".weights.5678").mkdir()
    with cache.fetched(registry, model) as again:
        assert again.read_bytes() == b"model 1"
        assert sorted(place.iterdir()) == sorted([place / CHECKSUMS, again])


def test_model_in_use_is_not_evicted(registry: ModelRegistry, save: Save, tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache", keep=2)
    models = [save() for _ in range(5)]
    with cache.fetched(registry, models[0]) as first:
        for model in models[1:]:
            with cache.fetched(registry, model) as path:
                assert path.read_bytes() == b"model %d" % model.version
        assert first.read_bytes() == b"model 1", "it was removed while it was in use"
    with cache.fetched(registry, models[4]):
        pass
    assert [cache.has(model) for model in models] == [False, False, False, True, True]


def test_least_recently_used_models_are_evicted(registry: ModelRegistry, cache: ModelCache, save: Save) -> None:
    models = [save() for _ in range(6)]
    for model in models:
        with cache.fetched(registry, model):
            assert cache.has(model)
    assert [cache.has(model) for model in models] == [False, False, True, True, True, True]
    for source, model in ((None, models[2]), (registry, models[0])):
        with cache.fetched(source, model):
            pass
    kept = [True, False, True, False, True, True]
    assert [cache.has(model) for model in models] == kept, "the most recently used models stay"


def test_uncached_model_without_a_registry_is_refused(cache: ModelCache, save: Save) -> None:
    with pytest.raises(StoredDataError, match="recvae 1 is not on this machine"), cache.fetched(None, save()):
        pass


@pytest.mark.parametrize("damage", ["flip", "truncate", "lose the checksums"])
def test_changed_file_is_never_loaded(
    registry: ModelRegistry, cache: ModelCache, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"weights" * 1000)
    model = registry.save(folder, ModelCard("recvae", 0.5), archive="gzip")
    with cache.fetched(registry, model) as path:
        kept = path / "weights.bin"
    if damage == "flip":
        kept.write_bytes(b"Weights" + b"weights" * 999)
    elif damage == "truncate":
        kept.write_bytes(b"")
    else:
        (kept.parent.parent / CHECKSUMS).unlink()
    with pytest.raises(StoredDataError, match="recvae 1 is damaged on this machine"), cache.fetched(None, model):
        pass
    with cache.fetched(registry, model) as path:
        assert (path / "weights.bin").read_bytes() == b"weights" * 1000
    assert "recvae 1 has changed on this machine since it was downloaded: it is downloaded again." in caplog.text
    with cache.fetched(None, model):
        pass


def test_models_without_checksums_are_distinguished(
    registry: ModelRegistry, cache: ModelCache, objects: ObjectStore, database: MongoDatabase
) -> None:
    """The original documents have no checksum, and their objects may be replaced."""
    contents = []
    for month in (1, 2):
        objects.write("model.bin", b"weights %d" % month)
        time = dt.datetime(2021, month, 1)
        database["models"].insert_one(
            {"name": "old", "bucket_name": objects.name, "file_name": "model.bin", "score": 1.0, "time": time}
        )
        with cache.fetched(registry, registry.latest("old")) as path:
            contents.append(path.read_bytes())
    assert contents == [b"weights 1", b"weights 2"]


def test_selection_is_kept_only_with_its_model(registry: ModelRegistry, cache: ModelCache, save: Save) -> None:
    model, better = save(tags=("a",), config={"epochs": 3}), save(score=0.6)
    first, second = "the model that serves", "something else"
    cache.save_selection(first, model)
    assert cache.load_selection(first) is None, "its content is not cached"
    for one in (model, better):
        with cache.fetched(registry, one):
            pass
    assert (cache.load_selection(first), cache.load_selection(second)) == (model, None)
    cache.save_selection(second, model)
    cache.save_selection(first, better)
    assert (cache.load_selection(first), cache.load_selection(second)) == (better, model)
    assert len(list(cache.folder.glob("*.json"))) == 2
    assert not list(cache.folder.glob(".answer*")), "drafts were left behind"
    for path in cache.folder.glob("*.json"):
        path.write_text("half a docu")
    assert cache.load_selection(first) is None
