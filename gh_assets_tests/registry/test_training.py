"""How trained models are packed, and that those of earlier versions are still loaded."""

from pathlib import Path

import numpy as np

from gh_assets.recommender import EASE
from gh_assets.recommender.models.trained_model import TrainedModel
from gh_assets.recommender.training.training import result_of, split_of
from gh_assets.registry import ModelCard, ModelRegistry
from gh_assets.registry.training import register
from gh_assets_tests.support.registered_models import fitted, matrix_of


def test_models_are_registered_with_zstd_and_those_registered_with_gzip_are_loaded(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    matrix = matrix_of()
    result = result_of(matrix, split_of(matrix, 0), fitted(matrix, EASE((10.0,))), {})
    now = register(registry, result, tag="")
    # Earlier versions packed every model so.
    before = registry.save(result.trained.save(tmp_path / "ease"), ModelCard("ease", 0.1), archive="gzip")
    assert [now.file_name, before.file_name] == ["ease.tar.zst", "ease.tar.gz"]
    for model in (now, before):
        assert registry.verify(model) is None
        loaded = TrainedModel.load(registry.download(model, tmp_path / str(model.version), unpack=True))
        np.testing.assert_array_equal(loaded.model.predict(matrix.stars), result.trained.model.predict(matrix.stars))
        assert loaded.full_names.tolist() == matrix.full_names.tolist()
