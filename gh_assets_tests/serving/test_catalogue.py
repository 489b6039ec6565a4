"""The catalogue: similarity in content and filters."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.schemas import REPO_EMBEDDINGS
from gh_assets.serving.catalogue import MIN_EMBEDDING_SIMILARITY, Description
from gh_assets.serving.requests import DEFAULT_FILTERS, Filters
from gh_assets_tests.support.catalogues import catalogue_of
from gh_assets_tests.support.embeddings import embeddings_of


def test_neighbours_share_topics_language_or_words() -> None:
    server = {"topics": ["http", "server"], "language": "Go", "description": "A fast server"}
    router = {"topics": ["http", "router"], "language": "Go", "description": "Routes to a server"}
    client = {"topics": ["http"], "language": "Rust", "description": "Requests"}
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
    all_ids = np.array([1, 2, 3, 4, 6, 99])
    neighbours = catalogue.neighbours_of([1], all_ids)[0]
    assert [entry.repo_id for entry in neighbours] == [3, 2], "what they share does not decide the order"
    assert neighbours[0].likeness > neighbours[1].likeness
    assert [entry.repo_id for entry in catalogue.neighbours_of([1], np.array([2, 4, 6]))[0]] == [2], "not a candidate"
    assert catalogue.neighbours_of([4, 99], all_ids) == [[], []]
    assert len(catalogue_of([])) == 0


def test_repositories_with_embeddings_are_compared_by_them() -> None:
    rows = [
        {"repo_id": 1, "full_name": "a/one", "topics": ["http"]},
        {"repo_id": 2, "full_name": "b/two", "topics": ["css"]},
        {"repo_id": 3, "full_name": "c/three", "topics": ["http"]},
        {"repo_id": 4, "full_name": "d/four", "topics": ["http"]},
        {"repo_id": 5, "full_name": "e/five"},
    ]
    vectors = {99: [1.0, 0.0], 1: [1.0, 0.0], 2: [1.0, 0.5], 3: [0.2, 1.0]}
    catalogue = catalogue_of(rows, embeddings_of(vectors))
    first, fourth, unknown = catalogue.neighbours_of([1, 4, 99], np.arange(1, 6))
    assert [entry.repo_id for entry in first] == [2], "3 is too far away, 4 has no vector"
    assert first[0].likeness == pytest.approx(1 / np.hypot(1, 0.5), abs=1e-3)
    assert {entry.repo_id for entry in fourth} == {1, 3}, "without a vector, topics count"
    assert unknown == [], "a vector alone makes no repository of the catalogue"
    assert catalogue.neighbours_of([1], np.array([3, 2]))[0] == first
    new = Description("f/six", topics=["http"])
    assert {entry.repo_id for entry in catalogue.neighbours_of([new], np.arange(1, 6))[0]} == {1, 3, 4}
    assert catalogue.content_model == "sentence embeddings; TF-IDF for 2 repositories without one"
    assert catalogue_of(rows[:3], embeddings_of(vectors)).content_model == "sentence embeddings"
    for nothing in (None, REPO_EMBEDDINGS.empty()):
        by_terms = catalogue_of(rows, nothing)
        assert by_terms.content_model == "TF-IDF"
        assert {entry.repo_id for entry in by_terms.neighbours_of([1], np.arange(1, 6))[0]} == {3, 4}


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_neighbours_by_embeddings_are_the_nearest_candidates(size: int, k: int, seed: int) -> None:
    random = Random(seed)
    directions = {place: [random.gauss(0, 1) for _ in range(3)] for place in range(size) if random.random() < 0.8}
    catalogue = catalogue_of(
        [{"repo_id": place, "full_name": f"owner-{place}/{place}"} for place in range(size)], embeddings_of(directions)
    )
    among = np.array([place for place in range(size) if random.random() < 0.7], np.int64)
    for place, found in zip(directions, catalogue.neighbours_of(list(directions), among, k), strict=True):
        vectors = catalogue.embeddings.astype(np.float64)
        cosines = {int(other): float(vectors[place] @ vectors[other]) for other in among if other != place}
        near = sorted((cosine for cosine in cosines.values() if cosine >= MIN_EMBEDDING_SIMILARITY), reverse=True)
        assert [entry.likeness for entry in found] == pytest.approx(near[:k], abs=1e-5)
        assert all(entry.likeness == pytest.approx(cosines[entry.repo_id], abs=1e-5) for entry in found)


def test_repository_without_metadata_passes_only_filters_that_need_none() -> None:
    catalogue = catalogue_of([{"repo_id": 1, "full_name": "a/one"}])
    assert DEFAULT_FILTERS.accepts_unknown
    for filters in (Filters(language="go"), Filters(topics=("x",)), Filters(owner="b"), Filters(min_stars=1)):
        assert not filters.accepts_unknown
        assert not catalogue.passing(filters).any()
    assert catalogue.passing(Filters(owner="A")).all()
