"""Sensors that spend the quota: on lists that changed, on new repositories, on stars that are out of date."""

import datetime as dt
import hashlib
import json
import time

import dagster as dg

from gh_assets.assets import repos
from gh_assets.assets.collection_plan import refresh_policy
from gh_assets.automation.collect_ops import choose_due
from gh_assets.automation.jobs import collect_due_job, repos_job
from gh_assets.automation.run_requests import ABOUT, interval, last_materialization, request_run, retry_pause
from gh_assets.collector import plan as planning
from gh_assets.collector.lists.sources import fingerprint_of_list
from gh_assets.collector.plan import DueReason
from gh_assets.collector.upkeep import quota_of, read_plan
from gh_assets.errors import GhAssetsError
from gh_assets.github.ledger import MongoLedger
from gh_assets.resources import GcsResource, GitHubResource, MongoResource
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import Collections

PAUSE = dt.timedelta(minutes=5)
"""Before a run that changed nothing is tried again."""


@dg.sensor(
    name="lists_changed",
    job=repos_job,
    minimum_interval_seconds=interval(900),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "When an awesome list has changed (by its ETag, which costs no quota), and when GitHub's star counts are older "
        "than GH_ASSETS_COUNTS_AFTER: reads lists and counts, adds partitions for new repositories and notes which "
        "left. Off until you turn it on: it asks GitHub for metadata, a point for some hundred repositories."
    ),
)
def lists_changed(
    context: dg.SensorEvaluationContext, github: GitHubResource, mongo: MongoResource
) -> dg.SensorResult | dg.SkipReason:
    """One run for each change of the lists. The cursor holds their tags as last seen, and how often they changed."""
    if github.has_only_archive():
        return dg.SkipReason("There is no GitHub to ask, only GH Archive: it has no lists.")
    cursor = json.loads(context.cursor or "{}")
    seen: dict[str, str] = cursor.get("seen", {})
    now: dict[str, str] = {}
    failed: list[str] = []
    with mongo.database() as database, github.client(database) as client:
        for name in github.awesome_lists(client):
            try:
                now[name] = fingerprint_of_list(name, client, seen.get(name))
            except GhAssetsError as error:
                failed.append(str(error))
                if name in seen:
                    now[name] = seen[name]
    if not now:
        return dg.SkipReason(f"No list could be read: {failed[0] if failed else 'none is named'}")
    changes = cursor.get("changes", 0) + (now != seen)
    context.update_cursor(json.dumps({"seen": now, "changes": changes}))
    # Lists may become what they once were: that is a change, too.
    about = f"lists {changes} {hashlib.sha256(json.dumps(now, sort_keys=True).encode()).hexdigest()[:16]}"
    if not _was_read(context, about):
        return request_run(
            context, repos_job.name, about, f"{len(now)} lists, at least one changed.", pause=retry_pause(PAUSE, 2)
        )
    last = last_materialization(context.instance, repos.key)
    policy = load_settings().counts_after.total_seconds()
    if last is not None and time.time() - last.timestamp >= policy:
        why = f"GitHub's counts are of {dt.datetime.fromtimestamp(last.timestamp, dt.UTC):%Y-%m-%d %H:%M} UTC."
        return request_run(context, repos_job.name, f"counts {last.timestamp:.3f}", why, pause=retry_pause(PAUSE, 2))
    unread = f" {len(failed)} could not be looked at: {failed[0]}" if failed else ""
    return dg.SkipReason(f"The {len(now)} lists are as they were read.{unread}")


def _was_read(context: dg.SensorEvaluationContext, about: str) -> bool:
    done = dg.RunsFilter(job_name=repos_job.name, tags={ABOUT: about}, statuses=[dg.DagsterRunStatus.SUCCESS])
    return context.instance.get_runs_count(done) > 0


def _collect(
    context: dg.SensorEvaluationContext, gcs: GcsResource, mongo: MongoResource, kinds: tuple[DueReason, ...]
) -> dg.SensorResult | dg.SkipReason:
    settings = load_settings()
    store = gcs.asset_store()
    plan = read_plan(store)
    if plan is None:
        return dg.SkipReason("There is no plan yet: materialize repos and collection_plan (the job read_lists).")
    now = dt.datetime.now(dt.UTC)
    wanted = planning.due(plan.table, now, refresh_policy(settings), kinds)
    if not wanted.height:
        return dg.SkipReason(f"Nothing is due of {plan.table.height:,} repositories.")
    with mongo.database() as database:
        quota = quota_of(
            settings.source, settings.quota_reserve, MongoLedger(database[Collections.GITHUB_BUDGETS]).known(), now
        )
    chosen = planning.affordable_prefix(wanted, quota.pages)
    if not chosen.height:
        return dg.SkipReason(f"Due: {planning.summarize(wanted)}. The quota does not allow it: {quota.words()}.")
    config = {"which": [kind.value for kind in kinds], "patient": True}
    why = f"{planning.summarize(chosen)}" + (f" (of {wanted.height:,} due)." if chosen.height < wanted.height else ".")
    return request_run(
        context,
        collect_due_job.name,
        f"plan {plan.generation}",
        why,
        pause=retry_pause(PAUSE, 2),
        run_config={"ops": {choose_due.name: {"config": config}}},
    )


@dg.sensor(
    name="new_repositories",
    job=collect_due_job,
    minimum_interval_seconds=interval(30),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "When `repos` has added repositories that were never asked: collects their stars in one run, as far as the "
        "quota goes. Off until you turn it on: it spends the tokens' quota."
    ),
)
def new_repositories(
    context: dg.SensorEvaluationContext, gcs: GcsResource, mongo: MongoResource
) -> dg.SensorResult | dg.SkipReason:
    """Never asked."""
    return _collect(context, gcs, mongo, (DueReason.NEW,))


@dg.sensor(
    name="stale_stars",
    job=collect_due_job,
    minimum_interval_seconds=interval(300),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "When stars are out of date: GitHub's count of a repository moved, what is stored of it was not proven to be "
        "whole, it was not asked for long, could not be asked, or was closed. Asks those first of which a page tells "
        "most, and leaves a share of the quota to people (GH_ASSETS_QUOTA_RESERVE); waits for the reset when there is "
        "none left. Off until you turn it on: it spends the tokens' quota."
    ),
)
def stale_stars(
    context: dg.SensorEvaluationContext, gcs: GcsResource, mongo: MongoResource
) -> dg.SensorResult | dg.SkipReason:
    """Asked before, and due again."""
    return _collect(
        context,
        gcs,
        mongo,
        (DueReason.FAILED, DueReason.RESTRICTED, DueReason.MOVED, DueReason.INCOMPLETE, DueReason.OLD),
    )
