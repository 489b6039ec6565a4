"""Embeddings: which texts are embedded, and what is kept."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.recommender.text.sentence_encoder import DIMENSION, TextEncoder
from gh_assets.schemas import REPO_EMBEDDINGS, REPOS
from gh_assets.serving.embeddings import read_embeddings, repository_text, text_hash, update_embeddings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.embeddings import HashEncoder, embeddings_of

REPOSITORY = st.fixed_dictionaries(
    {
        "full_name": st.sampled_from(["a/one", "b/two", "c/three"]),
        "description": st.sampled_from([None, "", "A server"]),
        "topics": st.sampled_from([None, [], ["http"]]),
        "language": st.sampled_from([None, "Go"]),
    }
)
LISTING = st.dictionaries(st.integers(1, 8), REPOSITORY, max_size=8)


def repos_of(listing: dict[int, dict[str, Any]]) -> pl.DataFrame:
    blank = dict.fromkeys(REPOS.columns) | {"topics": [], "lists": [], "outcome": "ok"}
    rows = [blank | row | {"repo_id": repo_id} for repo_id, row in listing.items()]
    gone = blank | {"full_name": "gone/away", "outcome": "gone"}
    return pl.DataFrame([gone, *rows], schema=REPOS.dtypes)


def text_of(row: dict[str, Any]) -> str:
    return repository_text(row["full_name"], row["description"], row["topics"], row["language"])


@given(st.lists(LISTING, min_size=1, max_size=4))
def test_only_new_and_changed_texts_are_embedded(listings: list[dict[int, dict[str, Any]]]) -> None:
    stored: pl.DataFrame | None = None
    before: dict[int, str] = {}
    for listing in listings:
        encoder = HashEncoder()
        update = update_embeddings(repos_of(listing), stored, [encoder].pop)
        texts = {repo_id: text_of(row) for repo_id, row in listing.items()}
        changed = {repo_id: text for repo_id, text in texts.items() if before.get(repo_id) != text}
        assert sorted(encoder.texts) == sorted(changed.values())
        assert (update.embedded, update.missing) == (len(changed), 0)
        table = update.table
        assert REPO_EMBEDDINGS.problem(table) is None
        assert table["repo_id"].to_list() == sorted(listing)
        assert table["text_hash"].to_list() == [text_hash(texts[repo_id]) for repo_id in sorted(listing)]
        expected = HashEncoder().encode([texts[repo_id] for repo_id in sorted(listing)])
        np.testing.assert_array_equal(table["vector"].to_numpy(), expected.astype(np.float16))
        stored, before = table, texts


def test_encoder_is_loaded_only_for_a_text_that_needs_it() -> None:
    listing = {1: {"full_name": "a/one"}, 2: {"full_name": "b/two"}}
    table = update_embeddings(repos_of(listing), None, HashEncoder).table

    def load() -> TextEncoder:
        pytest.fail("nothing has changed")

    assert update_embeddings(repos_of(listing), table, load).table.equals(table)


def test_without_an_encoder_vectors_of_unchanged_texts_are_kept() -> None:
    listing: dict[int, dict[str, Any]] = {1: {"full_name": "a/one"}, 2: {"full_name": "b/two"}}
    table = update_embeddings(repos_of(listing), None, HashEncoder).table
    changed = listing | {2: {"full_name": "b/two", "description": "Something else"}, 3: {"full_name": "c/three"}}
    update = update_embeddings(repos_of(changed), table, None)
    assert update.table.equals(table[:1])
    assert (update.embedded, update.missing) == (0, 2)
    assert update_embeddings(repos_of(listing), None, None).table.equals(REPO_EMBEDDINGS.empty())


def test_progress_counts_the_texts_of_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gh_assets.serving.embeddings.CHUNK", 2)
    steps: list[tuple[int, int]] = []
    listing = {repo_id: {"full_name": f"a/{repo_id}"} for repo_id in range(1, 6)}
    update = update_embeddings(repos_of(listing), None, HashEncoder, lambda *step: steps.append(step))
    assert steps == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert update.table.height == 5


def test_text_has_the_words_of_the_name_and_all_that_is_known() -> None:
    assert repository_text("a-b/c_d.e", " Does it ", ["x", "y"], "Go") == "a b c d e. Does it. x, y. Go"
    assert repository_text("a/b", None, None, None) == "a b"
    assert repository_text("a/b", " ", [], "") == "a b"


def test_unreadable_embeddings_are_none(objects: ObjectStore) -> None:
    store = AssetStore(objects, 1)
    assert read_embeddings(store) is None, "there are none yet"
    table = embeddings_of({1: [1.0]})
    assert table["vector"].to_numpy().shape == (1, DIMENSION)
    store.write_table("repo_embeddings", table)
    stored = read_embeddings(store)
    assert stored is not None
    assert stored.equals(table)
    name = next(entry.name for entry in objects.list("") if "repo_embeddings" in entry.name)
    objects.write(name, b"no table")
    assert read_embeddings(store) is None
