"""Checks of the star histories, and of the collected stars by them."""

from collections import Counter

import dagster as dg

from gh_assets.assets import star_history
from gh_assets.assets.metadata import markdown_table
from gh_assets.collector.history_agreement import FEW_SHARE, compare
from gh_assets.collector.history_reader import NO_HISTORIES
from gh_assets.collector.history_state import HistoryStates
from gh_assets.collector.state import CollectionState
from gh_assets.github.outcomes import Outcome
from gh_assets.resources import GcsResource, MongoResource

UNKNOWN_SHARE = 0.05
"""Share of histories that could not be read, or are not plausible, above which the check warns."""

TOO_FEW_SHARE = 0.25
"""Share of compared repositories with too few collected stars above which the check warns."""

LISTED = 10
"""Repositories that the metadata list."""


@dg.asset_check(asset=star_history)
def histories_could_be_read(mongo: MongoResource) -> dg.AssetCheckResult:
    """Nearly all star histories could be read, and their days add up to GitHub's count.

    Warns when more than a twentieth are unknown, or add up to another number. GitHub Enterprise has no histories, which
    is no failure.
    """
    with mongo.database() as database:
        states = list(HistoryStates(database).load().values())
    outcomes = Counter(state.outcome.value for state in states)
    unproven = sum(state.outcome is Outcome.OK and state.complete and not state.proven for state in states)
    problems = outcomes[Outcome.UNKNOWN.value] + unproven
    unavailable = outcomes[Outcome.UNAVAILABLE.value]
    return dg.AssetCheckResult(
        passed=problems <= UNKNOWN_SHARE * len(states),
        severity=dg.AssetCheckSeverity.WARN,
        description=NO_HISTORIES if unavailable and unavailable == len(states) else None,
        metadata={
            "outcomes": markdown_table(["outcome", "repositories"], sorted(outcomes.items())),
            "complete": sum(state.complete for state in states),
            "other_sum_than_githubs_count": unproven,
        },
    )


@dg.asset_check(asset=star_history)
def collected_stars_match_githubs_days(mongo: MongoResource, gcs: GcsResource) -> dg.AssetCheckResult:
    """The collected stars are those of GitHub's own count of each day.

    Compares the whole days that both know, of at most 1,000 repositories. Warns when more than a quarter of the
    repositories have less than 80 % of the stars that GitHub counts, as where only some users' lists are known.
    """
    with mongo.database() as database:
        stars, histories = CollectionState(database).load(), HistoryStates(database).load()
    pairs = [(stars[repo_id], history) for repo_id, history in sorted(histories.items()) if repo_id in stars]
    compared = compare(gcs.asset_store(), pairs)
    days = sum(one.days for one in compared)
    few = sorted((one for one in compared if one.has_too_few), key=lambda one: one.collected - one.counted)
    if not compared:
        description = "There is no repository with both collected stars and a star history."
    else:
        few_stars = f"{len(few):,} have less than {FEW_SHARE:.0%} of the stars that GitHub counts"
        description = f"{len(compared):,} repositories; {few_stars}."
    return dg.AssetCheckResult(
        passed=len(few) <= TOO_FEW_SHARE * len(compared),
        severity=dg.AssetCheckSeverity.WARN,
        description=description,
        metadata={
            "compared": len(compared),
            "days": days,
            "agreeing_days_share": sum(one.agreeing for one in compared) / days if days else 1.0,
            "with_too_few": len(few),
            "furthest_off": markdown_table(
                ["repository", "collected", "by GitHub's count"],
                [(one.full_name, one.collected, one.counted) for one in few[:LISTED]],
            ),
        },
    )
