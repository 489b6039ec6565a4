"""What repositories are about, as a part of the blend for few known stars, and for repositories that no model knows.

Run: python benchmarks/content.py --interactions FILE [--descriptions awesome/*.md] [--splits 3]

FILE is a Parquet file of `repo` and `login`. A repository is described by its name, and by its line in one of the
awesome lists if there is one. Contents are compared as TF-IDF of the catalogue, and as sentence embeddings if the extra
`embeddings` is installed. The first table ranks a fifth of the repositories, of which no star is known, by their
similarity to the user's stars. The second ranks them as the product does: by what a graph filter of the other
repositories predicts for their nearest neighbours in content. The third adds a content to the graph filter, with a
weight and a weight of popularity chosen on the validation users; the difference is paired, on the test users of all
splits.
"""

import argparse
import itertools
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.recommender import GraphFilter, strong_generalization_split
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.data.splits import cut_histories
from gh_assets.recommender.evaluation.evaluation import bootstrap
from gh_assets.recommender.evaluation.metrics import DEPTH, MAIN_METRIC, rank_items, ranking_metrics
from gh_assets.recommender.text.sentence_encoder import SentenceEncoder, TextEncoder, is_installed
from gh_assets.schemas import REPOS
from gh_assets.serving.catalogue import Catalogue
from gh_assets.serving.embeddings import update_embeddings
from gh_assets.serving.ranking import SUBSTITUTES_PER_STAR

LENGTHS = (1, 2, 3, 5, 10)
WEIGHTS, POPULARITY_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8), (0.0, 0.2, 0.5)
COLD_SHARE = 0.2

LINK = re.compile(r"\(https?://github\.com/([\w.-]+/[\w.-]+)/?(?:#[^)]*)?\)(?:\W*[-–—:]\s*)?([^\n]*)")

Similarity = NDArray[np.float32]
"""Cosines of all repositories, shape (items, items), 0 on the diagonal."""


def described(names: Sequence[str], lists: Sequence[Path]) -> list[str]:
    """Return the description of each repository in the lists; empty if there is none."""
    found: dict[str, str] = {}
    for path in lists:
        for name, text in LINK.findall(path.read_text(encoding="utf-8")):
            found.setdefault(name.lower(), re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)[:200])
    return [found.get(name.lower(), "") for name in names]


def catalogue_of(
    names: Sequence[str], descriptions: Sequence[str], encoder: Callable[[], TextEncoder] | None = None
) -> Catalogue:
    """Return a catalogue, whose ids are places, with sentence embeddings if an encoder is given."""
    columns = {"repo_id": range(len(names)), "full_name": names, "description": descriptions}
    frame = pl.DataFrame(columns, schema_overrides={name: REPOS.dtypes[name] for name in columns})
    missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in REPOS.dtypes.items() if name not in columns]
    repos = frame.with_columns(missing).select(list(REPOS.dtypes))
    return Catalogue(repos, update_embeddings(repos, None, encoder).table)


