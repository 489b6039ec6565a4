"""Running the whole chain in this process, for `gh-assets run`: the same assets and instance as `dagster dev`."""

import uuid
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterExecutionInterruptedError, DagsterInstance

from gh_assets.assets.definition import REPO_PARTITIONS
from gh_assets.assets.retries import without_retries
from gh_assets.automation.archive_ops import read_days_of_the_archive
from gh_assets.automation.history_ops import read_due_histories
from gh_assets.automation.jobs import archive_job, histories_job, range_tags, refresh_job, repos_job
from gh_assets.cli.failures import EXPLAINED_ERRORS, cause_of, explain
from gh_assets.cli.options import ChainOptions
from gh_assets.collector.gharchive import days_of
from gh_assets.collector.seed_users import read_seeds_file
from gh_assets.collector.star_sources.base import SOURCES
from gh_assets.collector.stars_file import read_stars
from gh_assets.embedded.servers import HomeWorld, choose_world, read_world
from gh_assets.errors import CheckFailedError, ConfigurationError, InputError
from gh_assets.instance.configuration import open_instance
from gh_assets.instance.history import history_folder
from gh_assets.instance.internals import DagsterAssetCheckFailedError
from gh_assets.instance.launcher import OWN_PROCESS, execute_job, fail_dead_runs
from gh_assets.local.progress import Progress, use_progress
from gh_assets.services.connections import asset_store, open_mongo
from gh_assets.services.world import claim_world, has_only_archive, world_identity
from gh_assets.serving.leaderboard import USERS_HELD_OUT
from gh_assets.settings import Settings

MATRIX_CHECK_OP = "user_item_matrix_matrix_is_like_the_last"
"""Op of the check that compares the matrix with that of the newest model."""

EXAMPLES = 3
"""Users whose first recommendation is in the summary."""

LEADERBOARD_COLUMNS = {"ndcg@100": "ndcg_at_100", "recall@20": "recall_at_20", "recall@50": "recall_at_50"}
"""Columns of the stored leaderboard by the metric's name in the summary."""


def run_chain(settings: Settings, options: ChainOptions, progress: Progress) -> dict[str, Any]:
    """Materialize the chain in two Dagster runs: first the lists, then everything that follows from them.

    Hours of GH Archive, if any are given, are read in a run before; star histories in a run after, unless stars come
    from a file or GH Archive.

    Returns
    -------
    dict
        ``leaderboard``, ``examples`` and ``checks_failed``, for the summary.

    Raises
    ------
    GhAssetsError
        The reason for which an asset failed, as the asset raised it.
    """
    from gh_assets.definitions import build_definitions

    lists = options.awesome or tuple(settings.awesome_lists)
    options = options.model_copy(update={"source": options.source or settings.source, "awesome": lists})
    skipped = prepare_world(settings, options)
    if skipped and options.source != "file":  # that source reports it itself
        progress.notify(skipped)
    progress.notify(f"Collecting from {world_identity(settings)[1]} into {settings.home_path}")
    defs = build_definitions(settings)
    with open_instance(settings) as instance, use_progress(progress):
        fail_dead_runs(instance)
        if options.archive:
            days = {read_days_of_the_archive.name: {"config": {"places": list(options.archive)}}}
            execute(defs, archive_job.name, instance, days)
        config = options.model_dump(mode="json", include={"awesome", "max_requests"}, exclude_none=True)
        read = execute(defs, repos_job.name, instance, {"repos": {"config": config}})
        max_requests = options.max_requests
        if max_requests is not None:
            max_requests = max(1, max_requests - _requests_of(read))
        partitions = instance.get_dynamic_partitions(str(REPO_PARTITIONS.name))
        if not partitions:
            raise InputError(
                "No repository could be read yet, so there is nothing to collect: run again"
                + (" with a larger --max-requests." if options.max_requests is not None else ".")
            )
        tags = range_tags(partitions[0], partitions[-1])
        result = execute(defs, refresh_job.name, instance, _op_config(options, max_requests), tags)
        if SOURCES[str(options.source)].resource is not None:
            _read_histories(settings, defs, instance, max_requests, result, progress)
    checks = result.get_asset_check_evaluations()
    failed = [f"{check.asset_key.to_user_string()}: {check.check_name}" for check in checks if not check.passed]
    for name in failed:
        progress.notify(f"Check did not pass: {name} (see the asset in dagster dev)")
    return {"leaderboard": _leaderboard(settings), "examples": _examples(settings), "checks_failed": failed}


def _requests_of(result: dg.JobExecutionResult, name: str = "requests") -> int:
    """Return how many requests a run sent, from the metadata of its materializations."""
    metadata = [event.materialization.metadata for event in result.get_asset_materialization_events()]
    return next((int(str(entries[name].value)) for entries in metadata if name in entries), 0)


def _read_histories(
    settings: Settings,
    defs: dg.Definitions,
    instance: DagsterInstance,
    max_requests: int | None,
    collected: dg.JobExecutionResult,
    progress: Progress,
) -> None:
    """Read the star histories that are due, with what is left of the cap on requests.

    They come last, and nothing that the run was started for depends on them: a failure is a sentence. Later runs of the
    job read what is older than a page.
    """
    config: dict[str, Any] = {"patient": True, "max_pages": 1}
    if max_requests is not None:
        config["max_requests"] = max_requests - _requests_of(collected, "run_requests")
        if config["max_requests"] <= 0:
            return
    try:
        execute(defs, histories_job.name, instance, {read_due_histories.name: {"config": config}})
    except EXPLAINED_ERRORS as error:
        progress.notify(f"The star histories were not read: {explain(error, history_folder(settings))}")


