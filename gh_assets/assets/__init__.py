"""The assets, one file each. They are thin: read inputs, call the domain, report metadata."""

import dagster as dg

from gh_assets.assets.champion import champion
from gh_assets.assets.collection_plan import collection_plan
from gh_assets.assets.hybrid_model import hybrid_model
from gh_assets.assets.leaderboard import leaderboard
from gh_assets.assets.recommendations import recommendations
from gh_assets.assets.recvae_model import recvae_model
from gh_assets.assets.repos import repos
from gh_assets.assets.star_events import star_events
from gh_assets.assets.stargazers import stargazers
from gh_assets.assets.user_item_matrix import user_item_matrix
from gh_assets.assets.users import users

CHAIN_ASSETS = [
    repos,
    stargazers,
    collection_plan,
    users,
    user_item_matrix,
    recvae_model,
    hybrid_model,
    leaderboard,
    champion,
    recommendations,
]
"""From the lists to the recommendations, in the order in which the data flow."""

ALL_ASSETS: list[dg.AssetsDefinition | dg.AssetSpec] = [star_events, *CHAIN_ASSETS]

__all__ = [
    "ALL_ASSETS",
    "CHAIN_ASSETS",
    "champion",
    "collection_plan",
    "hybrid_model",
    "leaderboard",
    "recommendations",
    "recvae_model",
    "repos",
    "star_events",
    "stargazers",
    "user_item_matrix",
    "users",
]
