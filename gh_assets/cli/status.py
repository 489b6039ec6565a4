"""What is there: counts from Mongo and the buckets, for `gh-assets status` and the summary of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from gh_assets.collector.collection import STAR_EVENTS_ASSET
from gh_assets.collector.pipeline import CollectionState
from gh_assets.collector.star_sources.starred import StarredState
from gh_assets.errors import ModelNotFoundError
from gh_assets.github.ledger import MongoLedger
from gh_assets.github.outcomes import Outcome
from gh_assets.instance.storage import open_instance
from gh_assets.registry import CHAMPION, PURPOSE, Decision, ModelRegistry, Move, RegisteredModel
from gh_assets.services.connections import asset_store, connect_gcs, model_store, open_mongo
from gh_assets.services.world import world_identity
from gh_assets.serving.current_model import serving_candidates
from gh_assets.settings import Settings
from gh_assets.storage.mongo import Collections


def read_status(settings: Settings) -> dict[str, Any]:
    """Everything that `gh-assets status --json` prints.

    Returns
    -------
    dict
        ``world``; ``repos`` and ``repo_outcomes`` (named by a list now); ``partitions`` and ``partition_outcomes``
        (collected or tried; ``unlisted``: of no repository that a list names); ``star_sources`` (repositories by where
        their stars are from), ``lists_closed`` (repositories that do not let their stargazers be listed),
        ``lists_unproven`` (whose stored stars may lack some: the next run asks again); ``stars``,
        ``stars_taken_back``, ``users``, ``users_asked`` (for their own lists), ``archive_days``; ``quota`` by account
        and resource; ``matrix`` with ``rows``, ``cols``, ``nnz``, or None; ``models``; ``serving``, see `serving_json`;
        ``runs`` of Dagster by status.
    """
    with open_mongo(settings) as database:
        gcs = connect_gcs(settings)
        store = asset_store(settings, gcs)
        listed = Counter(
            str(document["outcome"])
            for document in database[Collections.REPOS].find({"lists": {"$ne": []}}, {"outcome": 1})
        )
        state = CollectionState(database)
        states = state.load().values()
        named = {
            str(d["partition"]) for d in database[Collections.REPOS].find({"lists": {"$ne": []}}, {"partition": 1})
        }
        claimed = database[Collections.META].find_one({"_id": "world"})
        matrix = store.read_matrix("user_item_matrix").stars if store.exists("user_item_matrix", "npz") else None
        registry = ModelRegistry(model_store(settings, gcs), database[Collections.MODELS])
        alias_holders = registry.alias_holders()
        found: dict[str, Any] = {
            "world": claimed["title"] if claimed else f"{world_identity(settings)[1]} (nothing collected yet)",
            "repos": listed.total(),
            "repo_outcomes": dict(listed),
            "partitions": 0,
            "partition_outcomes": dict(Counter(state.outcome.value for state in states)),
            "star_sources": dict(Counter(state.source for state in states if state.source is not None)),
            "lists_unproven": sum(s.outcome is Outcome.OK and not s.proven for s in states),
            "lists_closed": sum(state.closed_at is not None for state in states),
            "stars": sum(state.stars or 0 for state in states),
            "stars_taken_back": state.unstars.estimated_document_count(),
            "users": database[Collections.USERS].count_documents({}),
            "users_asked": sum(s.collected_at is not None for s in StarredState(database).load().values()),
            "archive_days": len(store.partitions(STAR_EVENTS_ASSET)),
            "quota": MongoLedger(database[Collections.GITHUB_BUDGETS]).known(),
            "matrix": None
            if matrix is None
            else {"rows": matrix.shape[0], "cols": matrix.shape[1], "nnz": int(matrix.nnz)},
            "models": [model_json(model, alias_holders) for model in registry.list()],
            "serving": serving_json(registry),
        }
    with open_instance() as instance:
        partitions = set(instance.get_dynamic_partitions("repo"))
        found["partitions"] = len(partitions)
        unlisted = len(partitions - named - {state.partition for state in states})
        if unlisted:
            found["partition_outcomes"][Outcome.UNLISTED.value] = unlisted
        found["runs"] = dict(Counter(run.status.value for run in instance.get_runs()))
    return found


def serving_json(registry: ModelRegistry) -> dict[str, Any] | None:
    """Which model serves people, and why the newest one does not.

    The bucket is asked whether a model is there, and what the gate could not load counts as such; no model is read.

    Returns
    -------
    dict or None
        ``model``, ``name`` and ``version`` (None: none can be loaded); ``champion`` (whether it was promoted) and
        ``why``; ``newest``, the model that was registered last; ``decision`` in sentences, its ``outcome``, ``by`` whom
        and ``at`` what time (None: there was none); ``skipped``: what is said of models that would serve, or would have
        competed, if they could be loaded. None where no model is registered.
    """
    models, decision, move = registry.list(), registry.decisions.last(), registry.aliases.current(PURPOSE, CHAMPION)
    if not models:
        return None
    unloadable = {} if decision is None else dict(decision.skipped)
    serves: RegisteredModel | None = None
    with suppress(ModelNotFoundError):
        for model in serving_candidates(registry):
            problem = registry.problem(model)
            if problem is not None:
                unloadable[model.title] = f"{model.title} cannot be loaded and is skipped: {problem}."
            elif model.title not in unloadable:
                serves = model
                break
    promoted = serves is not None and any(model == serves for model in registry.holders())
    is_champion = move is not None and serves is not None and (move.name, move.version) == (serves.name, serves.version)
    why = "None can be loaded." if serves is None else "It has the best score; none was promoted."
    if promoted:
        why = (
            move.why
            if move is not None and is_champion
            else "The champion cannot be loaded, and this was champion before it."
        )
    return {
        "model": None if serves is None else serves.title,
        "name": None if serves is None else serves.name,
        "version": None if serves is None else serves.version,
        "champion": promoted,
        "why": why,
        "newest": models[0].title,
        "decision": _decided(models[0], serves, decision, move),
        "outcome": None if decision is None else decision.outcome,
        "by": None if decision is None else decision.by,
        "at": None if decision is None else decision.time.isoformat(),
        "skipped": list(unloadable.values()),
    }


def _decided(
    newest: RegisteredModel, serves: RegisteredModel | None, decision: Decision | None, move: Move | None
) -> str:
    """Why the newest model serves or does not, in sentences."""
    if decision is None:
        return f"{newest.title} has not been judged yet: the next run, or the asset champion, does."
    said = [decision.summary]
    if decision.newest.get(newest.name, 0) < newest.version:
        said.append(f"{newest.title} was registered after that and has not been judged yet: the next run does.")
    elif newest.title not in decision.validation and newest.title not in decision.skipped and decision.validation:
        said.append(f"{newest.title} did not compete: the matrix is another one than it was trained on.")
    if decision.undecided:
        said.append("The next run, or the asset champion, judges again.")
    expected = decision.candidate if decision.outcome in ("promoted", "champion already") else decision.champion
    if move is not None and expected != f"{move.name} {move.version}" and serves is not None:
        said.append(f"Since then {move.by} made {move.name} {move.version} champion ({move.action}): {move.why}")
    return " ".join(said)


def model_json(
    model: RegisteredModel, alias_holders: Mapping[tuple[str, int], Sequence[str]], *, whole: bool = False
) -> dict[str, Any]:
    """A model for people and programs; times as ISO 8601 in UTC.

    Parameters
    ----------
    model : RegisteredModel
    held : mapping
        `ModelRegistry.alias_holders`.
    whole : bool
        With all that its document says.
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
