"""Schedules, an alternative to the sensors. All are off until the user turns them on."""

from functools import partial

import dagster as dg

from gh_assets.assets import repos
from gh_assets.assets.definition import REPO_PARTITIONS
from gh_assets.automation.collect_ops import choose_due
from gh_assets.automation.history_ops import read_due_histories
from gh_assets.automation.jobs import (
    chain_job,
    collect_due_job,
    histories_job,
    history_checks_job,
    range_tags,
    rebuild_job,
    refresh_lists_job,
    repos_job,
)


@dg.schedule(
    name="weekly_chain",
    cron_schedule="0 3 * * 1",
    execution_timezone="UTC",
    job=chain_job,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description=(
        "Every Monday at 03:00 UTC: the whole chain in one run over all repositories. While there is no partition yet, "
        "it reads the lists only, and the sensor new_repositories does the rest. Off until you turn it on: it spends "
        "the tokens' quota."
    ),
)
def weekly_chain(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Request one run over all partitions."""
    partitions = context.instance.get_dynamic_partitions(str(REPO_PARTITIONS.name))
    run_key = context.scheduled_execution_time.isoformat()
    if not partitions:
        return dg.RunRequest(run_key=run_key, asset_selection=[repos.key])
    return dg.RunRequest(run_key=run_key, tags=range_tags(partitions[0], partitions[-1]))


_schedule = partial(dg.ScheduleDefinition, execution_timezone="UTC", default_status=dg.DefaultScheduleStatus.STOPPED)

daily_lists = _schedule(
    name="daily_lists",
    cron_schedule="0 1 * * *",
    job=repos_job,
    description="Every day at 01:00 UTC: the lists and GitHub's metadata. Off until you turn it on: it spends quota.",
)

nightly_collection = _schedule(
    name="nightly_collection",
    cron_schedule="0 2 * * *",
    job=collect_due_job,
    run_config={"ops": {choose_due.name: {"config": {"patient": True}}}},
    description=(
        "Every day at 02:00 UTC: the repositories that are due, as far as the quota goes without the reserve for "
        "people. Off until you turn it on: it spends quota."
    ),
)

daily_histories = _schedule(
    name="daily_histories",
    cron_schedule="0 9 * * *",
    job=histories_job,
    run_config={"ops": {read_due_histories.name: {"config": {"patient": True}}}},
    description=(
        "Every day at 09:00 UTC, when the day is over in Los Angeles, by whose days GitHub counts: the star histories, "
        "as far as the quota goes without the reserve for people. Off until you turn it on: it spends quota."
    ),
)

daily_history_checks = _schedule(
    name="daily_history_checks",
    cron_schedule="0 11 * * *",
    job=history_checks_job,
    description="Every day at 11:00 UTC: the checks of the star histories. Spends no quota; off until you turn it on.",
)

daily_recommendations = _schedule(
    name="daily_recommendations",
    cron_schedule="0 6 * * *",
    job=refresh_lists_job,
    description=(
        "Every day at 06:00 UTC: the recommendations of users whose stars changed, by the champion. Trains nothing and "
        "spends no quota; off until you turn it on."
    ),
)

weekly_rebuild = _schedule(
    name="weekly_rebuild",
    cron_schedule="0 4 * * 1",
    job=rebuild_job,
    description=(
        "Every Monday at 04:00 UTC: matrix, models, champion and recommendations from the stored stars. Off until you "
        "turn it on."
    ),
)

ALL_SCHEDULES: list[dg.ScheduleDefinition] = [
    daily_lists,
    nightly_collection,
    daily_histories,
    daily_history_checks,
    daily_recommendations,
    weekly_rebuild,
    weekly_chain,
]
