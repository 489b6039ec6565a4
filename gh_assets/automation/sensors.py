"""Sensors: what starts when something has happened."""

import hashlib

import dagster as dg

from gh_assets.assets import stargazers
from gh_assets.assets.common import REPO_PARTITIONS
from gh_assets.automation.jobs import chain_job, contiguous_ranges, range_tags, refresh_job

BRIDGE = 50
"""Materialized partitions that a run may look at again to save a run: unchanged ones cost no request."""

_ALIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


@dg.sensor(
    name="new_repositories",
    jobs=[refresh_job],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "When `repos` has added partitions: collects the missing ones in as few runs as Dagster allows (new ones are "
        "contiguous: one run), then rebuilds matrix, model and recommendations. Off until you turn it on: it spends "
        "the tokens' quota."
    ),
)
def new_repositories(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Requests a run for each range of partitions that were never materialized."""
    partitions = list(context.instance.get_dynamic_partitions(str(REPO_PARTITIONS.name)))
    done = context.instance.get_materialized_partitions(stargazers.key)
    missing = set(partitions) - done
    if not missing:
        return dg.SkipReason(f"All {len(partitions)} repositories have been collected.")
    for job in (refresh_job, chain_job):
        if context.instance.get_run_records(dg.RunsFilter(job_name=job.name, statuses=_ALIVE), limit=1):
            return dg.SkipReason(f"A run of {job.name} is under way: {len(missing)} repositories wait for its end.")
    requests = []
    for first, last in contiguous_ranges(partitions, missing, bridge=BRIDGE):
        # The key makes a tick that is repeated after a crash ask for the same run, not for a second one. A run that
        # failed has left the same partitions missing: the attempt's number lets it be asked for again.
        attempt = _attempts(context, first, last)
        key = hashlib.sha256(f"{first}\n{last}\n{attempt}".encode()).hexdigest()[:16]
        requests.append(dg.RunRequest(run_key=key, job_name=refresh_job.name, tags=range_tags(first, last)))
    return dg.SensorResult(run_requests=requests)


def _attempts(context: dg.SensorEvaluationContext, first: str, last: str) -> int:
    """How many runs over this range have failed or were cancelled."""
    ended = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    return context.instance.get_runs_count(
        dg.RunsFilter(job_name=refresh_job.name, statuses=ended, tags=range_tags(first, last))
    )


ALL_SENSORS = [new_repositories]
