"""The assets, one file each. They are thin: read inputs, call the domain, report metadata."""

import dagster as dg

from gh_assets.assets.champion import champion as champion
from gh_assets.assets.collection_plan import collection_plan as collection_plan
from gh_assets.assets.hybrid_model import hybrid_model as hybrid_model
from gh_assets.assets.leaderboard import leaderboard as leaderboard
from gh_assets.assets.recommendations import recommendations as recommendations
from gh_assets.assets.recvae_model import recvae_model as recvae_model
from gh_assets.assets.repo_embeddings import repo_embeddings as repo_embeddings
from gh_assets.assets.repos import repos as repos
from gh_assets.assets.star_events import star_events as star_events
from gh_assets.assets.star_history import star_history as star_history
from gh_assets.assets.stargazers import stargazers as stargazers
from gh_assets.assets.user_item_matrix import user_item_matrix as user_item_matrix
from gh_assets.assets.users import users as users

CHAIN_ASSETS = [
    repos,
    repo_embeddings,
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

ALL_ASSETS: list[dg.AssetsDefinition | dg.AssetSpec] = [star_events, *CHAIN_ASSETS, star_history]
