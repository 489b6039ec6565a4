"""Sensors that cost no quota: when to train anew, whom to judge, when to recommend again."""

import datetime as dt

import dagster as dg

from gh_assets.assets import collection_plan, recommendations, users
from gh_assets.assets.collection_plan import STARS_COLLECTED
from gh_assets.automation.jobs import REBUILDING, judge_job, rebuild_job, recommend_job
from gh_assets.automation.run_requests import interval, last_materialization, metadata_of, request_run, retry_pause
from gh_assets.registry import CHAMPION, PURPOSE, SERVED, ModelRegistry
from gh_assets.resources import GcsResource, MongoResource
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import Collections

PAUSE = dt.timedelta(minutes=15)


@dg.sensor(
    name="enough_new_stars",
    job=rebuild_job,
    minimum_interval_seconds=interval(300),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "When so large a share of the stars has changed since the last matrix (GH_ASSETS_RETRAIN_SHARE): rebuilds "
        "users and matrix, trains, judges and recommends. Spends no quota, but keeps the processor busy: off until you "
        "turn it on."
    ),
)
def enough_new_stars(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """One run for each matrix that is out of date."""
    stored = metadata_of(last_materialization(context.instance, collection_plan.key)).get(STARS_COLLECTED)
    if stored is None:
        return dg.SkipReason("There is no plan yet: materialize repos and collection_plan (the job read_lists).")
    if not stored:
        return dg.SkipReason("No stars have been collected yet.")
    last = last_materialization(context.instance, users.key)
    used = int(metadata_of(last).get(STARS_COLLECTED, 0))
    changed = abs(stored - used)
    share = load_settings().retrain_share
    if changed < share * used:
        return dg.SkipReason(f"{changed:,} stars changed since the last matrix; {share * used:,.0f} are enough.")
    about = "stars of the first matrix" if last is None else f"stars since {last.timestamp:.3f}"
    return request_run(
        context,
        rebuild_job.name,
        about,
        f"{changed:,} of {stored:,} stars are new.",
        pause=retry_pause(PAUSE, 4),
        blocked_by=REBUILDING,
    )


@dg.sensor(
    name="models_to_judge",
    job=judge_job,
    minimum_interval_seconds=interval(60),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "When a model was registered that was not judged, such as by gh-assets tune, or one was refused or could not "
        "be judged: judges it on the same held-out users, and promotes it if it is better. Off until you turn it on."
    ),
)
def models_to_judge(
    context: dg.SensorEvaluationContext, gcs: GcsResource, mongo: MongoResource
) -> dg.SensorResult | dg.SkipReason:
    """One run for each newest model; and again, later and later, as long as there is no decision about it."""
    with mongo.database() as database:
        registry = ModelRegistry(gcs.model_store(), database[Collections.MODELS])
        models, last = [model for model in registry.list() if model.name in SERVED], registry.decisions.last()
    if not models:
        return dg.SkipReason("No model is registered yet.")
    newest = {model.name: model for model in reversed(models)}
    unseen = [model for model in newest.values() if last is None or last.newest.get(model.name, 0) < model.version]
    if not unseen and last is not None and not last.undecided:
        return dg.SkipReason(f"{models[0].title}, the newest model, has been judged.")
    why = " ".join(f"{model.title} is new." for model in unseen)
    if not unseen and last is not None:
        why = f"Nothing was decided the last time: {last.summary}"
    return request_run(
        context,
        judge_job.name,
        f"models {', '.join(model.title for model in newest.values())}",
        why,
        pause=retry_pause(PAUSE, 4),
        blocked_by=REBUILDING,
    )


@dg.sensor(
    name="champion_changed",
    job=recommend_job,
    minimum_interval_seconds=interval(60),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "When a model was promoted or rolled back, by the gate or by hand: makes everybody's recommendations anew. Off "
        "until you turn it on."
    ),
)
def champion_changed(
    context: dg.SensorEvaluationContext, gcs: GcsResource, mongo: MongoResource
) -> dg.SensorResult | dg.SkipReason:
    """One run for each move of the alias."""
    with mongo.database() as database:
        moves = ModelRegistry(gcs.model_store(), database[Collections.MODELS]).aliases.history(PURPOSE, CHAMPION)
    if not moves:
        return dg.SkipReason("There is no champion yet.")
    move = moves[0]
    last = last_materialization(context.instance, recommendations.key)
    if last is not None and metadata_of(last).get("champion_revision", -1) >= move.revision:
        return dg.SkipReason(f"The recommendations are those of {move.name} {move.version}.")
    why = f"{move.name} {move.version} is the champion ({move.action})."
    return request_run(
        context,
        recommend_job.name,
        f"champion {move.revision}",
        why,
        pause=retry_pause(PAUSE, 4),
        blocked_by=REBUILDING,
    )
