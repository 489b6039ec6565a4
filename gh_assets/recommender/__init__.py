"""Recommenders on numpy, scipy and torch alone. The project trains and serves `RecVAE` and its `Hybrid`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gh_assets.recommender.data.interactions import UserItemMatrix, build_user_item_matrix
from gh_assets.recommender.data.splits import StrongGeneralizationSplit, strong_generalization_split
from gh_assets.recommender.evaluation.metrics import evaluate, evaluate_users
from gh_assets.recommender.models.base import Recommender

if TYPE_CHECKING:
    from gh_assets.recommender.models.baselines import ALS, EASE, ItemKNN, Popularity, RP3Beta
    from gh_assets.recommender.models.graph_filters import GFCF, SVDAE, GraphFilter
    from gh_assets.recommender.models.hybrid import Hybrid
    from gh_assets.recommender.models.multvae import MultVAE, MultVAEConfig
    from gh_assets.recommender.models.recvae import RecVAE, RecVAEConfig

__all__ = [
    "ALS",
    "EASE",
    "GFCF",
    "SVDAE",
    "GraphFilter",
    "Hybrid",
    "ItemKNN",
    "MultVAE",
    "MultVAEConfig",
    "Popularity",
    "RP3Beta",
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

_LAZY = {
    "baselines": ("ALS", "EASE", "ItemKNN", "Popularity", "RP3Beta"),
    "graph_filters": ("GFCF", "SVDAE", "GraphFilter"),
    "hybrid": ("Hybrid",),
    "multvae": ("MultVAE", "MultVAEConfig"),
    "recvae": ("RecVAE", "RecVAEConfig"),
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and Dagster loads this package for its definitions alone.
    for module, names in _LAZY.items():
        if name in names:
            return getattr(import_module(f"gh_assets.recommender.models.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
