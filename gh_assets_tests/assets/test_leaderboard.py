"""What the metadata of the leaderboard show, and which baselines it registers."""

from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from gh_assets.assets.leaderboard import known_stars_table, leaderboard, leaderboard_figure, people_table
from gh_assets.io_managers import GcsTypedIOManager
from gh_assets.recommender import EASE, Hybrid, ItemKNN, Popularity, UserItemMatrix, strong_generalization_split
from gh_assets.recommender.evaluation.evaluation import evaluate_in_full
from gh_assets.recommender.training.training import best_on_validation, compare, result_of, split_of
from gh_assets.registry import SERVED
from gh_assets.registry.functions import open_registry
from gh_assets.registry.training import register
from gh_assets.resources import build_resources
from gh_assets.schemas import LEADERBOARD
from gh_assets.serving.leaderboard import USERS_HELD_OUT, standings
from gh_assets.settings import load_settings
from gh_assets_tests.support.leaderboards import leaderboard_by_known_stars
from gh_assets_tests.support.matrices import taste_matrix
from gh_assets_tests.support.registered_models import matrix_of


def test_tables_have_models_by_number_of_known_stars() -> None:
    rows = standings(leaderboard_by_known_stars())
    lines = str(known_stars_table(rows).value).splitlines()
    assert lines[0] == "| model | 1 | 2 | 3 | 5 | 10 | all | mean |"
    assert lines[2] == "| hybrid | 0.201 | 0.202 | 0.203 | 0.205 | 0.21 | 0.25 | 0.21 |"
    assert lines[3].startswith("| popularity | 0.101 |")
    lines = str(people_table(rows).value).splitlines()
    header = "| model | 1 (1,000 users) | 2 (2,000 users) | 3 (3,000 users) | 4 (4,000 users) | 5–20 (6,000 users) |"
    assert lines[0] == f"{header} 21+ (7,000 users) |"
    assert lines[2] == "| hybrid | 0.2 | 0.21 | 0.22 | 0.23 | 0.25 |  |"


def test_the_plot_has_a_bar_and_a_line_for_each_model() -> None:
    split = strong_generalization_split(taste_matrix(users=300), validation_users=40, test_users=60, seed=2)
    models = [EASE().fit(split.train), Popularity().fit(split.train)]
    rows = [evaluate_in_full(model, *split.test, split.train, split.few) for model in models]
    records = [{"split": USERS_HELD_OUT, "model": row.name, "users": 60, **row.summary()} for row in rows]
    figure = leaderboard_figure(rows, standings(pl.DataFrame(records, schema=LEADERBOARD.dtypes)), "ndcg@100")
    bars, lines = figure.axes
    assert [label.get_text() for label in bars.get_yticklabels()] == ["popularity", "ease"]
    ease, popularity = lines.get_lines()
    assert [label.get_text() for label in lines.get_xticklabels()] == ["1", "2", "3", "5", "10", "all"]
    assert (ease.get_label(), ease.get_linestyle()) == ("ease", "-")
    assert (popularity.get_label(), popularity.get_linestyle()) == ("popularity", "--")
    assert list(np.asarray(ease.get_ydata())) == [float(values.mean()) for values in rows[0].lengths.values()]


@pytest.mark.usefixtures("fresh_home")
@pytest.mark.parametrize(
    ("hybrid", "registered"),
    [
        pytest.param(Hybrid(EASE(), ItemKNN()), ["hybrid"], id="a baseline is ahead within noise"),
        pytest.param(Hybrid(Popularity(), Popularity()), ["hybrid", "itemknn"], id="a baseline is certainly better"),
    ],
)
def test_a_baseline_is_registered_only_if_it_is_certainly_better(hybrid: Hybrid, registered: list[str]) -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    hybrid.fit(split.train, split.validation)
    assert best_on_validation(compare(matrix, [hybrid])[1].values(), split).name not in SERVED
    resources: dict[str, Any] = build_resources(load_settings())
    with open_registry(load_settings()) as models:
        register(models, result_of(matrix, split, hybrid, {}), tag="")

    @dg.asset
    def user_item_matrix() -> UserItemMatrix:
        return matrix

    dg.materialize(
        [user_item_matrix, leaderboard],
        resources={**resources, "io_manager": GcsTypedIOManager(gcs=resources["gcs"])},
        run_config={"ops": {"leaderboard": {"config": {"in_time": False}}}},
    )
    with open_registry(load_settings()) as models:
        assert sorted(model.name for model in models.list()) == registered
