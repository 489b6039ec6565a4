"""All recommenders by their names."""

from __future__ import annotations

from collections.abc import Mapping

from gh_assets.recommender.models.als import ALS
from gh_assets.recommender.models.base import Recommender
from gh_assets.recommender.models.baselines import EASE, ItemKNN, Popularity
from gh_assets.recommender.models.hybrid import Hybrid
from gh_assets.recommender.models.multvae import MultVAE
from gh_assets.recommender.models.recvae import RecVAE

MODELS: Mapping[str, type[Recommender]] = {
    model.name: model for model in (RecVAE, Hybrid, MultVAE, EASE, ALS, ItemKNN, Popularity)
}
