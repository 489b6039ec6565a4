"""Ranking: exclusions, cold start, and repositories that the model does not know."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from threadpoolctl import threadpool_info

from gh_assets.recommender import EASE, Recommender, RecVAE, RecVAEConfig
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.recommender.models.trained_model import TrainedModel
from gh_assets.schemas import RECOMMENDATIONS
from gh_assets.serving import ranking
from gh_assets.serving.catalogue import Catalogue
from gh_assets.serving.ranking import AllLists, Ranker, Recommendation
from gh_assets.serving.requests import Filters, RecommendationRequest
from gh_assets_tests.support.catalogues import catalogue_of
from gh_assets_tests.support.embeddings import embeddings_of
from gh_assets_tests.support.matrices import checkerboard, with_ids

FIRST = 1000
"""Id of the repository that is item 0 of the models."""


def row(item: int, **more: Any) -> dict[str, Any]:
    """Return a repository: even ones are about painting, odd ones about plumbing."""
    painting, plumbing = ("painting", "Draw with brushes and colours"), ("plumbing", "Pipes, valves and taps")
    topic, description = painting if item % 2 == 0 else plumbing
    return {
        "repo_id": FIRST + item,
        "full_name": f"owner-{item}/thing-{item}",
        "description": description,
        "language": "Python",
        "topics": [topic],
    } | more


CATALOGUE_ROWS = [row(item) for item in range(20)]


@pytest.fixture(scope="module")
def matrix() -> UserItemMatrix:
    names = np.array([entry["full_name"] for entry in CATALOGUE_ROWS])
    return with_ids(checkerboard(), repo_ids=FIRST + np.arange(20), full_names=names)


@pytest.fixture(scope="module", params=["ease", "recvae"])
def trained(request: pytest.FixtureRequest, matrix: UserItemMatrix) -> TrainedModel:
    config = RecVAEConfig(epochs=40, hidden_size=32, latent_size=8, learning_rate=5e-3, batch_size=20)
    model = (EASE((10.0,)) if request.param == "ease" else RecVAE(config)).fit(matrix.stars)
    counts = np.bincount(matrix.stars.indices, minlength=20)
    counts[[2, 4, 6, 8]] += 50  # the four most popular ones are of one kind
    counts[1] += 30
    return TrainedModel(model, matrix.repo_ids, matrix.full_names, data={"stars_of": counts.tolist()})


def recommend_to(
    trained: TrainedModel, stars: Sequence[int], n: int, catalogue: Catalogue | None = None, **more: Any
) -> list[Recommendation]:
    return Ranker(trained, catalogue).recommend(RecommendationRequest(stars=stars, n=n, **more))


def ids(entries: Sequence[Any]) -> list[int]:
    return [entry.repo_id - FIRST for entry in entries]


def own(matrix: UserItemMatrix, user: int) -> list[int]:
    return [FIRST + int(item) for item in matrix.stars[[user]].indices]


def test_recommendations_are_unseen_similar_to_the_stars_and_explained_by_them(
    trained: TrainedModel, matrix: UserItemMatrix
) -> None:
    starred = own(matrix, 3)
    entries = recommend_to(trained, starred, 2)
    assert all(item % 2 == 1 for item in ids(entries))
    assert not {entry.repo_id for entry in entries} & set(starred)
    names = {f"owner-{repo_id - FIRST}/thing-{repo_id - FIRST}" for repo_id in starred}
    for entry in entries:
        assert entry.kind == "personal"
        assert entry.because
        assert {reason.full_name for reason in entry.because} <= names


def test_user_without_stars_gets_popular_repositories_of_all_kinds(trained: TrainedModel) -> None:
    entries = recommend_to(trained, [], 4)
    assert {entry.kind for entry in entries} == {"popular"}
    assert all(not entry.because for entry in entries)
    assert ids(entries)[0] in (2, 4, 6, 8)
    if trained.model.item_vectors() is not None:
        assert 1 in ids(entries), "it is the fifth most popular, but of another kind"
    assert recommend_to(trained, [FIRST + 2], 4) != entries
    assert 2 not in ids(recommend_to(trained, [], 4, hidden=[FIRST + 2]))


def test_own_repositories_forks_and_archived_ones_are_excluded(trained: TrainedModel, matrix: UserItemMatrix) -> None:
    starred = own(matrix, 3)
    first, second, third, *_ = [entry.repo_id for entry in recommend_to(trained, starred, 5)]
    changes: dict[int, dict[str, Any]] = {
        first: {"full_name": "User-3/its-own"},
        second: {"fork_of": starred[0]},
        third: {"archived": True},
    }
    catalogue = catalogue_of([entry | changes.get(entry["repo_id"], {}) for entry in CATALOGUE_ROWS])
    ranker = Ranker(trained, catalogue)
    for own_too, forks_too, archived_too in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)):
        filters = Filters(own=bool(own_too), forks=bool(forks_too), archived="yes" if archived_too else "no")
        expected = set() if own_too else {first}
        expected |= set() if forks_too else {second}
        expected |= set() if archived_too else {third}
        request = RecommendationRequest(stars=starred, login="user-3", n=20, filters=filters)
        alone = [entry.repo_id for entry in ranker.recommend(request)]
        assert not expected & set(alone)
        assert len(alone) == 20 - len(starred) - len(expected)
        table = pl.concat(list(ranker.recommend_all(matrix, AllLists(20, filters=filters))))
        assert RECOMMENDATIONS.problem(table) is None
        assert table.filter(pl.col("login") == "user-3")["repo_id"].to_list() == alone, "recommend_all differs"


def test_origins_of_starred_forks_are_excluded(trained: TrainedModel) -> None:
    catalogue = catalogue_of([row(0), row(1, fork_of=FIRST), *CATALOGUE_ROWS[2:]])
    for starred, related in ((1, 0), (0, 1)):
        assert related not in ids(recommend_to(trained, [FIRST + starred], 20, catalogue))
        wanted = recommend_to(trained, [FIRST + starred], 20, catalogue, filters=Filters(forks=True))
        assert related in ids(wanted)
    everything = recommend_to(trained, [FIRST + 2, 12345], 20, catalogue)
    assert len(everything) == 19, "a repository outside the catalogue has no known forks"


def test_lists_of_batches_at_the_same_time_are_those_of_one(
    trained: TrainedModel, matrix: UserItemMatrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pl.concat(list(Ranker(trained).recommend_all(matrix, AllLists(5))))
    monkeypatch.setattr(ranking, "USERS_PER_BATCH", 7)
    blas_threads = []
    rank = Ranker._rank

    def noted(*arguments: Any) -> Any:
        blas_threads.append([one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"])
        return rank(*arguments)

    monkeypatch.setattr(Ranker, "_rank", noted)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        parts = pl.concat(list(Ranker(trained).recommend_all(matrix, AllLists(5))))
        assert torch.get_num_threads() == 3, "the threads of the caller are changed"
    finally:
        torch.set_num_threads(threads)
    assert [sorted(in_use) for in_use in blas_threads] == [[1] * len(in_use) for in_use in blas_threads]
    assert len(blas_threads) > 1
    values = ["score", "because_share", "because"]
    assert parts.drop(values).equals(whole.drop(values))
    assert parts["score"].to_numpy() == pytest.approx(whole["score"].to_numpy(), abs=1e-4)


def test_recommend_all_agrees_with_single_requests(trained: TrainedModel, matrix: UserItemMatrix) -> None:
    table = pl.concat(list(Ranker(trained).recommend_all(matrix, AllLists(5))))
    for user in (0, 7, 21):
        rows = table.filter(pl.col("user_id") == user)
        alone = recommend_to(trained, own(matrix, user), 5)
        assert rows["repo_id"].to_list() == [entry.repo_id for entry in alone]
        assert rows["rank"].to_list() == [entry.rank for entry in alone]
        assert rows["because"].to_list() == [[reason.full_name for reason in entry.because] for entry in alone]
        shares = [[reason.share for reason in entry.because] for entry in alone]
        for entries, expected in zip(rows["because_share"].to_list(), shares, strict=True):
            assert entries == pytest.approx(expected, abs=1e-4)
    bare = pl.concat(list(Ranker(trained).recommend_all(matrix, AllLists(5, reasons=0))))
    assert bare["repo_id"].to_list() == table["repo_id"].to_list()
    assert bare["because"].list.len().to_list() == [0] * bare.height


def test_model_serves_a_matrix_with_other_columns(trained: TrainedModel, matrix: UserItemMatrix) -> None:
    order = np.array([*range(3, 20), 0])  # two columns are missing, and the others are permuted
    moved = UserItemMatrix(
        matrix.stars[:, order].tocsr(), matrix.user_ids, matrix.logins, matrix.repo_ids[order], matrix.full_names[order]
    )
    table = pl.concat(list(Ranker(trained).recommend_all(moved, AllLists(3))))
    for user in (0, 9):
        known = [repo_id for repo_id in own(matrix, user) if repo_id - FIRST not in (1, 2)]
        rows = table.filter(pl.col("user_id") == user)
        assert rows["repo_id"].to_list() == [entry.repo_id for entry in recommend_to(trained, known, 3)]


def test_unknown_star_counts_as_its_neighbours(trained: TrainedModel) -> None:
    catalogue = catalogue_of([*CATALOGUE_ROWS, row(777, full_name="new/plumber")])
    entries = recommend_to(trained, [FIRST + 777], 3, catalogue)
    assert {entry.kind for entry in entries} == {"personal"}
    assert all(item % 2 == 1 for item in ids(entries)), "they are not of its neighbours' kind"
    assert {entry.kind for entry in recommend_to(trained, [FIRST + 777], 3)} == {"popular"}, "without a catalogue"


def test_unknown_repository_is_ranked_like_its_neighbours(trained: TrainedModel, matrix: UserItemMatrix) -> None:
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
    entries = ranker.unseen_recommendations(RecommendationRequest(stars=plumber, n=5))
    assert [entry.full_name for entry in entries] == ["new/plumber", "new/painter"], "nothing is similar to x/y"
    assert {entry.kind for entry in entries} == {"new"}
    assert entries[0].because
    assert sum(reason.share for reason in entries[0].because) == pytest.approx(1.0)
    painter = ranker.unseen_recommendations(RecommendationRequest(stars=own(matrix, 2), n=1))
    assert [entry.full_name for entry in painter] == ["new/painter"]
    without = RecommendationRequest(stars=plumber, n=5, hidden=[FIRST + 777, FIRST + 778])
    assert ranker.unseen_recommendations(without) == []


def test_requests_are_scored_together_for_unknown_repositories_too(
    trained: TrainedModel, matrix: UserItemMatrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = Ranker(trained, catalogue_of([*CATALOGUE_ROWS, row(777, full_name="new/plumber"), row(778)]))
    requests = [RecommendationRequest(stars=own(matrix, user), n=5) for user in (3, 2, 4)] + [RecommendationRequest()]
    alone = [ranker.unseen_recommendations(replace(request, n=2)) for request in requests]
    lists = ranker.recommend_batch(requests)
    scored: list[int] = []
    score = type(trained.model).score

    def noted(model: Recommender, stars: Any) -> Any:
        scored.append(stars.shape[0])
        return score(model, stars)

    monkeypatch.setattr(type(trained.model), "score", noted)
    together = ranker.recommend_batch_with_unseen(requests, 2)
    assert scored == [4], "users one by one take ten times as long"
    assert [[entry.repo_id for entry in unseen] for _, unseen in together] == [
        [entry.repo_id for entry in unseen] for unseen in alone
    ]
    assert all(unseen for _, unseen in together)
    assert [[entry.repo_id for entry in ranked] for ranked, _ in together] == [
        [entry.repo_id for entry in ranked] for ranked in lists
    ]


def test_unknown_repository_is_ranked_by_sentence_embeddings(trained: TrainedModel, matrix: UserItemMatrix) -> None:
    """Both say that they are about painting; the vector of one says plumbing."""
    rows = [*CATALOGUE_ROWS, row(778, full_name="new/painter"), row(780, full_name="new/disguised")]
    by_terms = catalogue_of(rows)
    vectors = {entry["repo_id"]: [1.0, 0.1] if entry["repo_id"] % 2 == 0 else [0.1, 1.0] for entry in rows}
    embedded = catalogue_of(rows, embeddings_of(vectors | {FIRST + 780: [0.1, 1.0]}))
    request = RecommendationRequest(stars=own(matrix, 3), n=2)
    (first, second), (former, _) = (
        Ranker(trained, one).unseen_recommendations(request) for one in (embedded, by_terms)
    )
    assert (first.full_name, second.full_name) == ("new/disguised", "new/painter")
    assert first.score > second.score
    assert former.score == pytest.approx(second.score)
    assert all(int(reason.full_name.rpartition("-")[2]) % 2 == 1 for reason in first.because)
    (substitute,) = {entry.repo_id % 2 for entry in Ranker(trained, embedded).substitutes([FIRST + 780])[FIRST + 780]}
    assert substitute == 1, "as a star, it counts as plumbing, too"
