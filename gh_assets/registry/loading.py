"""Loading weights without executing code from the file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gh_assets.errors import StoredDataError
from gh_assets.local.memory import check_memory, check_zip

PICKLES = {".pkl", ".pickle", ".joblib", ".dill", ".ckpt"}


def load_weights(path: Path) -> Any:
    """Load a file of weights: tensors by name, arrays by name, or a JSON document.

    Parameters
    ----------
    path : Path
        ``.safetensors``, ``.npz``, ``.npy``, ``.json``; ``.pt`` and ``.pth`` contain a pickle, of which only tensors
        and plain containers are accepted (``weights_only``).

    Raises
    ------
    StoredDataError
        If the file is of another kind, damaged, or would run code.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise StoredDataError(
            f"{path.name} is a pickle by its name, and loading a pickle runs the code in it: save weights as "
            ".safetensors."
        )
    reader = _READERS.get(suffix)
    if reader is None:
        raise StoredDataError(f"{path.name} is none of .safetensors, .npz, .npy, .json, .pt: it is not loaded.")
    try:
        return reader(path)
    except StoredDataError:
        raise
    except Exception as error:
        reason = str(error).split("\n")[0][:200]
        raise StoredDataError(f"{path.name} cannot be loaded as plain weights: {reason}") from error


def _read_safetensors(path: Path) -> Any:
    from safetensors.numpy import load_file

    check_memory(path.name, path.stat().st_size)
    return load_file(path)


def _read_numpy(path: Path) -> Any:
    import numpy as np

    if path.suffix.lower() == ".npz":
        check_zip(path.name, path)
    check_memory(path.name, path.stat().st_size)
    content = np.load(path, allow_pickle=False)
    return {name: content[name] for name in content.files} if path.suffix.lower() == ".npz" else content


def _read_torch(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_numpy,
    ".npy": _read_numpy,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".pt": _read_torch,
    ".pth": _read_torch,
}
