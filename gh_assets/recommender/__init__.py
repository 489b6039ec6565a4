"""The recommenders: numpy, scipy and torch only. `RecVAE` and its `Hybrid` are what the project trains and serves."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gh_assets.recommender.base import Recommender
from gh_assets.recommender.interactions import (
    StrongGeneralizationSplit,
    UserItemMatrix,
    build_user_item_matrix,
    strong_generalization_split,
)
from gh_assets.recommender.metrics import evaluate, evaluate_users

if TYPE_CHECKING:
    from gh_assets.recommender.als import ALS
    from gh_assets.recommender.baselines import EASE, ItemKNN, Popularity
    from gh_assets.recommender.hybrid import Hybrid
    from gh_assets.recommender.multvae import MultVAE, MultVAEConfig
    from gh_assets.recommender.recvae import RecVAE, RecVAEConfig

__all__ = [
    "ALS",
    "EASE",
    "Hybrid",
    "ItemKNN",
    "MultVAE",
    "MultVAEConfig",
    "Popularity",
    "RecVAE",
    "RecVAEConfig",
    "Recommender",
    "StrongGeneralizationSplit",
    "UserItemMatrix",
    "build_user_item_matrix",
    "evaluate",
    "evaluate_users",
    "strong_generalization_split",
]

_LATER = {
    "ALS": "als",
    "EASE": "baselines",
    "Hybrid": "hybrid",
    "ItemKNN": "baselines",
    "MultVAE": "multvae",
    "MultVAEConfig": "multvae",
    "Popularity": "baselines",
    "RecVAE": "recvae",
    "RecVAEConfig": "recvae",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and Dagster loads this package to look at the definitions alone.
    if name in _LATER:
        return getattr(import_module(f"gh_assets.recommender.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