def prepare_world(settings: Settings, options: ChainOptions) -> str:
    """Check the files that the options name, and choose the world that the stand-in serves, if it is used.

    Returns
    -------
    str
        A sentence about rows of the stars file that were skipped; empty if none were.

    Raises
    ------
    ConfigurationError
        If options or settings contradict each other.
    InputError
        If a file cannot be read.
    """
    if options.source == "file" and options.stars is None:
        raise ConfigurationError("--source file needs the file: --stars FILE.")
    if options.archive:
        days_of(options.archive)
    seed_users = options.seed_users or settings.seed_users
    if seed_users is not None:
        # The collector reads it only where lists are closed; a mistake is reported in any case.
        read_seeds_file(seed_users.expanduser())
    if options.stars is None:
        only_archive = options.source == "gharchive" and not options.awesome and settings.uses_standin
        if only_archive and not has_only_archive(settings):
            _choose_world(settings, HomeWorld(archive=True))
        return ""
    skipped = read_stars(options.stars.expanduser()).skipped.sentence()
    if not settings.uses_standin and options.source != "file":
        raise ConfigurationError(
            "--stars makes the stand-in serve a file, but GITHUB_TOKENS selects a real GitHub: unset it, or read the "
            "file directly with --source file."
        )
    # A file that is read directly adds to what comes from GitHub or GH Archive.
    if settings.uses_standin and not (options.source == "file" and has_only_archive(settings)):
        chosen = HomeWorld(_absolute(options.stars))
        if read_world(settings.home_path) != chosen:
            _choose_world(settings, chosen)
    return skipped


def _choose_world(settings: Settings, world: HomeWorld) -> None:
    """Make a world this home's, unless the home holds data of another one: the choice would outlast the refusal."""
    with open_mongo(settings) as database:
        claim_world(settings, database, world)
    choose_world(settings.home_path, world)


def _op_config(options: ChainOptions, max_requests: int | None) -> dict[str, Any]:
    collect = options.model_dump(include={"source", "max_users", "max_pages", "full"}, exclude_none=True)
    if options.stars is not None and options.source == "file":
        collect["stars_file"] = _absolute(options.stars)
    if options.seed_users is not None:
        collect["seed_users"] = _absolute(options.seed_users)
    if max_requests is not None:
        collect["max_requests"] = max_requests
    train = options.model_dump(include={"retrain", "epochs"}, exclude_none=True)
    accept = {"accept": options.accept_matrix}
    return {"stargazers": {"config": collect}, "recvae_model": {"config": train}, MATRIX_CHECK_OP: {"config": accept}}


def _absolute(path: Path) -> str:
    return str(path.expanduser().resolve())


def execute(
    defs: dg.Definitions, job: str, instance: DagsterInstance, ops: dict[str, Any], tags: dict[str, str] | None = None
) -> dg.JobExecutionResult:
    """Run a job in this process.

    Raises
    ------
    GhAssetsError
        As the asset raised it, not wrapped in an error of Dagster's; so are errors of MongoDB.
    CheckFailedError
        If a blocking check did not pass.
    KeyboardInterrupt
    """
    run_id = str(uuid.uuid4())
    try:
        with without_retries():
            return execute_job(
                defs.resolve_job_def(job),
                instance,
                run_id=run_id,
                # Events go to Dagster's storage; the terminal shows progress instead.
                run_config={"ops": ops, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                tags={**(tags or {}), **OWN_PROCESS},
            )
    except DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None
    except DagsterAssetCheckFailedError:
        raise _failed_check(instance, run_id) from None
    except Exception as error:
        cause = cause_of(error)
        if isinstance(cause, EXPLAINED_ERRORS):
            raise cause from None
        raise


def _failed_check(instance: DagsterInstance, run_id: str) -> CheckFailedError:
    """Return an error that explains the blocking check that ended a run, with the values that it compared."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    sentences = []
    for record in records:
        event = record.event_log_entry.dagster_event
        evaluation = event.asset_check_evaluation_data if event is not None else None
        if evaluation is None or evaluation.passed or not evaluation.blocking:
            continue
        found = {name: entry.value for name, entry in evaluation.metadata.items()}
        compared = ", ".join(f"{name} {value}" for name, value in found.items() if isinstance(value, str | int | float))
        sentences.append(
            f"The check {evaluation.check_name} of {evaluation.asset_key.to_user_string()} did not pass, so the run "
            f"stopped: {evaluation.description or 'see its metadata.'} It compared: {compared}."
        )
    return CheckFailedError(" ".join(sentences) or "A blocking check did not pass: see the run in dagster dev.")


def _leaderboard(settings: Settings) -> dict[str, dict[str, float]]:
    """Return the metrics of all recommenders on held-out users, best first."""
    table = asset_store(settings).read_table("leaderboard")
    rows = table.filter(table["split"] == USERS_HELD_OUT).to_dicts()
    return {row["model"]: {name: row[column] for name, column in LEADERBOARD_COLUMNS.items()} for row in rows}


def _examples(settings: Settings) -> list[dict[str, Any]]:
    """Return the first recommendation of a few users."""
    table = asset_store(settings).read_table("recommendations")
    first = table.filter(table["rank"] == 1)
    step = max(1, first.height // EXAMPLES)
    rows = first[::step].head(EXAMPLES).to_dicts()
    return [{name: row[name] for name in ("login", "full_name", "because")} for row in rows]
