"""All recommenders by their names."""

from __future__ import annotations

from collections.abc import Mapping

from gh_assets.recommender.als import ALS
from gh_assets.recommender.base import Recommender
from gh_assets.recommender.baselines import EASE, ItemKNN, Popularity
from gh_assets.recommender.hybrid import Hybrid
from gh_assets.recommender.multvae import MultVAE
from gh_assets.recommender.recvae import RecVAE

MODELS: Mapping[str, type[Recommender]] = {
    model.name: model for model in (RecVAE, Hybrid, MultVAE, EASE, ALS, ItemKNN, Popularity)
}
