"""The six assets, one file each, in the order the data flow. Thin: read, call the domain, report metadata."""

from gh_assets.assets.recommendations import recommendations
from gh_assets.assets.recvae_model import recvae_model
from gh_assets.assets.repos import repos
from gh_assets.assets.stargazers import stargazers
from gh_assets.assets.user_item_matrix import user_item_matrix
from gh_assets.assets.users import users

ALL_ASSETS = [repos, stargazers, users, user_item_matrix, recvae_model, recommendations]

__all__ = [
    "ALL_ASSETS",
    "recommendations",
    "recvae_model",
    "repos",
    "stargazers",
    "user_item_matrix",
    "users",
]
