"""Sensors that spend quota: on lists that changed, on new repositories, on stars that are out of date."""

import datetime as dt
import hashlib
import json
import time
from functools import partial

import dagster as dg

from gh_assets.assets import repos
from gh_assets.automation.collect_ops import MAX_LOOKS, choose_due
from gh_assets.automation.history_ops import read_due_histories
from gh_assets.automation.jobs import collect_due_job, feeds_job, histories_job, repos_job
from gh_assets.automation.run_requests import NO_PLAN, STATE, RunReason, job_sensor
from gh_assets.collector import plan as planning
from gh_assets.collector.history_collection import is_due
from gh_assets.collector.history_state import HistoryStates
from gh_assets.collector.lists.sources import fingerprint_of_list
from gh_assets.collector.plan import DueReason, read_plan
from gh_assets.errors import GhAssetsError
from gh_assets.github.client import GitHubClient
from gh_assets.resources import GcsResource, GitHubResource, MongoResource, PolicyResource

_sensor = partial(job_sensor, pause=dt.timedelta(minutes=5), pause_ticks=2)


@_sensor(job=repos_job, every=dt.timedelta(minutes=15))
def lists_changed(
    context: dg.SensorEvaluationContext, github: GitHubResource, mongo: MongoResource, policy: PolicyResource
) -> RunReason | dg.SkipReason:
    """Request one run for each change. The cursor holds the lists' fingerprints and the number of changes.

    When an awesome list has changed (by its ETag, which costs no quota), or GitHub's star counts are older than
    GH_ASSETS_COUNTS_AFTER: reads lists and counts, adds partitions for new repositories and marks those that left all
    lists. Off until you turn it on: it asks GitHub for metadata, a point for some hundred repositories.
    """
    if github.has_only_archive():
        return dg.SkipReason("This home has GH Archive only, which has no lists.")
    cursor = json.loads(context.cursor or "{}")
    seen: dict[str, str] = cursor.get("seen", {})
    with mongo.database() as database, github.client(database) as client:
        current, failed = _fingerprints(client, github.awesome_lists(client), seen)
    if not current:
        return dg.SkipReason(f"No list could be read: {failed[0] if failed else 'none is named'}")
    # The number is part of the state because lists may become what they once were, which is a change, too.
    changes = cursor.get("changes", 0) + (current != seen)
    context.update_cursor(json.dumps({"seen": current, "changes": changes}))
    state = f"lists {changes} {hashlib.sha256(json.dumps(current, sort_keys=True).encode()).hexdigest()[:16]}"
    if not _was_read(context, state):
        return RunReason(state, f"{len(current)} lists, at least one changed.")
    last = context.instance.get_latest_materialization_event(repos.key)
    if last is not None and time.time() - last.timestamp >= policy.settings().counts_after.total_seconds():
        counted = dt.datetime.fromtimestamp(last.timestamp, dt.UTC)
        return RunReason(f"counts {last.timestamp:.3f}", f"GitHub's counts are of {counted:%Y-%m-%d %H:%M} UTC.")
    unread = f" {len(failed)} could not be checked: {failed[0]}" if failed else ""
    return dg.SkipReason(f"The {len(current)} lists have not changed since they were read.{unread}")


