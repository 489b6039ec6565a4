"""The cache of models: whole, verified before use, and evicted when no process reads it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from gh_assets.errors import StoredDataError
from gh_assets.registry import ModelCard
from gh_assets.registry.cache import CHECKSUMS, ModelCache


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")


def test_incomplete_download_is_removed_by_the_next_one(registry, cache, file: Path) -> None:
    model = registry.save(file, ModelCard("recvae", 0.5))
    with cache.fetched(registry, model) as path:
        place = path.parent
    path.unlink()
    (place / ".weights.bin.1234").write_bytes(b"half")
    (place / ".weights.5678").mkdir()
    with cache.fetched(registry, model) as again:
        assert again.read_bytes() == file.read_bytes()
        assert sorted(place.iterdir()) == sorted([place / CHECKSUMS, again])


def test_model_in_use_is_not_evicted(registry, tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache", keep=2)
    models = []
    for number in range(5):
        path = tmp_path / "model.bin"
        path.write_bytes(b"model %d" % number)
        models.append(registry.save(path, ModelCard("recvae", 0.5)))
    with cache.fetched(registry, models[0]) as first:
        for model in models[1:]:
            with cache.fetched(registry, model) as path:
                assert path.read_bytes().startswith(b"model")
        assert first.read_bytes() == b"model 0", "it was removed while it was in use"
    with cache.fetched(registry, models[4]):
        pass
    assert [cache.has(model) for model in models] == [False, False, False, True, True]


def test_least_recently_used_models_are_evicted(registry, cache, tmp_path: Path) -> None:
    models = []
    for number in range(6):
        (tmp_path / "model.bin").write_bytes(b"model %d" % number)
        models.append(registry.save(tmp_path / "model.bin", ModelCard("recvae", 0.5)))
        with cache.fetched(registry, models[-1]):
            assert cache.has(models[-1])
    assert [cache.has(model) for model in models] == [False, False, True, True, True, True]
    with cache.fetched(None, models[2]):
        pass
    with cache.fetched(registry, models[0]):
        pass
    assert [cache.has(model) for model in models] == [True, False, True, False, True, True], (
        "the most recently used models stay"
    )


def test_uncached_model_without_a_registry_is_refused(registry, cache, file: Path) -> None:
    model = registry.save(file, ModelCard("recvae", 0.5))
    with pytest.raises(StoredDataError, match="recvae 1 is not on this machine"), cache.fetched(None, model):
        pass


@pytest.mark.parametrize("damage", ["flip", "truncate", "lose the checksums"])
def test_changed_file_is_never_loaded(
    registry, cache, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
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


def test_models_without_checksums_are_distinguished(registry, cache, objects, database) -> None:
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


def test_selection_is_kept_only_with_its_model(registry, cache, file: Path) -> None:
    model = registry.save(file, ModelCard("recvae", 0.5, tags=("a",), config={"epochs": 3}))
    cache.save_selection("the model that serves", model)
    assert cache.load_selection("the model that serves") is None, "its content is not cached"
    with cache.fetched(registry, model):
        pass
    assert cache.load_selection("the model that serves") == model
    assert cache.load_selection("something else") is None
    better = registry.save(file, ModelCard("recvae", 0.6))
    cache.save_selection("something else", model)
    cache.save_selection("the model that serves", better)
    assert (cache.load_selection("the model that serves"), cache.load_selection("something else")) == (better, model)
    assert len(list(cache.folder.glob("*.json"))) == 2
    assert not list(cache.folder.glob(".answer*")), "drafts were left behind"
    for path in cache.folder.glob("*.json"):
        path.write_text("half a docu")
    assert cache.load_selection("the model that serves") is None
