"""The asset `recommendations`: which lists are made again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from gh_assets.assets.recommendations import recommendations
from gh_assets.io_managers import GcsTypedIOManager
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import Promotion
from gh_assets.resources import build_resources
from gh_assets.schemas import REPOS
from gh_assets.services.connections import asset_store
from gh_assets.storage.asset_store import object_name
from gh_assets_tests.support.served_home import FIRST, ServedHome, trained_on


class Recommending:
    """Materializes the asset for a home, and counts the lists that were made."""

    def __init__(self, home: ServedHome) -> None:
        self.home = home
        self.store = asset_store(home.settings)
        resources = build_resources(home.settings)
        self.resources = resources | {"io_manager": GcsTypedIOManager(gcs=resources["gcs"])}

    def made(self, matrix: UserItemMatrix, **config: Any) -> int:
        """Materialize the lists of a matrix; return the number of users whose list was made."""
        rows = self.home.rows

        @dg.asset
        def user_item_matrix() -> UserItemMatrix:
            return matrix

        @dg.asset
        def repos() -> pl.DataFrame:
            return pl.DataFrame(rows, schema=REPOS.dtypes)

        result = dg.materialize(
            [user_item_matrix, repos, recommendations],
            resources=self.resources,
            run_config={"ops": {"recommendations": {"config": {"n": 5, **config}}}},
        )
        metadata: Mapping[str, Any] = result.asset_materializations_for_node("recommendations")[0].metadata
        stored = self.table()
        assert stored["user_id"].n_unique() == metadata["users"].value == len(matrix.user_ids)
        assert stored.height == metadata["dagster/row_count"].value
        return int(metadata["users_made_again"].value)

    def table(self) -> pl.DataFrame:
        return self.store.read_table("recommendations").sort("user_id", "rank")


@pytest.fixture
def recommending(own_served_home: ServedHome) -> Recommending:
    return Recommending(own_served_home)


def starred(matrix: UserItemMatrix, user: int, item: int) -> UserItemMatrix:
    """Return the matrix with one more star."""
    more = matrix.stars.tolil()
    more[user, item] = 1
    changed = sp.csr_array(more, dtype=np.float32)
    changed.sort_indices()
    return replace(matrix, stars=changed)


def unstarred_item(matrix: UserItemMatrix, user: int) -> int:
    return int(np.setdiff1d(np.arange(matrix.stars.shape[1]), matrix.stars[[user]].indices)[0])


def test_lists_are_made_again_for_users_whose_stars_changed(recommending: Recommending) -> None:
    matrix = recommending.home.matrix
    users = len(matrix.user_ids)
    assert recommending.made(matrix) == users
    before = recommending.table()
    assert recommending.made(matrix) == 0
    assert recommending.table().equals(before)
    changed = starred(matrix, 7, unstarred_item(matrix, 7))
    renamed = changed.logins.copy()
    renamed[11] = "has-a-new-login"
    changed = replace(changed, logins=renamed)
    without_one = changed.rows(np.arange(users) != 20)
    newcomer = replace(without_one, user_ids=np.append(without_one.user_ids[:-1], 9999))
    assert recommending.made(newcomer) == 3, "one has another star, one another login, and one is new"
    kept = recommending.table()
    assert set(kept["user_id"]) == set(newcomer.user_ids.tolist()), "lists of users who are gone are dropped"
    assert recommending.made(newcomer, all=True) == users - 1
    assert recommending.table().drop("score", "because_share").equals(kept.drop("score", "because_share"))


def test_all_lists_are_made_again_if_the_model_or_the_configuration_changed(recommending: Recommending) -> None:
    home, matrix = recommending.home, recommending.home.matrix
    users = len(matrix.user_ids)
    recommending.made(matrix)
    assert recommending.made(matrix, n=4) == users
    assert recommending.made(matrix, n=4, reasons=1) == users
    assert recommending.made(matrix, n=4, reasons=1) == 0
    home.register(trained_on(matrix, weight=0.4), 0.4)
    with home.registry() as registry:
        registry.promote(Promotion("hybrid", 2, why="it is better", by="a test"))
    assert recommending.made(matrix, n=4, reasons=1) == users


def test_lists_are_made_again_if_what_may_be_recommended_changed(recommending: Recommending) -> None:
    home, matrix = recommending.home, recommending.home.matrix
    recommending.made(matrix)
    top = recommending.table()["repo_id"].mode()[0]
    home.rows[top - FIRST]["archived"] = True
    assert recommending.made(matrix) == len(matrix.user_ids)
    assert top not in set(recommending.table()["repo_id"])
    own = home.rows[recommending.table()["repo_id"].mode()[0] - FIRST]
    own["full_name"] = f"{matrix.logins[3]}/mine"
    assert recommending.made(matrix) == 1
    mine = recommending.table().filter(pl.col("user_id") == matrix.user_ids[3])
    assert own["repo_id"] not in set(mine["repo_id"]), "users are recommended what they own"


def test_a_table_of_an_earlier_version_or_a_damaged_one_is_replaced(recommending: Recommending) -> None:
    matrix, store = recommending.home.matrix, recommending.store
    users = len(matrix.user_ids)
    recommending.made(matrix)
    table = store.read_table("recommendations")
    store.objects.delete(object_name("recommendations", "parquet"))
    path = recommending.home.folder / "earlier.parquet"
    table.drop("made_from").write_parquet(path)
    store.objects.write(object_name("recommendations", "parquet"), path)
    assert store.read_table("recommendations")["made_from"].null_count() == table.height
    assert recommending.made(matrix) == users
    store.write_bytes("recommendations", "parquet", b"no Parquet")
    assert recommending.made(matrix) == users
