"""Where a training was: one file that is whole or not there, in the format of safetensors, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gh_assets.recommender.data.files import system_errors
from gh_assets.recommender.data.interactions import Csr

FILE = "training.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and what is to be said of them in JSON."""

    tensors: Mapping[str, Tensor]
    document: Mapping[str, Any]


class Checkpoints:
    """The newest checkpoint of one training, in a folder of its own.

    Parameters
    ----------
    folder : Path
    fingerprint : str
        Of all that decides what the training gives: a checkpoint of another training is not taken.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = Path(folder) / FILE
        self.fingerprint = fingerprint

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the one before, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        said = json.dumps({**checkpoint.document, "fingerprint": self.fingerprint})
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
        with system_errors(draft):
            save_file(tensors, draft, {"document": said})
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(self.path)

    def load(self) -> Checkpoint | None:
        """What `save` wrote; None if there is nothing, nothing readable, or that of another training."""
        try:
            with safe_open(self.path, framework="pt") as file:
                document = json.loads((file.metadata() or {})["document"])
                if document["fingerprint"] != self.fingerprint:
                    return None
                return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, document)  # noqa: SIM118
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None

    def forget(self) -> None:
        """The training is over."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".draft").unlink(missing_ok=True)


def data_fingerprint(config: Mapping[str, Any], *matrices: Csr) -> str:
    """SHA-256 of a configuration and of the pairs of some matrices."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for matrix in matrices:
        for array in (np.array(matrix.shape), matrix.indptr, matrix.indices):
            digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
    return digest.hexdigest()
