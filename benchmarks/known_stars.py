"""The hybrid beside every other model, with 1, 2, 3, 5, 10 and all stars of each user known.

Run: python benchmarks/known_stars.py [--interactions FILE] [--minimum 1] [--splits 0 1 2] [--folder FOLDER]
Without --interactions: the synthetic world.

All models are fitted on the training users of each split, and everything is chosen on its validation users. The test
users' histories are cut, the same users at each length. Prints NDCG@100 and Recall@20 over all splits' test users, and
the mean difference between the hybrid and the best other model of each length, paired, with its 95 % bootstrap
interval; the same for all known stars and each model. Fitted models are kept in the folder, one per data set, so that
an interrupted run goes on there, and the splits can be run one by one (--models names those that are wanted).
"""

import argparse
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from held_out import matrix_of
from interactions import read_interactions
from numpy.typing import NDArray

from gh_assets.embedded.standin.synthetic import synthetic_world
from gh_assets.recommender import (
    ALS,
    GFCF,
    SVDAE,
    GraphFilter,
    Hybrid,
    ItemKNN,
    MultVAE,
    Popularity,
    Recommender,
    RecVAE,
    RecVAEConfig,
    RP3Beta,
    evaluate_users,
    strong_generalization_split,
)
from gh_assets.recommender.data.splits import StrongGeneralizationSplit, cut_histories
from gh_assets.recommender.evaluation.evaluation import LENGTHS, bootstrap
from gh_assets.recommender.models.base import CONFIG_FILE
from gh_assets.recommender.models.baselines import linear_model

METRICS = ("ndcg@100", "recall@20")


def fitted(model: Recommender, split: StrongGeneralizationSplit, folder: Path) -> Recommender:
    """Fit a model and keep it in a folder, or return what is kept there."""
    path = folder / model.name
    if (path / CONFIG_FILE).exists():
        return type(model).load(path)
    model.fit(split.train, split.validation).save(path)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path)
    parser.add_argument("--minimum", type=int, default=1)
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--models", nargs="+", help="Names of the models beside the hybrid and its parts; all.")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        compare(options, options.folder or Path(temporary))


def compare(options: argparse.Namespace, folder: Path) -> None:
    matrix = matrix_of(synthetic_world())
    if options.interactions:
        matrix = read_interactions(options.interactions, options.minimum)
    print(f"{matrix.shape[0]:,} users × {matrix.shape[1]:,} items, {matrix.nnz:,} pairs", flush=True)
    collected: dict[tuple[str, int | None, str], list[NDArray[np.float64]]] = defaultdict(list)
    for seed in options.splits:
        split, place = strong_generalization_split(matrix, seed=seed), folder / str(seed)
        recvae = RecVAE(RecVAEConfig(epochs=options.epochs, seed=seed), checkpoints=place / "checkpoints")
        others = [Popularity(), ItemKNN(), RP3Beta(), ALS(), MultVAE(), SVDAE()]
        others = [model for model in others if options.models is None or model.name in options.models]
        parts = [linear_model(matrix.shape[1]), GraphFilter(), GFCF(), recvae]
        models = [fitted(model, split, place) for model in [*others, *parts]]
        *closed_form, trained = models[len(others) :]
        hybrid = Hybrid(trained, *closed_form).fit(split.train, split.validation)
        for row in hybrid.describe():
            print(f"split {seed}: " + ", ".join(f"{name} {value:.2f}" for name, value in row.items()), flush=True)
        for model in [*models, hybrid]:
            for length in LENGTHS:
                users = evaluate_users(model, cut_histories(split.test_fold_in, length, seed=1), split.test_held_out)
                for metric in METRICS:
                    collected[model.name, length, metric].append(users[metric])
    joined = {key: np.concatenate(values) for key, values in collected.items()}
    names = list(dict.fromkeys(name for name, *_ in joined if name != Hybrid.name))
    for metric in METRICS:
        print(f"{metric:<14}" + "".join(f"{'all' if length is None else length:>9}" for length in LENGTHS))
        for name in [*names, Hybrid.name]:
            print(f"{name:<14}" + "".join(f"{joined[name, length, metric].mean():9.4f}" for length in LENGTHS))
        for length in LENGTHS:
            own = joined[Hybrid.name, length, metric]
            best = max(names, key=lambda name: float(joined[name, length, metric].mean()))
            for name in names if length is None else [best]:
                other = joined[name, length, metric]
                difference, ratio = bootstrap(own - other), own.mean() / other.mean()
                print(f"{length or 'all'} known: hybrid - {name}: {difference}, {ratio:.3f} ×")


if __name__ == "__main__":
    main()
