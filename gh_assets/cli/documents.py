"""The JSON documents that commands print: the status, and registered models."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gh_assets.collector.history_state import HistoryStates
from gh_assets.collector.star_sources.starred_state import StarredState
from gh_assets.collector.state import CollectionState
from gh_assets.github.ledger import MongoLedger
from gh_assets.github.outcomes import Outcome
from gh_assets.instance.configuration import open_instance
from gh_assets.registry import ModelRegistry, RegisteredModel
from gh_assets.schemas import STAR_EVENTS
from gh_assets.services.connections import asset_store, connect_gcs, model_store, open_mongo
from gh_assets.services.world import world_identity
from gh_assets.serving.current_model import describe_current
from gh_assets.settings import Settings
from gh_assets.storage.mongo import Collections, MetaId


def read_status(settings: Settings) -> dict[str, Any]:
    """Return the document of `gh-assets status --json`.

    Returns
    -------
    dict
        * ``world``: the GitHub that the data are from.
        * ``repos``, ``repo_outcomes``: repositories that a list names now, and their outcomes.
        * ``partitions``, ``partition_outcomes``: partitions by outcome of their collection; ``unlisted`` are those
          of repositories that no list names.
        * ``star_sources``: repositories by the source of their stars.
        * ``lists_closed``: repositories that do not let their stargazers be listed.
        * ``lists_unproven``: repositories whose stored stars may be incomplete; the next run reads them again.
        * ``feeds``, ``feeds_with_gaps``: event feeds that were looked at, and those in which the last look found a gap.
        * ``histories``, ``histories_complete``: star histories that are known, and those back to the creation.
        * ``stars``, ``stars_taken_back``, ``archive_days``.
        * ``users``, ``users_asked``: users, and those whose own starred lists were read.
        * ``quota``: the remaining quota by account and resource.
        * ``matrix``: ``rows``, ``cols`` and ``nnz``, or None.
        * ``models``: see `model_json`; ``serving``: see `describe_current`.
        * ``runs``: Dagster's runs by status.
    """
    with open_mongo(settings) as database, open_instance(settings) as instance:
        gcs = connect_gcs(settings)
        store = asset_store(settings, gcs)
        registry = ModelRegistry(model_store(settings, gcs), database[Collections.MODELS])
        alias_holders = registry.alias_holders()
        world = database[Collections.META].find_one({"_id": MetaId.WORLD})
        listed = list(database[Collections.REPOS].find({"lists": {"$ne": []}}, {"outcome": 1, "partition": 1}))
        partitions = set(instance.get_dynamic_partitions("repo"))
        collection = CollectionState(database)
        states = collection.load().values()
        feeds = [state.feed for state in states if state.feed is not None and state.feed.looked_at is not None]
        histories = [state for state in HistoryStates(database).load().values() if state.read_until is not None]
        outcomes = Counter(state.outcome.value for state in states)
        known = {state.partition for state in states} | {str(repository["partition"]) for repository in listed}
        outcomes[Outcome.UNLISTED.value] += len(partitions - known)
        stars = store.read_matrix("user_item_matrix").stars if store.describe("user_item_matrix", "npz") else None
        return {
            "world": str(world["title"]) if world else f"{world_identity(settings)[1]} (nothing collected yet)",
            "repos": len(listed),
            "repo_outcomes": dict(Counter(str(repository["outcome"]) for repository in listed)),
            "partitions": len(partitions),
            "partition_outcomes": dict(+outcomes),
            "star_sources": dict(Counter(state.source for state in states if state.source is not None)),
            "lists_unproven": sum(state.outcome is Outcome.OK and not state.proven for state in states),
            "lists_closed": sum(state.closed_at is not None for state in states),
            "feeds": len(feeds),
            "feeds_with_gaps": sum(feed.has_new_gap for feed in feeds),
            "histories": len(histories),
            "histories_complete": sum(state.complete for state in histories),
            "stars": sum(state.stars or 0 for state in states),
            "stars_taken_back": collection.unstars.estimated_document_count(),
            "users": database[Collections.USERS].count_documents({}),
            "users_asked": sum(state.collected_at is not None for state in StarredState(database).load().values()),
            "archive_days": len(store.partitions(STAR_EVENTS.name)),
            "quota": MongoLedger(database[Collections.GITHUB_BUDGETS]).known(),
            "matrix": None
            if stars is None
            else {"rows": stars.shape[0], "cols": stars.shape[1], "nnz": int(stars.nnz)},
            "models": [model_json(model, alias_holders) for model in registry.list()],
            "serving": describe_current(registry),
            "runs": dict(Counter(run.status.value for run in instance.get_runs())),
        }


def model_json(
    model: RegisteredModel, alias_holders: Mapping[tuple[str, int], Sequence[str]], *, whole: bool = False
) -> dict[str, Any]:
    """Return the document of a registered model, with times as ISO 8601 in UTC.

    Parameters
    ----------
    model : RegisteredModel
    alias_holders : mapping
        `ModelRegistry.alias_holders`.
    whole : bool
        Include every field of the registered document.
    """
    document = model.model_dump(mode="json")
    names = ("name", "version", "tags", "score", "metric", "time", "object", "bucket", "size", "sha256", "run_id")
    shown = {name: document[name] for name in names} | {"metrics": document["metrics"], "config": document["config"]}
    return {
        **shown,
        "tag": model.tag,
        "aliases": list(alias_holders.get((model.name, model.version), ())),
        **({name: value for name, value in document.items() if name not in shown} if whole else {}),
    }
