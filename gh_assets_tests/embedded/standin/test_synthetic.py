"""Tests of the synthetic world."""

import numpy as np
import scipy.sparse as sp

from gh_assets.embedded.standin.synthetic import synthetic_world
from gh_assets.embedded.standin.world import World
from gh_assets.recommender import EASE, Popularity, evaluate, strong_generalization_split


def test_equal_seeds_give_equal_worlds() -> None:
    def content(world: World) -> list[object]:
        return [(r.full_name, r.description, r.stargazers.tolist(), r.starred_at.tolist()) for r in world.repositories]

    first, second, other = (content(synthetic_world(seed, repositories=60, users=80)) for seed in (3, 3, 4))
    assert first == second != other


def test_names_contain_the_word_synthetic() -> None:
    world = synthetic_world(0, repositories=60, users=80)
    assert all("synthetic" in name for name in (*world.by_name, *world.logins))


def test_model_of_tastes_is_far_better_than_popularity() -> None:
    world = synthetic_world(0)
    rows = np.concatenate([r.stargazers for r in world.repositories])
    columns = np.repeat(np.arange(len(world.repositories)), [len(r.stargazers) for r in world.repositories])
    matrix = sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)))
    split = strong_generalization_split(matrix)
    test = (split.test_fold_in, split.test_held_out)
    popular = evaluate(Popularity().fit(split.train), *test)["ndcg@100"]
    linear = evaluate(EASE().fit(split.train), *test)["ndcg@100"]
    assert linear > 1.8 * popular
