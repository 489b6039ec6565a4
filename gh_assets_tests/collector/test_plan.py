"""The collection plan: what is due, in which order, within which budget."""

import datetime as dt
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gh_assets.collector.history_state import HistoryState
from gh_assets.collector.plan import (
    ALL_REASONS,
    DueReason,
    RefreshPolicy,
    StoredPlan,
    affordable_prefix,
    due,
    feeds_due,
    named,
    parse_reasons,
    plan_table,
    summarize,
)
from gh_assets.collector.state import RepositoryState
from gh_assets.errors import InputError
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import COLLECTION_PLAN, REPOS, UTC_TIME

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


def plan_of(*rows: dict[str, Any]) -> pl.DataFrame:
    """Return a plan; by default, a repository was read an hour ago and has not changed."""
    read = {"outcome": "ok", "asked_at": NOW - HOUR, "collected_at": NOW - HOUR, "closed_at": None, "proven": True}
    usual = {"stargazer_count": 100, "counted_then": 100, "stars": 100} | read
    names = [{"repo_id": n, "partition": f"o/{n}", "full_name": f"o/{n}"} for n in range(1, len(rows) + 1)]
    return pl.DataFrame([name | usual | row for name, row in zip(names, rows, strict=True)], COLLECTION_PLAN.dtypes)


NEVER = dict.fromkeys(("counted_then", "stars", "outcome", "asked_at", "collected_at"))
"""What is known of a repository that was never requested."""


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, None),
        (NEVER, DueReason.NEW),
        ({"outcome": "unknown"}, DueReason.FAILED),
        ({"outcome": "unknown", "asked_at": NOW - HOUR / 2}, None),
        ({"outcome": "restricted", "asked_at": NOW - 8 * DAY}, DueReason.RESTRICTED),
        ({"outcome": "restricted", "asked_at": NOW - 6 * DAY}, None),
        ({"stargazer_count": 105, "asked_at": NOW - DAY}, DueReason.MOVED),
        ({"stargazer_count": 95, "asked_at": NOW - DAY}, DueReason.MOVED),
        ({"stargazer_count": 104, "asked_at": NOW - DAY}, None),
        ({"stargazer_count": 105}, None),
        ({"proven": False, "asked_at": NOW - DAY}, DueReason.INCOMPLETE),
        ({"proven": None, "asked_at": NOW - DAY}, DueReason.INCOMPLETE),
        ({"proven": False}, None),
        ({"gained": 5, "asked_at": NOW - DAY}, DueReason.MOVED),
        ({"gained": 5, "stargazer_count": None, "asked_at": NOW - DAY}, DueReason.MOVED),
        ({"gained": 4, "asked_at": NOW - DAY}, None),
        ({"gained": 5}, None),
        ({"gained": 0, "stargazer_count": 105, "asked_at": NOW - DAY}, DueReason.MOVED),
        ({"asked_at": NOW - 30 * DAY}, DueReason.OLD),
        ({"asked_at": NOW - 29 * DAY}, None),
    ],
)
def test_reason_why_a_repository_is_due(row: dict[str, Any], reason: DueReason | None) -> None:
    found = due(plan_of(row), NOW, RefreshPolicy())
    assert found["why"].to_list() == ([] if reason is None else [reason.value])


def test_a_history_shows_news_that_the_count_hides() -> None:
    """As many stars were taken back as were given, or the count is older than the history."""
    gained, counted = ({name: 250, "asked_at": NOW - DAY} for name in ("gained", "stargazer_count"))
    found = due(plan_of(gained, counted | {"counted_then": 0}), NOW, RefreshPolicy())
    assert found["news"].round().to_list() == [250.0, 250.0]
    assert found["pages"].to_list() == [3, 3]


def test_stars_gained_are_those_of_the_days_after_the_stars_were_read() -> None:
    state = RepositoryState(
        repo_id=1, partition="o/1", full_name="o/1", outcome=Outcome.OK, stars=9, collected_at=NOW, asked_at=NOW
    )
    usual: dict[str, Any] = {"partition": "o/1", "full_name": "o/1", "outcome": Outcome.OK, "recent": [1, 2, 4]}
    row = {"repo_id": 1, "partition": "o/1", "full_name": "o/1", "topics": [], "lists": [], "outcome": "ok"}
    repos = pl.DataFrame([row], schema=REPOS.dtypes)

    def gained(after: int | None, states: dict[int, RepositoryState]) -> object:
        midnight = NOW.replace(hour=0)
        until = None if after is None else midnight + after * DAY
        return plan_table(repos, states, {1: HistoryState(repo_id=1, read_until=until, **usual)})["gained"][0]

    assert gained(0, {1: state}) is None
    assert gained(1, {1: state}) == 4
    assert gained(2, {1: state}) == 6
    assert gained(4, {1: state}) is None
    assert gained(None, {1: state}) is None
    assert gained(2, {}) is None
    assert plan_table(repos, {1: state})["gained"].to_list() == [None]


def test_policy_without_waiting() -> None:
    failed, restricted = ({"outcome": outcome, "asked_at": NOW} for outcome in ("unknown", "restricted"))
    plan = plan_of({}, failed, restricted, {"stargazer_count": 101})
    found = due(plan, NOW, RefreshPolicy().without_waiting())
    assert dict(found.select("partition", "why").rows()) == {"o/2": "failed", "o/3": "restricted", "o/4": "moved"}


