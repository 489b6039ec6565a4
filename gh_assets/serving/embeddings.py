"""Sentence embeddings of repositories: of which text, and how they are kept current.

A vector is stored beside the hash of its text, so that only new and changed texts are embedded.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gh_assets.errors import StoredDataError
from gh_assets.recommender.text.sentence_encoder import MODEL, TextEncoder
from gh_assets.schemas import REPO_EMBEDDINGS
from gh_assets.storage.asset_store import AssetStore

CHUNK = 512
"""Texts per call of the encoder; progress is reported after each."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddingUpdate:
    """Current embeddings.

    Attributes
    ----------
    table : polars.DataFrame
        A table with schema ``REPO_EMBEDDINGS``, by repository.
    embedded : int
        Number of texts that were embedded now.
    missing : int
        Number of repositories without a vector, because there is no encoder.
    """

    table: pl.DataFrame
    embedded: int
    missing: int


def repository_text(full_name: str, description: str | None, topics: Sequence[str] | None, language: str | None) -> str:
    """Return the text that is embedded: name without separators, description, topics and language."""
    name = " ".join(re.split(r"[/_.-]+", full_name)).strip()
    parts = (name, description, ", ".join(topics or ()), language)
    return ". ".join(part.strip() for part in parts if part and part.strip())


def text_hash(text: str) -> str:
    """Return the hash of a text and the model's name."""
    return hashlib.blake2b(f"{MODEL}\0{text}".encode(), digest_size=16).hexdigest()


def update_embeddings(
    repos: pl.DataFrame,
    stored: pl.DataFrame | None,
    encoder: Callable[[], TextEncoder] | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EmbeddingUpdate:
    """Keep the stored vectors whose texts are unchanged, and embed all other repositories.

    Parameters
    ----------
    repos : polars.DataFrame
        A table with schema ``REPOS``; rows without an id are left out.
    stored : polars.DataFrame or None
        The embeddings until now, with schema ``REPO_EMBEDDINGS``.
    encoder : callable, optional
        Loads the encoder; called only if a text needs it. None: only stored vectors are kept.
    progress : callable, optional
        Receives the numbers of embedded and of all texts to embed.
    """
    described = repos.drop_nulls("repo_id").unique("repo_id", keep="first").sort("repo_id")
    columns = described.select("full_name", "description", "topics", "language")
    texts = [repository_text(*row) for row in columns.iter_rows()]
    current = described.select("repo_id").with_columns(text_hash=pl.Series(map(text_hash, texts), dtype=pl.String))
    stored = REPO_EMBEDDINGS.empty() if stored is None else stored.unique("repo_id", keep="first")
    kept = stored.join(current, on=["repo_id", "text_hash"], how="semi")
    places = np.flatnonzero(~current["repo_id"].is_in(kept["repo_id"].to_list()).to_numpy()).tolist()
    if encoder is None or not places:
        return EmbeddingUpdate(kept.sort("repo_id"), 0, len(places))
    loaded, frames = encoder(), [kept]
    for start in range(0, len(places), CHUNK):
        progress(start, len(places))
        chunk = places[start : start + CHUNK]
        vectors = loaded.encode([texts[place] for place in chunk]).astype(np.float16)
        vector = pl.Series("vector", vectors, dtype=REPO_EMBEDDINGS.dtypes["vector"])
        frames.append(current[chunk].with_columns(vector))
    progress(len(places), len(places))
    return EmbeddingUpdate(pl.concat(frames).sort("repo_id"), len(places), 0)


def read_embeddings(store: AssetStore) -> pl.DataFrame | None:
    """Return the stored embeddings; None without any, or if they cannot be read, because all works without them."""
    if store.describe(REPO_EMBEDDINGS.name, "parquet") is None:
        return None
    try:
        return store.read_table(REPO_EMBEDDINGS.name)
    except StoredDataError as error:
        log.warning("embeddings are not readable", extra={"fields": {"error": str(error)}})
        return None
