"""`gh-assets tune`: searches hyper-parameters on the current matrix and registers the best model found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from gh_assets.assets.recvae_model import TUNED, register
from gh_assets.errors import InputError
from gh_assets.recommender.models.recvae import RecVAEConfig
from gh_assets.recommender.training.search import SearchResult, Trial, search
from gh_assets.recommender.training.training import result_of, split_of
from gh_assets.registry import ModelRegistry, RegisteredModel
from gh_assets.services.connections import asset_store, model_store, open_mongo
from gh_assets.settings import Settings
from gh_assets.storage.mongo import Collections


@dataclass(frozen=True)
class Tuned:
    """What a search found, and the model that it registered."""

    registered: RegisteredModel
    found: SearchResult


def tune(
    settings: Settings,
    minutes: float,
    *,
    epochs: int | None = None,
    seed: int = 0,
    on_trial: Callable[[Trial, float], None] | None = None,
) -> Tuned:
    """Search, and register the best model under the tag ``tuned``, its trials beside its configuration.

    From then on the asset `recvae_model` trains with these hyper-parameters.

    Raises
    ------
    InputError
        If there is no user-item matrix yet.
    """
    store = asset_store(settings)
    if not store.exists("user_item_matrix", "npz"):
        raise InputError("There is no user-item matrix yet, so there is nothing to search on: gh-assets run.")
    matrix = store.read_matrix("user_item_matrix")
    split = split_of(matrix, seed)
    base = RecVAEConfig(seed=seed) if epochs is None else RecVAEConfig(seed=seed, epochs=epochs)
    found = search(split, base, minutes, on_trial=on_trial)
    result = result_of(matrix, split, found.model, {})
    described = {
        **asdict(found.config),
        "search": {"minutes": minutes, "score": found.score, "trials": [asdict(trial) for trial in found.trials]},
    }
    with open_mongo(settings) as database:
        registry = ModelRegistry(model_store(settings), database[Collections.MODELS])
        return Tuned(register(registry, result, tag=TUNED, config=described), found)