def test_repositories_with_most_news_per_page_come_first() -> None:
    plan = plan_of(
        {"asked_at": NOW - 40 * DAY},
        NEVER | {"stargazer_count": 950},
        {"stargazer_count": 190, "asked_at": NOW - 2 * DAY},
        {"stargazer_count": 110, "asked_at": NOW - 2 * DAY},
        {"outcome": "restricted", "asked_at": NOW - 8 * DAY, "stars": None, "counted_then": None},
        NEVER | {"stargazer_count": 90_000},
    )
    found = due(plan, NOW, RefreshPolicy())
    assert found["partition"].to_list() == ["o/6", "o/2", "o/3", "o/4", "o/5", "o/1"]
    assert dict(found.select("partition", "pages").rows()) == {
        "o/6": 10, "o/2": 10, "o/3": 1, "o/4": 1, "o/5": 1, "o/1": 1,
    }  # fmt: skip
    assert affordable_prefix(found, 21)["partition"].to_list() == ["o/6", "o/2", "o/3"]
    assert affordable_prefix(found, 0).height == 0
    assert affordable_prefix(found, None).height == 6
    assert summarize(found) == "2 new, 1 restricted, 2 moved, 1 old: 24 pages"


rows = st.fixed_dictionaries(
    {
        "stargazer_count": st.none() | st.integers(0, 500_000),
        "counted_then": st.none() | st.integers(0, 500_000),
        "stars": st.none() | st.integers(0, 1000),
        "outcome": st.sampled_from([None, "ok", "restricted", "unknown", "gone"]),
        "proven": st.sampled_from([None, False, True]),
        "asked_at": st.none() | st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2026, 11, 25)).map(
            lambda when: when.replace(tzinfo=dt.UTC)
        ),
    }
)  # fmt: skip


SLIGHTLY_MOVED = {"stargazer_count": 101, "counted_then": 100, "proven": False, "asked_at": NOW - 2 * DAY}
"""A list that is incomplete, and whose count moved by less than the policy waits for."""


@given(st.lists(rows, max_size=20), st.integers(0, 60), st.sets(st.sampled_from(ALL_REASONS)))
@example([SLIGHTLY_MOVED], 60, {DueReason.INCOMPLETE})
def test_invariants_of_plans(drawn: list[dict[str, Any]], budget: int, kinds: set[DueReason]) -> None:
    plan = plan_of(*drawn)
    found = due(plan, NOW, RefreshPolicy(), kinds)
    assert set(found["why"]) <= {kind.value for kind in kinds}
    assert found["partition"].is_unique().all()
    assert found["pages"].is_between(1, 10).all()
    assert found["news"].null_count() == 0
    value = (found["news"] / found["pages"]).to_list()
    assert value == sorted(value, reverse=True)
    chosen = affordable_prefix(found, budget)
    assert int(chosen["pages"].sum()) <= budget
    assert chosen.equals(found.head(chosen.height)), "a prefix"
    # The reason may be another one: an incomplete list whose count moved a little counts as moved.
    sooner = due(plan, NOW, RefreshPolicy().without_waiting())
    assert set(found["partition"]) <= set(sooner["partition"]), "waiting only postpones"


def test_unknown_partitions_and_reasons_are_errors() -> None:
    plan = plan_of({}, {})
    assert named(plan, ["o/2"], NOW, 10)["why"].to_list() == ["named"]
    with pytest.raises(InputError, match="'o/3' is no partition"):
        named(plan, ["o/3"], NOW, 10)
    with pytest.raises(InputError, match="'sometimes' is no reason"):
        parse_reasons(["new", "sometimes"])


FEED = {"closed_at": NOW - DAY, "looked_at": NOW - DAY, "next_look_at": NOW, "events_a_day": 10.0, "stars_a_day": 5.0}
"""A feed that is due."""


def test_feeds_are_due_by_their_own_time() -> None:
    plan = plan_of({}, {"closed_at": NOW - DAY}, FEED, FEED | {"closed_at": None}, FEED | {"next_look_at": NOW + HOUR})
    found = feeds_due(plan, NOW)
    assert set(found["partition"]) == {"o/2", "o/3", "o/4"}
    assert found["why"].unique().to_list() == ["feed"]
    assert found.columns == due(plan, NOW, RefreshPolicy()).columns
    assert dict(found.select("partition", "news").rows())["o/3"] == pytest.approx(5)


def test_feeds_that_fill_up_first_come_first() -> None:
    plan = plan_of(
        FEED | {"events_a_day": 1.0},
        FEED | {"events_a_day": 250.0, "stars_a_day": 30.0},
        FEED | {"looked_at": NOW - HOUR, "events_a_day": 250.0},
        {"closed_at": NOW - DAY},
        FEED | {"looked_at": NOW - 4 * DAY},
    )
    found = feeds_due(plan, NOW)
    assert found["partition"].to_list() == ["o/5", "o/2", "o/4", "o/1", "o/3"]
    assert found["pages"].to_list() == [1, 3, 1, 1, 1]
    assert affordable_prefix(found, 4)["partition"].to_list() == ["o/5", "o/2"]


def test_a_look_at_a_feed_leaves_other_reasons_as_they_are() -> None:
    assert DueReason.FEED not in ALL_REASONS
    assert parse_reasons(["feed"]) == (DueReason.FEED,)
    assert due(plan_of(FEED), NOW, RefreshPolicy()).is_empty()


def test_the_fingerprint_of_a_plan_does_not_change_with_looks() -> None:
    plan = plan_of(FEED, {})
    looked = plan.with_columns(looked_at=pl.lit(NOW, UTC_TIME), events_a_day=pl.lit(7.0), stars=pl.lit(9, pl.Int64))
    counted = plan.with_columns(stargazer_count=pl.lit(10_000, pl.Int64))
    assert StoredPlan(plan, 1).fingerprint() == StoredPlan(looked, 2).fingerprint()
    assert StoredPlan(plan, 1).fingerprint() != StoredPlan(counted, 1).fingerprint()