def similarity(catalogue: Catalogue) -> Similarity:
    if not catalogue.embedded.all():
        return _without_itself((catalogue.content @ catalogue.content.T).toarray())
    vectors = catalogue.embeddings - catalogue.embeddings.mean(0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return _without_itself(vectors @ vectors.T)


def _without_itself(cosines: NDArray[np.float32]) -> Similarity:
    np.fill_diagonal(cosines, 0.0)
    return cosines.astype(np.float32)


def standardized(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    spread = np.maximum(scores.std(axis=-1, keepdims=True), np.float32(1e-9))
    result: NDArray[np.float32] = (scores - scores.mean(axis=-1, keepdims=True)) / spread
    return result


def measured(scores: NDArray[np.float32], given: Csr, hidden: Csr) -> NDArray[np.float64]:
    ranked = rank_items(scores.copy(), given, min(DEPTH, given.shape[1]))[0]
    return ranking_metrics(ranked, hidden)[MAIN_METRIC]


def compare_known(stars: Csr, contents: Mapping[str, Similarity], splits: int) -> None:
    values = defaultdict(list)
    for seed, length in itertools.product(range(splits), LENGTHS):
        split = strong_generalization_split(stars, seed=seed)
        model = GraphFilter().fit(split.train, split.validation)
        popularity = standardized(np.log1p(np.bincount(split.train.indices, minlength=stars.shape[1])).astype("f4"))
        given = [cut_histories(part[0], length) for part in (split.validation, split.test)]
        base = [standardized(model.predict(part)) for part in given]
        hidden = [split.validation_held_out, split.test_held_out]

        def scored(
            part: int,
            weights: tuple[float, float],
            content: Similarity,
            *,
            given: Sequence[Csr] = given,
            base: Sequence[NDArray[np.float32]] = base,
            hidden: Sequence[Csr] = hidden,
            popularity: NDArray[np.float32] = popularity,
        ) -> NDArray[np.float64]:
            about = standardized(given[part] @ content) if weights[0] else np.float32(0)
            return measured(base[part] + weights[0] * about + weights[1] * popularity, given[part], hidden[part])

        for name, content in contents.items():
            chosen = [
                max(itertools.product(allowed, POPULARITY_WEIGHTS), key=lambda both: scored(0, both, content).mean())
                for allowed in (WEIGHTS, (0.0,))
            ]
            with_content, without = (scored(1, weights, content) for weights in chosen)
            values[name, length].append((with_content, without))
    for (name, length), pairs in values.items():
        both = np.concatenate([np.stack(pair) for pair in pairs], axis=1)
        print(f"{name}, {length} known: {both[1].mean():.4f} without, difference {bootstrap(both[0] - both[1])}")


def compare_cold(stars: Csr, contents: Mapping[str, Similarity], splits: int) -> None:
    values = defaultdict(list)
    for seed in range(splits):
        cold = np.random.default_rng(seed).random(stars.shape[1]) < COLD_SHARE
        known, unknown = stars[:, ~cold], stars[:, cold]
        both = (np.diff(known.indptr) > 0) & (np.diff(unknown.indptr) > 0)
        known, unknown = sp.csr_array(known[both]), sp.csr_array(unknown[both])
        nothing = sp.csr_array(unknown.shape, dtype=np.float32)
        for length in LENGTHS:
            given = cut_histories(known, length)
            for name, content in contents.items():
                scores = (given @ content[np.ix_(~cold, cold)]).astype(np.float32)
                values[name, length].append(measured(scores, nothing, unknown))
            rng = np.random.default_rng(seed)
            values["at random", length].append(measured(rng.random(unknown.shape, np.float32), nothing, unknown))
    for (name, length), parts in values.items():
        print(f"{name}, {length} known, repositories that no model knows: {bootstrap(np.concatenate(parts))}")


def compare_new(stars: Csr, catalogues: Mapping[str, Catalogue], splits: int) -> None:
    values, left_out = defaultdict(list), defaultdict(list)
    for seed in range(splits):
        cold = np.random.default_rng(seed).random(stars.shape[1]) < COLD_SHARE
        known_ids, cold_ids = np.flatnonzero(~cold), np.flatnonzero(cold)
        split = strong_generalization_split(stars, seed=seed)
        fold_in, held_out = (_columns(part, known_ids) for part in split.validation)
        model = GraphFilter().fit(_columns(split.train, known_ids), (fold_in, held_out))
        test: Csr = sp.csr_array(sum(split.test))
        unknown = _columns(test, cold_ids)
        rated = np.diff(unknown.indptr) > 0
        unknown, known = sp.csr_array(unknown[rated]), sp.csr_array(_columns(test, known_ids)[rated])
        nothing = sp.csr_array(unknown.shape, dtype=np.float32)
        for name, catalogue in catalogues.items():
            neighbours = catalogue.neighbours_of(cold_ids.tolist(), known_ids, SUBSTITUTES_PER_STAR)
            weights = np.zeros((len(known_ids), len(cold_ids)), np.float32)
            for column, near in enumerate(neighbours):
                rows = np.searchsorted(known_ids, [one.repo_id for one in near])
                weights[rows, column] = np.array([one.likeness for one in near]) / sum(one.likeness for one in near)
            without = np.array([not near for near in neighbours])
            left_out[name].append(without.mean())
            for length in LENGTHS:
                scores = model.predict(cut_histories(known, length)) @ weights
                scores[:, without] = scores.min() - 1
                values[name, length].append(measured(scores, nothing, unknown))
    for name, shares in left_out.items():
        print(f"{name}, as the product ranks new repositories: {np.mean(shares):.1%} have no neighbour")
    for (name, length), parts in values.items():
        print(f"{name}, {length} known, as the product ranks new repositories: {bootstrap(np.concatenate(parts))}")


def _columns(stars: Csr, columns: NDArray[np.int64]) -> Csr:
    chosen: Csr = sp.csr_array(stars[:, columns])
    chosen.sort_indices()
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path, required=True)
    parser.add_argument("--descriptions", type=Path, nargs="*", default=[])
    parser.add_argument("--splits", type=int, default=3)
    options = parser.parse_args()
    pairs = pl.read_parquet(options.interactions).select("login", "repo").unique()
    rows, columns = (pairs[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ("login", "repo"))
    stars: Csr = sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)))
    names = pairs["repo"].unique().sort().to_list()
    descriptions = described(names, options.descriptions)
    print(f"{stars.shape[0]:,} users, {stars.shape[1]:,} repositories, {sum(map(bool, descriptions)):,} described")
    catalogues = {"TF-IDF": catalogue_of(names, descriptions)}
    if is_installed():
        started = time.process_time()
        catalogues["embeddings"] = catalogue_of(names, descriptions, SentenceEncoder)
        seconds = (time.process_time() - started) / len(names) * 1000
        print(f"Embedding 1,000 texts: {seconds:.1f} s of processor time")
    contents = {name: similarity(catalogue) for name, catalogue in catalogues.items()}
    compare_cold(stars, contents, options.splits)
    compare_new(stars, catalogues, options.splits)
    compare_known(stars, contents, options.splits)


if __name__ == "__main__":
    main()
