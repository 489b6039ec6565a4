"""Schedules, for those who prefer the clock."""

import dagster as dg

from gh_assets.assets import repos
from gh_assets.assets.common import REPO_PARTITIONS
from gh_assets.automation.jobs import chain_job, range_tags


@dg.schedule(
    name="weekly_chain",
    cron_schedule="0 3 * * 1",
    execution_timezone="UTC",
    job=chain_job,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description=(
        "Every Monday at 03:00 UTC: the whole chain in one run over all repositories. Off until you turn it on: it "
        "spends the tokens' quota. The first time, when there is no partition yet, it reads the lists; the sensor "
        "new_repositories does the rest."
    ),
)
def weekly_chain(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """One run over all partitions."""
    partitions = context.instance.get_dynamic_partitions(str(REPO_PARTITIONS.name))
    run_key = context.scheduled_execution_time.isoformat()
    if not partitions:
        return dg.RunRequest(run_key=run_key, asset_selection=[repos.key])
    return dg.RunRequest(run_key=run_key, tags=range_tags(partitions[0], partitions[-1]))


ALL_SCHEDULES = [weekly_chain]
