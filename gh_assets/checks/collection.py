"""Checks of the collected data."""

from collections import Counter

import dagster as dg
import polars as pl

from gh_assets.assets import repos, stargazers, users
from gh_assets.assets.metadata import markdown_table
from gh_assets.collector.star_sources.base import OWN_LIST_SOURCES
from gh_assets.collector.state import CollectionState, RepositoryState
from gh_assets.github.limits import PAGE_SIZE
from gh_assets.github.outcomes import REACHABLE, Outcome
from gh_assets.resources import MongoResource

GONE_SHARE = 0.1
"""Share of listed repositories that are gone or blocked above which the check warns."""

RESTRICTED_SHARE = 0.25
"""Share of repositories with closed lists above which the check warns: the data lack too many stars."""

UNKNOWN_SHARE = 0.05
"""Share of repositories that could not be read above which the check warns: the network, the quota, or a limit."""

TOLERANCE, MIN_DIFFERENCE = 0.02, 5
"""Differences from GitHub's count, relative or in stars, that are no error: stars change while a list is read."""

MATCHING_SHARE, ALARMING_SHARE = 0.95, 0.5
"""Shares of matching repositories below which the check warns, and fails."""

LISTED = 10
"""Repositories that the metadata list."""


@dg.asset_check(asset=repos)
def listed_repositories_are_there(repos: pl.DataFrame) -> dg.AssetCheckResult:
    """Nearly all repositories that the lists name can be reached.

    Warns when more than a tenth are gone or blocked; fails when none can be reached.
    """
    outcomes = Counter(repos["outcome"].to_list())
    reachable = sum(outcomes[outcome.value] for outcome in REACHABLE)
    lost = outcomes[Outcome.GONE.value] + outcomes[Outcome.BLOCKED.value]
    return dg.AssetCheckResult(
        passed=reachable > 0 and lost <= GONE_SHARE * repos.height,
        severity=dg.AssetCheckSeverity.WARN if reachable else dg.AssetCheckSeverity.ERROR,
        metadata={
            "outcomes": markdown_table(["outcome", "repositories"], sorted(outcomes.items())),
            "gone_or_blocked_share": lost / max(1, repos.height),
        },
    )


@dg.asset_check(asset=stargazers)
def stargazers_could_be_listed(mongo: MongoResource) -> dg.AssetCheckResult:
    """Few repositories lack stars because their lists are closed or could not be read.

    Warns when more than a quarter are restricted, or more than a twentieth unknown. Closed lists whose stars come from
    another source do not count.
    """
    with mongo.database() as database:
        states = list(CollectionState(database).load().values())
    outcomes = Counter(state.outcome.value for state in states)
    sources = Counter(state.source for state in states if state.source is not None)
    total = sum(outcomes.values())
    restricted = outcomes[Outcome.RESTRICTED.value]
    unknown = outcomes[Outcome.UNKNOWN.value]
    return dg.AssetCheckResult(
        passed=total > 0 and restricted <= RESTRICTED_SHARE * total and unknown <= UNKNOWN_SHARE * total,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "outcomes": markdown_table(["outcome", "repositories"], sorted(outcomes.items())),
            "sources": markdown_table(["stars from", "repositories"], sorted(sources.items())),
            "lists_closed": sum(state.closed_at is not None for state in states),
            "restricted_share": restricted / total if total else 0.0,
            "unknown": unknown,
        },
    )


@dg.asset_check(asset=stargazers)
def stars_match_githubs_count(mongo: MongoResource) -> dg.AssetCheckResult:
    """The stored stars match GitHub's count.

    Of repositories whose own lists were read to the end, nearly all have as many stars stored as GitHub counts (2 % or
    5 stars may differ: lists change while they are read). Warns below 95 %, red below 50 %.
    """
    with mongo.database() as database:
        states = list(CollectionState(database).load().values())
    compared = [state for state in states if _comparable(state)]
    off = [state for state in compared if not _matches(state)]
    share = 1 - len(off) / len(compared) if compared else 1.0
    off.sort(key=lambda state: abs((state.stars or 0) - (state.stargazer_count or 0)), reverse=True)
    return dg.AssetCheckResult(
        passed=share >= MATCHING_SHARE,
        severity=dg.AssetCheckSeverity.ERROR if share < ALARMING_SHARE else dg.AssetCheckSeverity.WARN,
        metadata={
            "compared": len(compared),
            "matching_share": share,
            "furthest_off": markdown_table(
                ["repository", "stored", "by GitHub's count"],
                [(state.full_name, state.stars, state.stargazer_count) for state in off[:LISTED]],
            ),
        },
    )


def _comparable(state: RepositoryState) -> bool:
    return (
        state.outcome is Outcome.OK
        and state.source in OWN_LIST_SOURCES
        and (state.complete or not state.proven)
        and state.stars is not None
        and state.stargazer_count is not None
        and state.stargazer_count <= state.max_pages * PAGE_SIZE
    )


def _matches(state: RepositoryState) -> bool:
    assert state.stars is not None
    assert state.stargazer_count is not None
    return abs(state.stars - state.stargazer_count) <= max(MIN_DIFFERENCE, TOLERANCE * state.stargazer_count)


@dg.asset_check(
    asset=users, additional_ins={"stargazers": dg.AssetIn("stargazers", metadata={"columns": ["repo_id", "user_id"]})}
)
def no_star_twice(stargazers: pl.DataFrame) -> dg.AssetCheckResult:
    """No user starred a repository twice; otherwise a source has joined pages wrongly."""
    twice = stargazers.height - stargazers.select(pl.struct("repo_id", "user_id").n_unique()).item()
    return dg.AssetCheckResult(passed=twice == 0, metadata={"stars": stargazers.height, "twice": int(twice)})


@dg.asset_check(
    asset=users,
    blocking=True,
    additional_ins={"stargazers": dg.AssetIn("stargazers", metadata={"columns": ["user_id"]})},
)
def every_star_has_its_user(users: pl.DataFrame, stargazers: pl.DataFrame) -> dg.AssetCheckResult:
    """The users are exactly those who starred a repository."""
    starred = stargazers.select("user_id").unique()
    missing = starred.join(users, on="user_id", how="anti").height
    without = users.join(starred, on="user_id", how="anti").height
    return dg.AssetCheckResult(
        passed=missing == 0 and without == 0 and users["user_id"].is_unique().all(),
        description=(
            f"{users.height:,} users; {missing:,} users of stars are not among them, and {without:,} of them have no "
            "star. If they differ, stars were collected while users were merged: materialize users again."
        ),
        metadata={"stars_without_user": missing, "users_without_star": without},
    )
