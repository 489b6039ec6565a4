"""Reading star histories from the stand-in through the client: which pages are read, and what is noticed."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import Response

from gh_assets.collector import history_reader
from gh_assets.collector.history_reader import MISSING_HISTORIES, HistoryReader, HistoryReading, KnownHistory
from gh_assets.collector.star_history import GAP_SHARE, MIN_GAP, Weeks, stars_of
from gh_assets.collector.star_sources.base import RepositoryRef
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.faults import Faults
from gh_assets.errors import BudgetSpentError
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets_tests.conftest import GitHubOf, ServeWorld
from gh_assets_tests.support.collecting import ref
from gh_assets_tests.support.github import client_of, served
from gh_assets_tests.support.serving import serving
from gh_assets_tests.support.star_histories import StarredRepository
from gh_assets_tests.support.worlds import troubled_world


@dataclass
class Reading:
    """Reads the history of one repository several times, each time with what was read before."""

    github: StarredRepository
    standin: Standin
    client: GitHubClient
    max_pages: int = 100
    known: KnownHistory | None = None
    counted: int | None = None

    def read(self) -> HistoryReading:
        """Read the history, with GitHub's count as it is now, or as it was when the lists were read."""
        count = self.github.count if self.counted is None else self.counted
        repository = replace(ref(), stargazer_count=count)
        reading = HistoryReader(self.client, self.max_pages).read(repository, self.known)
        if reading.weeks is not None:
            self.known = KnownHistory(reading.weeks, reading.etag, reading.complete, reading.gap)
        return reading

    @property
    def days(self) -> dict[dt.date, int]:
        """The days that have stars, as they are known."""
        assert self.known is not None
        return days_of(self.known.weeks)


def days_of(weeks: Weeks) -> dict[dt.date, int]:
    return {week + dt.timedelta(n): stars for week, days in weeks.items() for n, stars in enumerate(days) if stars}


@pytest.fixture
def github() -> StarredRepository:
    """A repository of 100 weeks: four pages."""
    return StarredRepository(age=700)


@pytest.fixture
def reading(github: StarredRepository, serve_world: ServeWorld) -> Iterator[Reading]:
    standin, url = serve_world(github.world, clock=github.clock)
    with client_of(url, "token", clock=github.clock) as client:
        yield Reading(github, standin, client)


def test_a_history_is_read_to_the_week_of_the_creation(reading: Reading) -> None:
    reading.github.star(0, 1, 1, 40, 300, 690)
    first = reading.read()
    assert (first.outcome, first.complete, first.proven, first.gap) == (Outcome.OK, True, True, 0)
    assert first.requests == 4
    assert first.weeks is not None
    assert len(first.weeks) == 101
    assert reading.days == reading.github.stars_by_day()
    assert first.today == reading.github.today


def test_an_unchanged_history_costs_one_request_and_no_quota(reading: Reading) -> None:
    reading.github.star(0, 300)
    before = reading.read()
    used = reading.standin.used("token")
    again = reading.read()
    assert (again.requests, again.not_modified, reading.standin.used("token")) == (1, 1, used)
    assert (again.weeks, again.complete, again.proven, again.etag) == (before.weeks, True, True, before.etag)


def test_new_stars_are_read_with_the_first_page_alone(reading: Reading) -> None:
    reading.github.star(0, 300)
    reading.read()
    reading.github.pass_days(10)
    reading.github.star(0, 3)
    again = reading.read()
    assert (again.requests, again.complete, again.proven) == (1, True, True)
    assert reading.days == reading.github.stars_by_day()


def test_after_a_long_time_pages_are_read_until_they_agree(reading: Reading) -> None:
    reading.github.star(0, 300)
    reading.read()
    reading.github.pass_days(280)
    reading.github.star(0, 100, 270)
    assert reading.read().requests == 2
    assert reading.days == reading.github.stars_by_day()


def test_a_star_taken_back_within_the_first_page_lowers_its_day(reading: Reading) -> None:
    reading.github.star(5, 100, 300)
    reading.read()
    reading.github.take_back(1)
    assert reading.read().requests == 1
    assert reading.days == reading.github.stars_by_day()


def test_one_at_the_end_of_the_first_page_makes_the_next_one_be_read(reading: Reading) -> None:
    reading.github.star(5, 195, 300)
    reading.read()
    reading.github.take_back(1)
    assert reading.read().requests == 2
    assert reading.days == reading.github.stars_by_day()


