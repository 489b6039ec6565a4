"""Schedules, an alternative to the sensors. All are off until the user turns them on."""

from functools import partial

import dagster as dg

from gh_assets.assets import repos
from gh_assets.assets.definition import REPO_PARTITIONS
from gh_assets.automation.collect_ops import choose_due
from gh_assets.automation.jobs import chain_job, collect_due_job, range_tags, rebuild_job, repos_job


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

weekly_rebuild = _schedule(
    name="weekly_rebuild",
    cron_schedule="0 4 * * 1",
    job=rebuild_job,
    description=(
        "Every Monday at 04:00 UTC: matrix, models, champion and recommendations from the stored stars. Off until you "
        "turn it on."
    ),
)

ALL_SCHEDULES: list[dg.ScheduleDefinition] = [daily_lists, nightly_collection, weekly_rebuild, weekly_chain]
