"""Sensors that spend no quota: when to train again, which models to judge, when to recommend again."""

import datetime as dt
from functools import partial

import dagster as dg

from gh_assets.assets import collection_plan, recommendations, recvae_model, users
from gh_assets.assets.collection_plan import STARS_COLLECTED
from gh_assets.automation.jobs import REBUILDING, judge_job, rebuild_job, recommend_job
from gh_assets.automation.run_requests import NO_PLAN, RunReason, job_sensor, materialization_metadata
from gh_assets.registry import CHAMPION, PURPOSE, SERVED
from gh_assets.resources import PolicyResource, RegistryResource

_sensor = partial(job_sensor, pause=dt.timedelta(minutes=15), pause_ticks=4, blocked_by=REBUILDING)


@_sensor(job=rebuild_job, every=dt.timedelta(minutes=5))
def enough_new_stars(context: dg.SensorEvaluationContext, policy: PolicyResource) -> RunReason | dg.SkipReason:
    """Request one run for each model that is out of date.

    When a large enough share of the stars has changed since the last training (GH_ASSETS_RETRAIN_SHARE): rebuilds users
    and matrix, trains, judges and recommends. Spends no quota, but keeps the processor busy: off until you turn it on.
    """
    instance = context.instance
    stored = materialization_metadata(instance.get_latest_materialization_event(collection_plan.key)).get(
        STARS_COLLECTED
    )
    if stored is None:
        return dg.SkipReason(NO_PLAN)
    if not stored:
        return dg.SkipReason("No stars have been collected yet.")
    last = _users_of_the_last_training(instance)
    used = int(materialization_metadata(last).get(STARS_COLLECTED, 0))
    changed, enough = abs(stored - used), policy.retrain_share * used
    if changed < enough:
        return dg.SkipReason(f"{changed:,} stars changed since the last training; {enough:,.0f} are enough.")
    state = "stars of the first training" if last is None else f"stars since {last.timestamp:.3f}"
    return RunReason(state, f"{changed:,} of {stored:,} stars are new.")


def _users_of_the_last_training(instance: dg.DagsterInstance) -> dg.EventLogEntry | None:
    """Return the materialization of `users` from which the newest RecVAE was trained; later ones trained nothing."""
    trained = instance.get_latest_materialization_event(recvae_model.key)
    if trained is None:
        return None
    before = dg.AssetRecordsFilter(asset_key=users.key, before_timestamp=trained.timestamp)
    records = instance.fetch_materializations(before, limit=1).records
    return records[0].event_log_entry if records else None


@_sensor(job=judge_job, every=dt.timedelta(minutes=1))
def models_to_judge(context: dg.SensorEvaluationContext, registry: RegistryResource) -> RunReason | dg.SkipReason:
    """Request one run for each newest model, and further ones as long as there is no decision about it.

    When a registered model has not been judged (such as one of gh-assets tune), was refused, or could not be judged:
    compares it with the champion on the same held-out users, and promotes it if it is better. Off until you turn it on.
    """
    with registry.open() as opened:
        models, last = [model for model in opened.list() if model.name in SERVED], opened.decisions.last()
    if not models:
        return dg.SkipReason("No model is registered yet.")
    newest = {model.name: model for model in reversed(models)}
    unjudged = [model for model in newest.values() if last is None or last.newest.get(model.name, 0) < model.version]
    if not unjudged and last is not None and not last.undecided:
        return dg.SkipReason(f"{models[0].title}, the newest model, has been judged.")
    text = " ".join(f"{model.title} is new." for model in unjudged)
    if not unjudged and last is not None:
        text = f"There was no decision the last time: {last.summary}"
    return RunReason(f"models {', '.join(model.title for model in newest.values())}", text)


@_sensor(job=recommend_job, every=dt.timedelta(minutes=1))
def champion_changed(context: dg.SensorEvaluationContext, registry: RegistryResource) -> RunReason | dg.SkipReason:
    """Request one run for each move of the alias.

    When a model was promoted or rolled back, by the gate or by hand: materializes the recommendations of all users
    again. Off until you turn it on.
    """
    with registry.open() as opened:
        moves = opened.aliases.history(PURPOSE, CHAMPION)
    if not moves:
        return dg.SkipReason("There is no champion yet.")
    move = moves[0]
    last = context.instance.get_latest_materialization_event(recommendations.key)
    if last is not None and materialization_metadata(last).get("champion_revision", -1) >= move.revision:
        return dg.SkipReason(f"The recommendations are those of {move.title}.")
    return RunReason(f"champion {move.revision}", f"{move.title} is the champion ({move.action}).")


MODEL_SENSORS = [enough_new_stars, models_to_judge, champion_changed]
