"""Loading weights: plain tensors only, and no code."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gh_assets.errors import StoredDataError
from gh_assets.registry import load_weights


class Bomb:
    """Unpickling it creates a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.npz", "model.npy", "model.safetensors", "model.json"])
def test_pickle_under_any_name_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    mark, path = tmp_path / "exploded", tmp_path / name
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(StoredDataError, match=f"{name} cannot be (loaded as plain weights|read)"):
        load_weights(path)
    assert not mark.exists()


def test_torch_archive_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    mark, path = tmp_path / "exploded", tmp_path / "model.pt"
    torch.save({"weights": torch.ones(3), "extra": Bomb(mark)}, path)
    assert zipfile.is_zipfile(path)
    with pytest.raises(StoredDataError, match=r"model\.pt cannot be loaded"):
        load_weights(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.exe"])
def test_files_of_other_kinds_are_not_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoredDataError, match=r"pickle by its name|is none of \.safetensors"):
        load_weights(tmp_path / name)


def test_plain_weights_are_loaded(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    weights: dict[str, Any] = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    torch.save({"w": torch.from_numpy(weights["w"])}, tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", **weights)
    save_file(weights, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.npz", "a.safetensors"):
        np.testing.assert_array_equal(np.asarray(load_weights(tmp_path / name)["w"]), weights["w"])
