"""The catalogue: similarity in content and filters."""

import numpy as np

from gh_assets.serving.requests import DEFAULT_FILTERS, Filters
from gh_assets_tests.support.catalogues import catalogue_of


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


def test_repository_without_metadata_passes_only_filters_that_need_none() -> None:
    catalogue = catalogue_of([{"repo_id": 1, "full_name": "a/one"}])
    assert DEFAULT_FILTERS.accepts_unknown
    for filters in (Filters(language="go"), Filters(topics=("x",)), Filters(owner="b"), Filters(min_stars=1)):
        assert not filters.accepts_unknown
        assert not catalogue.passing(filters).any()
    assert catalogue.passing(Filters(owner="A")).all()