def _fingerprints(client: GitHubClient, lists: list[str], seen: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the lists' fingerprints, for an unreachable list the last one, and the errors."""
    current: dict[str, str] = {}
    failed: list[str] = []
    for name in lists:
        try:
            current[name] = fingerprint_of_list(name, client, seen.get(name))
        except GhAssetsError as error:
            failed.append(str(error))
            if name in seen:
                current[name] = seen[name]
    return current, failed


def _was_read(context: dg.SensorEvaluationContext, state: str) -> bool:
    done = dg.RunsFilter(job_name=repos_job.name, tags={STATE: state}, statuses=[dg.DagsterRunStatus.SUCCESS])
    return context.instance.get_runs_count(done) > 0


@_sensor(job=collect_due_job, every=dt.timedelta(seconds=30))
def new_repositories(
    context: dg.SensorEvaluationContext, gcs: GcsResource, mongo: MongoResource, policy: PolicyResource
) -> RunReason | dg.SkipReason:
    """Request a run for repositories that were never collected.

    When `repos` has added repositories that were never collected: collects their stars in one run, as far as the quota
    goes. Off until you turn it on: it spends the tokens' quota.
    """
    return _collect(gcs, mongo, policy, [DueReason.NEW])


@_sensor(job=collect_due_job, every=dt.timedelta(minutes=5))
def stale_stars(
    context: dg.SensorEvaluationContext, gcs: GcsResource, mongo: MongoResource, policy: PolicyResource
) -> RunReason | dg.SkipReason:
    """Request a run for repositories that were collected before and are due again.

    When stars are out of date: GitHub's count of a repository moved, or its list was not proven complete, was not read
    for long, could not be read, or was closed. Collects those first whose pages are expected to hold most news, and
    leaves a share of the quota to people (GH_ASSETS_QUOTA_RESERVE); waits for the reset when nothing is left. Off until
    you turn it on: it spends the tokens' quota.
    """
    return _collect(gcs, mongo, policy, [reason for reason in planning.ALL_REASONS if reason is not DueReason.NEW])


MIN_LOOKS, LOOKS_EVERY = 50, dt.timedelta(minutes=5)
"""Fewer due feeds than this wait until the last look is so long ago: each run leaves events in Dagster's storage."""


def _collect(
    gcs: GcsResource, mongo: MongoResource, policy: PolicyResource, reasons: list[DueReason]
) -> RunReason | dg.SkipReason:
    plan = read_plan(gcs.asset_store())
    if plan is None:
        return dg.SkipReason(NO_PLAN)
    now = dt.datetime.now(dt.UTC)
    due = planning.due(plan.table, now, policy.refresh_policy(), reasons)
    if not due.height:
        return dg.SkipReason(f"None of {plan.table.height:,} repositories is due.")
    with mongo.database() as database:
        quota = policy.quota(database, now)
    affordable = planning.affordable_prefix(due, quota.pages)
    if not affordable.height:
        return dg.SkipReason(f"Due: {planning.summarize(due)}. The quota does not allow it: {quota.summary()}.")
    config = {"which": [reason.value for reason in reasons], "patient": True}
    rest = f" (of {due.height:,} due)" if affordable.height < due.height else ""
    text = f"{planning.summarize(affordable)}{rest}."
    return RunReason(f"plan {plan.fingerprint()}", text, {"ops": {choose_due.name: {"config": config}}})


@_sensor(job=histories_job, every=dt.timedelta(minutes=15))
def stale_histories(
    context: dg.SensorEvaluationContext, gcs: GcsResource, mongo: MongoResource, policy: PolicyResource
) -> RunReason | dg.SkipReason:
    """Request a run for repositories whose star history was not read for a day.

    When star histories are a day old: reads those first that were read longest ago, leaves a share of the quota to
    people (GH_ASSETS_QUOTA_RESERVE), and waits for the reset when nothing is left. Histories that have not changed cost
    nothing. Off until you turn it on: it spends the tokens' quota.
    """
    plan = read_plan(gcs.asset_store())
    if plan is None:
        return dg.SkipReason(NO_PLAN)
    now = dt.datetime.now(dt.UTC)
    with mongo.database() as database:
        asked_at = HistoryStates(database).asked_at()
        quota = policy.quota(database, now, "stargazers")
    ages = [asked_at.get(repo_id) for repo_id in plan.table["repo_id"].to_list()]
    due = sum(is_due(asked, now) for asked in ages)
    if not due:
        return dg.SkipReason(f"The star histories of all {plan.table.height:,} repositories are of the last day.")
    if quota.spendable == 0:
        return dg.SkipReason(f"{due:,} star histories are due. The quota does not allow it: {quota.summary()}.")
    newest = max((asked for asked in ages if asked is not None), default=None)
    config = {"ops": {read_due_histories.name: {"config": {"patient": True}}}}
    return RunReason(f"histories {due} {newest}", f"{due:,} star histories are due.", config)


@_sensor(job=feeds_job, every=dt.timedelta(minutes=1))
def event_feeds(
    context: dg.SensorEvaluationContext, gcs: GcsResource, mongo: MongoResource, policy: PolicyResource
) -> RunReason | dg.SkipReason:
    """Request a run for event feeds that are due, of repositories whose lists are closed.

    When stars may soon be washed out of feeds, which hold 300 events: looks at the most overdue ones first, two
    thousand at most in a run, and leaves a share of the REST quota to people (GH_ASSETS_QUOTA_RESERVE). A feed without
    news costs nothing. Waits for a run that reads lists. Off until you turn it on: it spends the tokens' quota.
    """
    plan = read_plan(gcs.asset_store())
    if plan is None:
        return dg.SkipReason(NO_PLAN)
    now = dt.datetime.now(dt.UTC)
    due = planning.feeds_due(plan.table, now)
    if not due.height:
        return dg.SkipReason("No event feed is due.")
    latest = plan.table["looked_at"].max()
    if due.height < MIN_LOOKS and isinstance(latest, dt.datetime) and latest > now - LOOKS_EVERY:
        return dg.SkipReason(f"{due.height:,} event feeds are due; a run so soon after the last needs {MIN_LOOKS}.")
    with mongo.database() as database:
        quota = policy.quota(database, now, "events")
    affordable = planning.affordable_prefix(due.head(MAX_LOOKS), quota.pages)
    if not affordable.height:
        return dg.SkipReason(f"Due: {due.height:,} event feeds. The quota does not allow it: {quota.summary()}.")
    config = {"which": [DueReason.FEED.value], "patient": True, "source": "events"}
    text = f"{affordable.height:,} of {due.height:,} event feeds that are due."
    return RunReason(f"feeds {plan.generation}", text, {"ops": {choose_due.name: {"config": config}}})


COLLECTION_SENSORS = [lists_changed, new_repositories, stale_stars, stale_histories, event_feeds]
