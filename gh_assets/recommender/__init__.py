"""The recommenders: numpy, scipy and torch only. `recvae` is the one that the project trains and serves."""

from typing import TYPE_CHECKING, Any

from gh_assets.recommender.base import Recommender
from gh_assets.recommender.baselines import EASE, Popularity
from gh_assets.recommender.interactions import (
    StrongGeneralizationSplit,
    UserItemMatrix,
    build_user_item_matrix,
    strong_generalization_split,
)
from gh_assets.recommender.metrics import evaluate, evaluate_users

if TYPE_CHECKING:
    from gh_assets.recommender.recvae import RecVAE, RecVAEConfig

__all__ = [
    "EASE",
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


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and Dagster loads this package to look at the definitions alone.
    if name in ("RecVAE", "RecVAEConfig"):
        from gh_assets.recommender import recvae

        return getattr(recvae, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
