"""Catalogues of a few repositories."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from gh_assets.schemas import REPOS
from gh_assets.serving.catalogue import Catalogue


def catalogue_of(rows: Sequence[dict[str, Any]], embeddings: pl.DataFrame | None = None) -> Catalogue:
    """Return a catalogue of repositories whose other columns are empty."""
    blank = dict.fromkeys(REPOS.columns) | {"topics": [], "lists": [], "outcome": "ok"}
    return Catalogue(pl.DataFrame([blank | row for row in rows], schema=REPOS.dtypes), embeddings)
