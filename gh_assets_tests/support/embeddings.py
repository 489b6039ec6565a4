"""An encoder of texts that needs no model, and vectors that a test chooses."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gh_assets.recommender.text.sentence_encoder import DIMENSION
from gh_assets.schemas import REPO_EMBEDDINGS


class HashEncoder:
    """Draws the vector of a text from its hash; keeps the texts that it was asked for."""

    name = "hashes"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        vectors = np.zeros((len(texts), DIMENSION), np.float32)
        for row, text in enumerate(texts):
            digest = hashlib.sha256(text.encode()).digest()
            vectors[row] = np.random.default_rng(int.from_bytes(digest[:8], "big")).normal(size=DIMENSION)
            vectors[row] /= np.linalg.norm(vectors[row])
        return vectors


def embeddings_of(directions: Mapping[int, Sequence[float]]) -> pl.DataFrame:
    """Return embeddings with schema ``REPO_EMBEDDINGS`` whose first numbers are given, of unit length."""
    vectors = np.zeros((len(directions), DIMENSION), np.float32)
    for row, direction in enumerate(directions.values()):
        vectors[row, : len(direction)] = np.asarray(direction) / np.linalg.norm(direction)
    return pl.DataFrame(
        {"repo_id": list(directions), "text_hash": "of a test", "vector": vectors.astype(np.float16)},
        schema_overrides=REPO_EMBEDDINGS.dtypes,
    )
