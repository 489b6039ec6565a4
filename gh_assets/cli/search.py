"""The hyper-parameter search of `gh-assets tune`, and the registration of its best model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

from gh_assets.errors import InputError
from gh_assets.recommender.models.recvae import RecVAEConfig
from gh_assets.recommender.training.search import SearchResult, Trial, search
from gh_assets.recommender.training.training import result_of, split_of
from gh_assets.registry import ModelRegistry, RegisteredModel
from gh_assets.registry.training import TUNED, register
from gh_assets.services.connections import asset_store, model_store, open_mongo
from gh_assets.settings import Settings
from gh_assets.storage.mongo import Collections


class Tuned(NamedTuple):
    """A registered model, and the search that found it."""

    registered: RegisteredModel
    result: SearchResult


def search_and_register(
    settings: Settings,
    minutes: float,
    *,
    epochs: int | None = None,
    seed: int = 0,
    on_trial: Callable[[Trial, float], None] | None = None,
) -> Tuned:
    """Search, and register the best model with the tag ``tuned`` and its trials.

    From then on, the asset `recvae_model` trains with its hyper-parameters.

    Raises
    ------
    InputError
        If there is no user-item matrix yet.
    """
    store = asset_store(settings)
    if store.describe("user_item_matrix", "npz") is None:
        raise InputError("There is no user-item matrix to search on yet: make one with gh-assets run.")
    matrix = store.read_matrix("user_item_matrix")
    split = split_of(matrix, seed)
    base = RecVAEConfig(seed=seed) if epochs is None else RecVAEConfig(seed=seed, epochs=epochs)
    found = search(split, base, minutes, on_trial=on_trial)
    trained = result_of(matrix, split, found.model, {})
    config = {
        **asdict(found.config),
        "search": {"minutes": minutes, "score": found.score, "trials": [asdict(trial) for trial in found.trials]},
    }
    with open_mongo(settings) as database:
        registry = ModelRegistry(model_store(settings), database[Collections.MODELS])
        return Tuned(register(registry, trained, tag=TUNED, config=config), found)
