"""Asset checks: what must hold of the data. An error needs action; a warning should be looked at.

Blocking checks stop a bad matrix from training a model.
"""

from gh_assets.checks.collection import (
    every_star_has_its_user,
    listed_repositories_are_there,
    no_star_twice,
    stargazers_could_be_listed,
    stars_match_githubs_count,
)
from gh_assets.checks.matrix import (
    every_user_has_a_star,
    matrix_has_exactly_the_collected_pairs,
    matrix_is_like_the_last,
)
from gh_assets.checks.models import (
    champion_is_not_left_behind,
    nothing_known_is_recommended,
    recvae_beats_popularity,
    recvae_is_the_best,
)

ALL_CHECKS = [
    listed_repositories_are_there,
    stargazers_could_be_listed,
    stars_match_githubs_count,
    no_star_twice,
    every_star_has_its_user,
    every_user_has_a_star,
    matrix_has_exactly_the_collected_pairs,
    matrix_is_like_the_last,
    recvae_beats_popularity,
    recvae_is_the_best,
    champion_is_not_left_behind,
    nothing_known_is_recommended,
]

__all__ = ["ALL_CHECKS"]
