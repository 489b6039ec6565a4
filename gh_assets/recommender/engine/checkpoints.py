"""The state of an unfinished training in one safetensors file, replaced atomically."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gh_assets.recommender.data.files import system_errors
from gh_assets.recommender.data.interactions import Csr

FILE = "training.safetensors"


class Checkpoints:
    """The latest checkpoint of one training, in its own folder.

    Parameters
    ----------
    folder : Path
    fingerprint : str
        Hash of everything that determines the result: checkpoints with another fingerprint are ignored.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = Path(folder) / FILE
        self.fingerprint = fingerprint

    def save(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Replace the previous checkpoint atomically by tensors and a JSON document that describes them."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        text = json.dumps({**document, "fingerprint": self.fingerprint})
        with system_errors(draft):
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft, {"document": text})
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(self.path)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read what `save` wrote; None if it is missing, unreadable or of another training."""
        try:
            with safe_open(self.path, framework="pt") as file:
                document = json.loads((file.metadata() or {})["document"])
                if document["fingerprint"] != self.fingerprint:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, document  # noqa: SIM118
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None

    def forget(self) -> None:
        """Delete the checkpoint of a finished training."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".draft").unlink(missing_ok=True)


def data_fingerprint(config: Mapping[str, Any], *matrices: Csr) -> str:
    """Return the SHA-256 of a configuration and of the sparsity patterns of matrices."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for matrix in matrices:
        for array in (np.array(matrix.shape), matrix.indptr, matrix.indices):
            digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
    return digest.hexdigest()
