"""Running the whole chain in this process, for `gh-assets run`: the same assets and instance as `dagster dev`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterExecutionInterruptedError, DagsterInstance
from dagster._core.errors import DagsterAssetCheckFailedError

from gh_assets.assets.leaderboard import USERS_HELD_OUT
from gh_assets.assets.metadata import REPO_PARTITIONS
from gh_assets.assets.retries import without_retries
from gh_assets.assets.star_events import read_days_of_the_archive
from gh_assets.automation.jobs import archive_job, range_tags, refresh_job, repos_job
from gh_assets.cli.failures import EXPLAINED_ERRORS, cause_of
from gh_assets.collector.archive_days import days_of
from gh_assets.collector.seed_users import read_seeds_file
from gh_assets.collector.stars_file import read_stars
from gh_assets.embedded.servers import HomeWorld, choose_world, read_world
from gh_assets.errors import CheckFailedError, ConfigurationError, InputError
from gh_assets.instance.launcher import OWN_PROCESS, execute_job, fail_dead_runs
from gh_assets.instance.storage import open_instance
from gh_assets.local import progress
from gh_assets.services.connections import asset_store, open_mongo
from gh_assets.services.world import claim_world, has_only_archive, world_identity
from gh_assets.settings import Settings

LIKENESS_OP = "user_item_matrix_matrix_is_like_the_last"
"""The op of the check that compares the matrix with the one of the newest model."""

EXAMPLES = 3
SHOWN = {"ndcg@100": "ndcg_at_100", "recall@20": "recall_at_20", "recall@50": "recall_at_50"}


@dataclass(frozen=True)
class ChainOptions:
    """What a person asked for.

    Attributes
    ----------
    source : str or None
        None: that of the settings.
    stars : Path or None
        A file of stars: the world that the stand-in serves, or, with the source ``file``, read directly.
    awesome : tuple of str
        Lists.
    archive : tuple of str
        Hours of GH Archive to read first; see `gh_assets.collector.gharchive.archive_hours`.
    seed_users : Path or None
        Users to ask first for their starred lists.
    max_pages, max_users, max_requests : int or None
        Caps; None: those of the settings, and no cap on requests.
    full : bool
        Read all lists again, to their end.
    epochs : int or None
    retrain : bool
    accept_matrix : bool
        Train also on a matrix that is much smaller than the last one.
    """

    source: str | None = None
    stars: Path | None = None
    awesome: tuple[str, ...] = ()
    archive: tuple[str, ...] = ()
    seed_users: Path | None = None
    max_pages: int | None = None
    max_users: int | None = None
    max_requests: int | None = None
    full: bool = False
    epochs: int | None = None
    retrain: bool = False
    accept_matrix: bool = False


def run_chain(
    settings: Settings, options: ChainOptions, listener: progress.ProgressListener, say: Callable[[str], None]
) -> dict[str, Any]:
    """Materialize the chain, in two Dagster runs: the lists, then everything that follows from them.

    Hours of GH Archive, if any are given, are read in a run before.

    Returns
    -------
    dict
        ``leaderboard``, ``examples`` and ``checks_failed``, for the summary.

    Raises
    ------
    GhAssetsError
        The reason for which an asset failed, as the asset raised it.
    """
    from gh_assets.definitions import defs

    skipped = _prepare_world(settings, options)
    if skipped and options.source != "file":  # the source says it itself
        say(skipped)
    say(f"Collecting from {world_identity(settings)[1]} into {settings.home_path}")
    with open_instance() as instance, progress.use_progress(progress.Progress(listener, say)):
        fail_dead_runs(instance)
        if options.archive:
            config = {read_days_of_the_archive.name: {"config": {"places": list(options.archive)}}}
            _execute(defs, archive_job.name, instance, config, {})
        lists: dict[str, Any] = {"awesome": list(options.awesome)}
        left = options.max_requests
        if left is not None:
            lists["max_requests"] = left
        read = _execute(defs, repos_job.name, instance, {"repos": {"config": lists}}, {})
        if left is not None:
            left = max(1, left - _requests_of(read))
        partitions = instance.get_dynamic_partitions(str(REPO_PARTITIONS.name))
        if not partitions:
            raise InputError(
                "No repository could be reached yet, so there is nothing to collect: run again"
                + (" with a larger --max-requests." if options.max_requests is not None else ".")
            )
        tags = range_tags(partitions[0], partitions[-1])
        result = _execute(defs, refresh_job.name, instance, _op_config(options, left), tags)
    failed = [
        f"{check.asset_key.to_user_string()}: {check.check_name}"
        for check in result.get_asset_check_evaluations()
        if not check.passed
    ]
    for name in failed:
        say(f"Check did not pass: {name} (see the asset in dagster dev)")
    return {"leaderboard": _leaderboard(settings), "examples": _examples(settings), "checks_failed": failed}


def _requests_of(result: dg.JobExecutionResult) -> int:
    """Requests that the run of `repos` sent, as its metadata say."""
    for event in result.get_asset_materialization_events():
        sent = event.materialization.metadata.get("requests")
        if sent is not None and isinstance(sent.value, int):
            return sent.value
    return 0


def _prepare_world(settings: Settings, options: ChainOptions) -> str:
    """Let the stand-in serve what was asked for, after checking that it can; or nobody, where the archive says all.

    Gives a sentence about rows of the file that were left out, if any were.
    """
    if options.source == "file" and options.stars is None:
        raise ConfigurationError("--source file needs the file: --stars FILE.")
    if options.archive:
        days_of(options.archive)
    seed_users = options.seed_users or settings.seed_users
    if seed_users is not None:
        # It is read where lists are closed; that it cannot be read must be said also where none is.
        read_seeds_file(seed_users.expanduser())
    if options.stars is None:
        only_archive = options.source == "gharchive" and not options.awesome and settings.uses_standin
        if only_archive and not has_only_archive(settings):
            _choose(settings, HomeWorld(archive=True))
        return ""
    skipped = read_stars(options.stars.expanduser()).skipped.sentence()
    if not settings.uses_standin:
        if options.source != "file":
            raise ConfigurationError(
                "--stars serves a file as the world through the stand-in, but GITHUB_TOKENS points to a real GitHub: "
                "unset it, or read the file directly with --source file."
            )
        return skipped
    if options.source == "file" and has_only_archive(settings):
        return skipped  # the file adds to what GH Archive told
    chosen = HomeWorld(str(options.stars.expanduser().resolve()))
    if read_world(settings.home_path) != chosen:
        _choose(settings, chosen)
    return skipped


def _choose(settings: Settings, world: HomeWorld) -> None:
    """Make a world this home's, unless it holds the data of another: the choice would outlive the refusal."""
    with open_mongo(settings) as database:
        claim_world(settings, database, world)
    choose_world(settings.home_path, world)


