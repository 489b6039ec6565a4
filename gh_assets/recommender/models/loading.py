"""All recommenders by name."""

from __future__ import annotations

from collections.abc import Mapping

from gh_assets.recommender.models.base import Recommender
from gh_assets.recommender.models.hybrid import PARTS, Hybrid

MODELS: Mapping[str, type[Recommender]] = {**PARTS, Hybrid.name: Hybrid}