def test_many_old_stars_taken_back_make_all_pages_be_read_again(reading: Reading) -> None:
    reading.github.star(5, *range(300, 320))
    reading.read()
    reading.github.take_back(*range(5))
    few = reading.read()
    assert few.requests == 1, "five stars are no reason"
    assert sum(reading.days.values()) == 21
    reading.github.take_back(0)
    many = reading.read()
    assert (many.proven, many.gap) == (True, 0)
    assert many.requests == 1 + 1 + 4 + 1, "the first page, the count, all pages, the count"
    assert reading.days == reading.github.stars_by_day()
    assert reading.read().requests == 1


def test_an_old_count_is_asked_for_again_before_all_pages_are(reading: Reading) -> None:
    reading.github.star(300)
    reading.read()
    reading.counted = 1
    reading.github.star(*[0] * 50)
    again = reading.read()
    assert (again.requests, again.proven, again.gap) == (2, True, 0)


def test_stars_that_github_does_not_date_are_a_gap_that_is_learned(reading: Reading) -> None:
    reading.github.star(*range(100))
    reading.github.repository.stargazers = np.zeros(108, np.int64)
    first = reading.read()
    assert (first.gap, first.proven, first.requests) == (8, True, 5)
    again = reading.read()
    assert (again.gap, again.proven, again.requests) == (8, True, 1)


def test_days_that_add_up_to_something_else_are_not_proven(reading: Reading) -> None:
    reading.github.star(*range(100))
    reading.github.repository.stargazers = np.zeros(50, np.int64)
    first = reading.read()
    assert (first.outcome, first.complete, first.proven) == (Outcome.OK, True, False)
    assert first.reason == "its days add up to 100 stars, but GitHub counts 50"
    again = reading.read()
    assert (again.requests, again.proven) == (1, False), "it is not read again and again"


def test_few_pages_at_a_time_are_completed_by_later_runs(reading: Reading) -> None:
    reading.github.star(0, 100, 250, 400, 600)
    reading.max_pages = 1
    results = [reading.read() for _ in range(4)]
    assert [one.complete for one in results] == [False, False, False, True]
    assert [one.requests for one in results] == [1, 2, 2, 2]
    assert [one.proven for one in results] == [False, False, False, True]
    assert reading.days == reading.github.stars_by_day()


def test_the_gap_is_not_learned_from_pages_of_several_runs(reading: Reading) -> None:
    reading.max_pages = 2
    reading.read()
    reading.github.star(*[207] * 3)
    assert reading.read().gap is None
    reading.github.star(*[207] * 3)
    again = reading.read()
    assert (again.gap, again.proven) == (0, True)
    assert reading.days == reading.github.stars_by_day()


def test_a_renamed_repository_is_read_by_its_id(reading: Reading) -> None:
    reading.github.star(0)
    world = reading.github.world
    world.by_name["new/name"] = world.by_name.pop("a/b")
    world.by_name["new/name"].full_name = "new/name"
    assert (reading.read().outcome, reading.days) == (Outcome.OK, reading.github.stars_by_day())


def refused(github_of: GitHubOf, repository: RepositoryRef, **options: bool) -> HistoryReading:
    _, client = github_of(troubled_world(), **options)
    return HistoryReader(client, 10).read(repository)


def test_histories_stay_open_where_lists_are_closed(github_of: GitHubOf) -> None:
    assert refused(github_of, ref(5, "closed/list", 3)).outcome is Outcome.OK


def test_gone_and_blocked_repositories_have_these_outcomes(github_of: GitHubOf) -> None:
    gone, blocked = refused(github_of, ref(404, "not/there")), refused(github_of, ref(4, "taken/down"))
    assert (gone.outcome, gone.reason, gone.weeks) == (Outcome.GONE, "404 Not Found", None)
    assert (blocked.outcome, blocked.weeks) == (Outcome.BLOCKED, None)


def test_enterprise_has_no_histories_and_is_asked_for_few(github_of: GitHubOf) -> None:
    _, client = github_of(troubled_world(), enterprise=True)
    reader = HistoryReader(client, 10)
    results = [reader.read(ref(1, "good/one", 250)) for _ in range(MISSING_HISTORIES + 5)]
    assert {(one.outcome, one.reason, one.weeks) for one in results} == {
        (Outcome.UNAVAILABLE, history_reader.NO_HISTORIES, None)
    }
    assert [one.requests for one in results] == [3] * MISSING_HISTORIES + [0] * 5


