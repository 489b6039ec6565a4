"""Loading weights without executing what is in the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gh_assets.errors import StoredDataError
from gh_assets.local.memory import check_memory, check_zip

PICKLES = {".pkl", ".pickle", ".joblib", ".dill", ".ckpt"}


def load_weights(path: Path) -> Any:
    """What a file of weights holds: tensors by name, arrays by name, or a JSON document.

    Parameters
    ----------
    path : Path
        ``.safetensors``, ``.npz``, ``.npy``, ``.json``; ``.pt`` and ``.pth`` hold a pickle, of which only tensors and
        plain containers are accepted (``weights_only``).

    Raises
    ------
    StoredDataError
        If it is of another kind, damaged, or would run code.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    if suffix in PICKLES:
        raise StoredDataError(
            f"{path.name} is a pickle by its name, and loading one runs whatever is in it: save weights as "
            ".safetensors."
        )
    try:
        if suffix == ".safetensors":
            from safetensors.numpy import load_file

            check_memory(path.name, path.stat().st_size)
            return load_file(path)
        if suffix in (".npz", ".npy"):
            import numpy as np

            if suffix == ".npz":
                check_zip(path.name, path)
            check_memory(path.name, path.stat().st_size)
            found = np.load(path, allow_pickle=False)
            return {name: found[name] for name in found.files} if suffix == ".npz" else found
        if suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        if suffix in (".pt", ".pth"):
            import torch

            return torch.load(path, map_location="cpu", weights_only=True)
    except StoredDataError:
        raise
    except Exception as error:
        words = str(error).split("\n")[0][:200]
        raise StoredDataError(f"{path.name} cannot be loaded as plain weights: {words}") from error
    raise StoredDataError(f"{path.name} is none of .safetensors, .npz, .npy, .json, .pt: it is not loaded.")
