"""From a model and somebody's stars to a list: exclusions, cold start, repositories that the model does not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest

from gh_assets.recommender import EASE, RecVAE, RecVAEConfig
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.recommender.training.training import TrainedModel
from gh_assets.schemas import RECOMMENDATIONS, REPOS
from gh_assets.serving.catalogue import Catalogue
from gh_assets.serving.ranking import Ranker, Recommendation
from gh_assets.serving.requests import Filters, RecommendationRequest
from gh_assets_tests.support.matrices import checkerboard

FIRST = 1000
"""Id of the first repository: item 0 of the models here."""


def catalogue_of(rows: Sequence[dict[str, Any]]) -> Catalogue:
    blank = dict.fromkeys(REPOS.columns) | {"topics": [], "lists": [], "outcome": "ok"}
    return Catalogue(pl.DataFrame([blank | row for row in rows], schema=REPOS.dtypes))


def row(item: int, **more: Any) -> dict[str, Any]:
    """Even repositories are about painting, odd ones about plumbing."""
    about = ("painting", "Draw with brushes and colours") if item % 2 == 0 else ("plumbing", "Pipes, valves and taps")
    return {
        "repo_id": FIRST + item,
        "full_name": f"owner-{item}/thing-{item}",
        "description": about[1],
        "language": "Python",
        "topics": [about[0]],
    } | more


CATALOGUE_ROWS = [row(item) for item in range(20)]


@pytest.fixture(scope="module")
def matrix() -> UserItemMatrix:
    stars = checkerboard()
    names = np.array([entry["full_name"] for entry in CATALOGUE_ROWS])
    logins = np.array([f"user-{user}" for user in range(stars.shape[0])])
    return UserItemMatrix(stars, np.arange(stars.shape[0]), logins, FIRST + np.arange(20), names)


@pytest.fixture(scope="module", params=["ease", "recvae"])
def trained(request: pytest.FixtureRequest, matrix: UserItemMatrix) -> TrainedModel:
    config = RecVAEConfig(epochs=40, hidden_size=32, latent_size=8, learning_rate=5e-3, batch_size=20)
    model = (EASE((10.0,)) if request.param == "ease" else RecVAE(config)).fit(matrix.stars)
    counts = np.bincount(matrix.stars.indices, minlength=20)
    counts[[2, 4, 6, 8]] += 50  # the most popular are all of one kind
    counts[1] += 30
    return TrainedModel(model, matrix.repo_ids, matrix.full_names, data={"stars_of": counts.tolist()})


def recommend_to(
    trained: TrainedModel, stars: Sequence[int], n: int, catalogue: Catalogue | None = None, **more: Any
) -> list[Recommendation]:
    return Ranker(trained, catalogue).recommend(RecommendationRequest(stars=stars, n=n, **more))


def ids(found: Sequence[Any]) -> list[int]:
    return [entry.repo_id - FIRST for entry in found]


def own(matrix: UserItemMatrix, user: int) -> list[int]:
    return (FIRST + matrix.stars[[user]].indices).tolist()


def test_a_person_gets_new_things_of_the_persons_kind_with_own_reasons(
    trained: TrainedModel, matrix: UserItemMatrix
) -> None:
    mine = own(matrix, 3)
    found = recommend_to(trained, mine, 2)
    assert all(item % 2 == 1 for item in ids(found))
    assert not {entry.repo_id for entry in found} & set(mine)
    names = {f"owner-{repo_id - FIRST}/thing-{repo_id - FIRST}" for repo_id in mine}
    for entry in found:
        assert entry.kind == "personal"
        assert entry.because
        assert {reason.full_name for reason in entry.because} <= names


def test_who_is_not_known_gets_what_is_popular_and_of_all_kinds_and_is_told(trained: TrainedModel) -> None:
    found = recommend_to(trained, [], 4)
    assert {entry.kind for entry in found} == {"popular"}
    assert all(not entry.because for entry in found)
    assert ids(found)[0] in (2, 4, 6, 8)
    if trained.model.item_vectors() is not None:
        assert 1 in ids(found), "the fifth most popular, but of another kind"
    assert recommend_to(trained, [FIRST + 2], 4) != found
    assert 2 not in ids(recommend_to(trained, [], 4, hidden=[FIRST + 2]))


def test_what_a_person_owns_and_forks_and_archived_ones_are_left_out(
    trained: TrainedModel, matrix: UserItemMatrix
) -> None:
    mine = own(matrix, 3)
    first, second, third, *_ = [entry.repo_id for entry in recommend_to(trained, mine, 5)]
    changes = {
        first: {"full_name": "User-3/its-own"},
        second: {"fork_of": mine[0]},
        third: {"archived": True},
    }
    catalogue = catalogue_of([entry | changes.get(entry["repo_id"], {}) for entry in CATALOGUE_ROWS])
    ranker = Ranker(trained, catalogue)
    for own_too, forks_too, archived_too in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)):
        filters = Filters(own=bool(own_too), forks=bool(forks_too), archived="yes" if archived_too else "no")
        expected = set() if own_too else {first}
        expected |= set() if forks_too else {second}
        expected |= set() if archived_too else {third}
        request = RecommendationRequest(stars=mine, login="user-3", n=20, filters=filters)
        alone = [entry.repo_id for entry in ranker.recommend(request)]
        assert not expected & set(alone)
        assert len(alone) == 20 - len(mine) - len(expected)
        table = pl.concat(list(ranker.recommend_all(matrix, 20, filters=filters)))
        assert RECOMMENDATIONS.problem(table) is None
        assert table.filter(pl.col("login") == "user-3")["repo_id"].to_list() == alone, "one rule for one and for all"


def test_origins_of_starred_forks_are_left_out_too(trained: TrainedModel) -> None:
    catalogue = catalogue_of([row(0), row(1, fork_of=FIRST), *CATALOGUE_ROWS[2:]])
    for starred, related in ((1, 0), (0, 1)):
        assert related not in ids(recommend_to(trained, [FIRST + starred], 20, catalogue))
        wanted = recommend_to(trained, [FIRST + starred], 20, catalogue, filters=Filters(forks=True))
        assert related in ids(wanted)
    everything = recommend_to(trained, [FIRST + 2, 12345], 20, catalogue)
    assert len(everything) == 19, "what is in no catalogue has no forks"


def test_all_people_at_once_are_as_one_by_one(trained: TrainedModel, matrix: UserItemMatrix) -> None:
    table = pl.concat(list(Ranker(trained).recommend_all(matrix, 5)))
    for user in (0, 7, 21):
        rows = table.filter(pl.col("user_id") == user)
        alone = recommend_to(trained, own(matrix, user), 5)
        assert rows["repo_id"].to_list() == [entry.repo_id for entry in alone]
        assert rows["rank"].to_list() == [entry.rank for entry in alone]
        assert rows["because"].to_list() == [[reason.full_name for reason in entry.because] for entry in alone]
        shares = [[reason.share for reason in entry.because] for entry in alone]
        for found, expected in zip(rows["because_share"].to_list(), shares, strict=True):
            assert found == pytest.approx(expected, abs=1e-4)
    bare = pl.concat(list(Ranker(trained).recommend_all(matrix, 5, reasons=0)))
    assert bare["repo_id"].to_list() == table["repo_id"].to_list()
    assert bare["because"].list.len().to_list() == [0] * bare.height


def test_a_model_serves_a_matrix_with_other_columns(trained: TrainedModel, matrix: UserItemMatrix) -> None:
    order = np.array([*range(3, 20), 0])  # two repositories are gone, and the others elsewhere
    moved = UserItemMatrix(
        matrix.stars[:, order].tocsr(),
        matrix.user_ids,
        matrix.logins,
        matrix.repo_ids[order],
        matrix.full_names[order],
    )
    table = pl.concat(list(Ranker(trained).recommend_all(moved, 3)))
    for user in (0, 9):
        known = [repo_id for repo_id in own(matrix, user) if repo_id - FIRST not in (1, 2)]
        rows = table.filter(pl.col("user_id") == user)
        assert rows["repo_id"].to_list() == [entry.repo_id for entry in recommend_to(trained, known, 3)]


def test_a_star_that_the_model_does_not_know_counts_as_its_neighbours(trained: TrainedModel) -> None:
    catalogue = catalogue_of([*CATALOGUE_ROWS, row(777, full_name="new/plumber")])
    found = recommend_to(trained, [FIRST + 777], 3, catalogue)
    assert {entry.kind for entry in found} == {"personal"}
    assert all(item % 2 == 1 for item in ids(found)), "of the kind of its neighbours"
    assert {entry.kind for entry in recommend_to(trained, [FIRST + 777], 3)} == {"popular"}, "without a catalogue"


def test_a_repository_that_the_model_does_not_know_stands_where_its_neighbours_do(
    trained: TrainedModel, matrix: UserItemMatrix
) -> None:
    catalogue = catalogue_of(
        [
            *CATALOGUE_ROWS,
            row(777, full_name="new/plumber"),
            row(778, full_name="new/painter"),
            {"repo_id": 5, "full_name": "x/y"},
        ]
    )
    plumber = own(matrix, 3)
    ranker = Ranker(trained, catalogue)
    found = ranker.unseen_recommendations(RecommendationRequest(stars=plumber, n=5))
    assert [entry.full_name for entry in found] == ["new/plumber", "new/painter"], "nothing is like x/y"
    assert {entry.kind for entry in found} == {"new"}
    assert found[0].because
    assert sum(reason.share for reason in found[0].because) == pytest.approx(1.0)
    painter = ranker.unseen_recommendations(RecommendationRequest(stars=own(matrix, 2), n=1))
    assert [entry.full_name for entry in painter] == ["new/painter"]
    assert (
        ranker.unseen_recommendations(RecommendationRequest(stars=plumber, n=5, hidden=[FIRST + 777, FIRST + 778]))
        == []
    )


def test_neighbours_are_about_the_same() -> None:
    server = {"topics": ["http", "server"], "language": "Go", "description": "A fast server"}
    router = {"topics": ["http", "router"], "language": "Go", "description": "Routes to a server"}
    client = {"topics": ["http"], "language": "Rust", "description": "Asks"}
    catalogue = catalogue_of(
        [
            {"repo_id": 1, "full_name": "a/one"} | server,
            {"repo_id": 2, "full_name": "b/two"} | client,
            {"repo_id": 3, "full_name": "c/three"} | router,
            {"repo_id": 4, "full_name": "d/nothing"},
            {"repo_id": 6, "full_name": "e/pages", "topics": ["css"], "language": "CSS"},
            {"repo_id": None, "full_name": "gone/away"},
        ]
    )
    everything = np.array([1, 2, 3, 4, 6, 99])
    found = catalogue.neighbours(1, everything)
    assert [entry.repo_id for entry in found] == [3, 2], "the more in common, the nearer"
    assert found[0].likeness > found[1].likeness
    assert [entry.repo_id for entry in catalogue.neighbours(1, np.array([2, 4, 6]))] == [2], "only among those given"
    assert catalogue.neighbours(4, everything) == []
    assert catalogue.neighbours(99, everything) == []
    assert len(catalogue_of([])) == 0