def test_a_github_that_has_had_histories_is_asked_on(github_of: GitHubOf) -> None:
    _, client = github_of(troubled_world(), enterprise=True)
    reader = HistoryReader(client, 10)
    known = KnownHistory({dt.date(2026, 1, 4): (0,) * 7})
    results = [reader.read(ref(1, "good/one", 250), known) for _ in range(MISSING_HISTORIES + 1)]
    assert [one.requests for one in results] == [3] * (MISSING_HISTORIES + 1)


def test_a_path_by_name_alone_is_found() -> None:
    """The documented path has the name; that by id is known from other lists."""
    page = Response(b'[{"week": 1788652800, "total": 1, "days": [1, 0, 0, 0, 0, 0, 0]}]')
    missing = Response(b'{"message": "Not Found"}', 404)
    metadata = Response(b'{"id": 1, "full_name": "a/b", "stargazers_count": 1}')
    responses = {
        "/repositories/1": metadata,
        "/repositories/1/stargazers/history": missing,
        "/repos/a/b/stargazers/history": page,
    }
    with served(responses) as client:
        reading = HistoryReader(client, 10).read(ref(stars=1))
    assert (reading.outcome, reading.proven, reading.requests) == (Outcome.OK, True, 3)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'[{"week": 1}]'])
def test_a_page_without_weeks_is_unknown_and_not_empty(body: bytes) -> None:
    with served({"/repositories/1/stargazers/history": Response(body)}) as client:
        reading = HistoryReader(client, 10).read(ref(stars=1))
    assert (reading.outcome, reading.weeks) == (Outcome.UNKNOWN, None)
    assert reading.reason is not None
    assert "star history" in reading.reason


def test_a_page_that_fails_leaves_the_history_unknown(reading: Reading) -> None:
    reading.github.star(0, 600)
    reading.standin.faults = Faults({"truncated": 1.0})
    failed = reading.read()
    assert (failed.outcome, failed.weeks) == (Outcome.UNKNOWN, None)
    reading.standin.faults = Faults({"wrong link": 0.5, "502": 0.2, "403 retry-after": 0.1})
    assert reading.read().outcome is Outcome.OK
    assert reading.days == reading.github.stars_by_day()


def test_the_cap_on_requests_ends_a_reading(github: StarredRepository, github_of: GitHubOf) -> None:
    _, client = github_of(github.world, clock=github.clock, max_requests=2)
    with pytest.raises(BudgetSpentError):
        HistoryReader(client, 10).read(ref(stars=0))


changes = st.lists(
    st.tuples(
        st.integers(0, 250),  # days that pass
        st.lists(st.integers(0, 690), max_size=8),  # ages of new stars: GitHub dates stars late, too
        st.lists(st.integers(0, 1000), max_size=8),  # places of stars that are taken back
        st.integers(1, 3),  # older pages
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes)
def test_whatever_changes_the_days_that_were_read_are_githubs(
    steps: list[tuple[int, list[int], list[int], int]],
) -> None:
    """Stored days of a complete history differ from GitHub's by no more stars than the gap may move."""
    github = StarredRepository(age=700)
    standin = Standin(github.world, ["token"], clock=github.clock)
    with serving(standin.app()) as url, client_of(url, "token", clock=github.clock) as client:
        reading = Reading(github, standin, client)
        for days, new, taken, max_pages in steps:
            github.pass_days(days)
            github.star(*new)
            github.take_back(*{place % github.count for place in taken if github.count})
            reading.max_pages = max_pages
            result = reading.read()
            assert result.outcome is Outcome.OK, result.reason
            assert result.weeks is not None
            newest = max(result.weeks)
            assert sorted(result.weeks, reverse=True) == [
                newest - dt.timedelta(7 * n) for n in range(len(result.weeks))
            ]
            true, stored = github.stars_by_day(), reading.days
            first_page = newest - dt.timedelta(7 * 29)
            assert {day: n for day, n in stored.items() if day >= first_page} == {
                day: n for day, n in true.items() if day >= first_page
            }
            if result.complete:
                assert abs(stars_of(result.weeks) - github.count) <= max(MIN_GAP, GAP_SHARE * github.count)
        reading.known = KnownHistory({})
        reading.max_pages = 100
        assert reading.read().proven
        assert reading.days == github.stars_by_day()