def _op_config(options: ChainOptions, max_requests: int | None) -> dict[str, Any]:
    wanted = {
        "source": options.source,
        "stars_file": _absolute(options.stars) if options.source == "file" else None,
        "seed_users": _absolute(options.seed_users),
        "max_users": options.max_users,
        "max_pages": options.max_pages,
        "max_requests": max_requests,
        "full": options.full,
    }
    collect = {name: value for name, value in wanted.items() if value is not None}
    train: dict[str, Any] = {"retrain": options.retrain}
    if options.epochs is not None:
        train["epochs"] = options.epochs
    accept = {"accept": options.accept_matrix}
    return {"stargazers": {"config": collect}, "recvae_model": {"config": train}, LIKENESS_OP: {"config": accept}}


def _absolute(path: Path | None) -> str | None:
    return str(path.expanduser().resolve()) if path is not None else None


def _execute(
    defs: dg.Definitions, job: str, instance: DagsterInstance, ops: dict[str, Any], tags: dict[str, str]
) -> dg.JobExecutionResult:
    """Run a job in this process; an error of ours comes out as it is, not wrapped in Dagster's."""
    run_id = str(uuid.uuid4())
    try:
        with without_retries():
            return execute_job(
                defs.resolve_job_def(job),
                instance,
                run_id=run_id,
                # Events go to Dagster's storage all the same; the terminal shows our progress instead.
                run_config={"ops": ops, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                tags={**tags, **OWN_PROCESS},
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
    """What to say of the blocking check that ended a run: what it found, what it compared, and what to do."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    said = []
    for record in records:
        event = record.event_log_entry.dagster_event
        evaluation = event.asset_check_evaluation_data if event is not None else None
        if evaluation is None or evaluation.passed or not evaluation.blocking:
            continue
        compared = ", ".join(f"{name} {value.value}" for name, value in evaluation.metadata.items()
                             if isinstance(value.value, str | int | float))  # fmt: skip
        said.append(
            f"The check {evaluation.check_name} of {evaluation.asset_key.to_user_string()} did not pass, so nothing is "
            f"made from it: {evaluation.description or 'see its metadata.'} It compared: {compared}."
        )
    return CheckFailedError(" ".join(said) or "A blocking check did not pass: see the run in dagster dev.")


def _leaderboard(settings: Settings) -> dict[str, dict[str, float]]:
    """Metrics of all recommenders on users that were held out whole, best first."""
    table = asset_store(settings).read_table("leaderboard")
    rows = table.filter(table["split"] == USERS_HELD_OUT).to_dicts()
    return {row["model"]: {name: row[column] for name, column in SHOWN.items()} for row in rows}


def _examples(settings: Settings) -> list[dict[str, Any]]:
    """The first recommendation of a few users."""
    table = asset_store(settings).read_table("recommendations")
    first = table.filter(table["rank"] == 1)
    step = max(1, first.height // EXAMPLES)
    rows = first[::step].head(EXAMPLES).to_dicts()
    return [{name: row[name] for name in ("login", "full_name", "because")} for row in rows]
