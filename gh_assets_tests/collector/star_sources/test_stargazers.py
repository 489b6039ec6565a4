"""The REST list of stargazers."""

import json

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

import gh_assets.embedded.standin.app as standin_module
from gh_assets.collector.star_sources import stargazers
from gh_assets.collector.star_sources.base import CollectionTask, PreviousStars, stars_table
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.collecting import Collecting, ref, table_of
from gh_assets_tests.support.github import Json, client_of, served
from gh_assets_tests.support.worlds import world_of


def test_a_list_that_was_cut_is_continued_with_more_pages(collecting: Collecting) -> None:
    world = world_of({"a/b": list(range(350))})
    assert collecting.rest(world, max_pages=2).stars == 200
    collecting.standin.served.clear()
    report = collecting.rest(world, max_pages=10)
    assert (report.stars, report.pages, report.outcomes) == (350, 4, {"ok": 1})
    assert collecting.standin.served["304"] == 1, "the first page is known"
    assert collecting.rest(world, max_pages=10).pages == 0


def test_unchanged_pages_of_a_full_run_have_the_status_304(collecting: Collecting) -> None:
    world = world_of({"a/b": list(range(120)), "c/d": [1]})
    collecting.rest(world)
    before = collecting.tables.store.objects.describe("assets/stargazers/a/b.parquet")
    collecting.standin.served.clear()
    report = collecting.rest(world, full=True)
    assert (report.pages, report.pages_not_modified) == (3, 3)
    assert collecting.tables.store.objects.describe("assets/stargazers/a/b.parquet") == before, "no table is written"


def test_new_stars_are_read_without_sending_old_pages_again(github_of: GitHubOf, collecting: Collecting) -> None:
    _, client = github_of(world_of({"a/b": list(range(150))}))
    collecting.rest(world_of({"a/b": list(range(150))}), client)
    grown = world_of({"a/b": list(range(230))})
    _, client = github_of(grown)
    report = collecting.rest(grown, client)
    assert (report.pages, report.pages_not_modified, report.stars) == (3, 1, 230)
    assert collecting.users("a/b") == [5000 + user for user in range(230)]


@hypothesis_settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.integers(0, 320),
    unstarred=st.lists(st.integers(0, 319), max_size=5),
    more=st.sampled_from([0, 1, 80, 100, 180]),
    pages=st.sampled_from([1, 2, 10]),
)
def test_a_refresh_collects_the_same_stars_as_a_first_run(
    collecting: Collecting, before: int, unstarred: list[int], more: int, pages: int
) -> None:
    listed = [user for user in range(before + more) if user not in unstarred]
    collecting.state.collection.delete_many({})
    for partition in list(collecting.tables.partitions()):
        collecting.tables.delete(partition)
    collecting.rest(world_of({"a/b": list(range(before))}, users=600), max_pages=pages)
    collecting.rest(world_of({"a/b": listed}, users=600), max_pages=pages, full=True)
    stored, expected = collecting.users("a/b"), [5000 + user for user in listed]
    if len(expected) <= 100 * pages:
        assert stored == expected
    else:  # known stars beyond the last page are kept
        assert set(expected[: 100 * pages]) <= set(stored) <= set(range(5000, 5000 + before + more))


@pytest.mark.parametrize(
    ("response", "metadata_status", "outcome"),
    [
        (Response(b'{"message": "Not Found"}', 404), 200, Outcome.RESTRICTED),
        (Response(b'{"message": "Not Found"}', 404), 404, Outcome.GONE),
        (Response(b'{"message": "Resource not accessible by personal access token"}', 403), 200, Outcome.RESTRICTED),
        (Response(b"[]", 200), 200, Outcome.RESTRICTED),
        (Response(b'{"message": "blocked"}', 451), 451, Outcome.BLOCKED),
        (Response(b'{"message": "x", "block": {"reason": "tos"}}', 403), 403, Outcome.BLOCKED),
        (Response(b"", 502), 200, Outcome.UNKNOWN),
        (Response(b'{"message": "odd"}', 422), 200, Outcome.UNKNOWN),
    ],
    ids=["hidden 404", "gone", "403", "empty though counted", "451", "block reason", "failing", "422"],
)
def test_refusals_are_classified(
    collecting: Collecting, response: Response, metadata_status: int, outcome: Outcome
) -> None:
    metadata = Response(b'{"id": 1}', metadata_status)
    with served({"/repositories/1/stargazers": response, "/repositories/1": metadata}) as client:
        report = collecting.run([ref(stars=12)], RestStargazers(client, 10))
    assert report.states["a/b"].outcome is outcome
    assert collecting.tables.partitions() == set()


def entry(user: int | None) -> Json:
    star = None if user is None else {"login": f"u{user}", "id": user}
    return {"starred_at": "2020-01-01T00:00:00Z", "user": star}


def test_deleted_accounts_and_repeated_stars_are_left_out(collecting: Collecting) -> None:
    async def stargazers(request: Request) -> Response:
        # A star was taken back between the two pages, so that star 99 is repeated on page 2.
        if request.query_params["page"] == "1":
            headers = {"link": '<http://x/?page=2>; rel="next"'}
            return Response(json.dumps([entry(user) for user in (*range(1, 100), None)]), headers=headers)
        return Response(json.dumps([entry(99), entry(200)]))

    with served({"/repositories/1/stargazers": stargazers}) as client:
        report = collecting.run([ref(stars=101)], RestStargazers(client, 10))
    assert (report.stars, collecting.users("a/b")) == (100, [*range(1, 100), 200])


def test_a_missing_link_header_does_not_end_the_list_early(collecting: Collecting) -> None:
    async def stargazers(request: Request) -> Response:
        page = int(request.query_params["page"])
        users = range((page - 1) * 100 + 1, min(page * 100, 250) + 1)
        return Response(json.dumps([entry(user) for user in users]))

    with served({"/repositories/1/stargazers": stargazers}) as client:
        report = collecting.run([ref(stars=250)], RestStargazers(client, 10))
    assert report.stars == 250


@pytest.fixture
def short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make REST lists end after three pages, since tests with 40,000 stars would be slow."""
    monkeypatch.setattr(stargazers, "REST_PAGES", 3)
    monkeypatch.setattr(standin_module, "MAX_PAGE", 3)


def rest_and_more(client: GitHubClient, max_pages: int) -> RestStargazers:
    return RestStargazers(client, max_pages, lambda pages: GraphQLStargazers(client, pages))


@pytest.mark.usefixtures("short_rest")
def test_stars_beyond_the_last_page_of_rest_are_read_by_graphql(collecting: Collecting) -> None:
    world = world_of({"a/many": list(range(750)), "b/few": [1, 2], "c/edge": list(range(300))}, users=900)
    report = collecting.of_world(rest_and_more, world, max_pages=100)
    assert report.stars == world.star_count
    table = collecting.tables.read("a/many")[0]
    assert table["user_id"].to_list() == [5000 + user for user in range(750)]
    assert table["source"].unique().to_list() == ["stargazers"]
    assert {key: state.complete for key, state in report.states.items()} == dict.fromkeys(report.states, True)
    assert "stargazers 422" not in collecting.standin.served
    collecting.standin.served.clear()
    assert collecting.of_world(rest_and_more, world, max_pages=100).asked == 0
    grown = world_of({"a/many": list(range(780)), "b/few": [1, 2], "c/edge": list(range(300))}, users=900)
    report = collecting.of_world(rest_and_more, grown, max_pages=100)
    assert collecting.users("a/many") == [5000 + user for user in range(780)]
    assert (collecting.standin.served["304"], collecting.standin.quota.spent["graphql"]) == (3, 1 + 1)
    assert report.states["a/many"].complete


@pytest.mark.usefixtures("short_rest")
def test_a_gap_between_the_oldest_and_the_newest_pages_is_not_complete(collecting: Collecting) -> None:
    world = world_of({"a/many": list(range(950))})
    report = collecting.of_world(rest_and_more, world, max_pages=5)
    assert collecting.users("a/many") == [5000 + user for user in (*range(300), *range(750, 950))]
    assert not report.states["a/many"].complete
    report = collecting.of_world(rest_and_more, world, max_pages=20)
    assert (report.stars, report.states["a/many"].complete) == (950, True)


@pytest.mark.usefixtures("short_rest")
def test_pages_beyond_rest_are_kept_at_the_request_limit(github_of: GitHubOf, collecting: Collecting) -> None:
    world = world_of({"a/many": list(range(1500))})
    standin, client = github_of(world, max_requests=2 + 3 + 9)
    assert collecting.of_world(rest_and_more, world, client, 100).stopped
    standin.served.clear()
    report = collecting.of_world(rest_and_more, world, client_of(client.api_url, "token"), 100)
    assert report.stars == 1500
    assert standin.served["graphql"] == 1 + 4, "twelve pages and one with a known star, nine of which had been read"
    assert collecting.state.interrupted() == {}


@pytest.mark.parametrize("more", [[], [999]], ids=["one star less", "one less, one more"])
def test_star_that_moves_to_a_page_already_read_is_not_lost(more: list[int]) -> None:
    """A star is taken back after its page was read, so that the first star of the next page moves there."""
    listed = list(range(1, 202))

    async def stargazers(request: Request) -> Response:
        number = int(request.query_params["page"])
        users = listed[(number - 1) * 100 : number * 100]
        headers = {"etag": f'W/"{hash(tuple(users))}"'}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        headers |= {"link": '<http://x/?page=9>; rel="next"'} if number * 100 < len(listed) else {}
        if 50 in listed:
            listed[:] = [user for user in listed if user != 50] + more
        return Response(json.dumps([entry(user) for user in users]), 200, headers)

    async def metadata(_: Request) -> Response:
        return Response(json.dumps({"id": 1, "stargazers_count": len(listed)}))

    table = stars_table(1, [(n, f"u{n}") for n in listed], ["2020-01-01T00:00:00Z"] * 201, "stargazers")
    before = PreviousStars(table, [], complete=True, max_pages=10, source="stargazers", proven=True, entries=201)
    with served({"/repositories/1/stargazers": stargazers, "/repositories/1": metadata}) as client:
        task = CollectionTask(ref(stars=201), lambda: before, full=True)
        (collected,) = RestStargazers(client, 10).collect([task], 1)
        assert (collected.proven, collected.unstarred) == (False, None)
        assert set(listed) <= set(table_of(collected)["user_id"])
        (again,) = RestStargazers(client, 10).collect([task], 1)
    assert again.unstarred is not None
    assert set(table_of(again)["user_id"]) == set(listed)
    assert again.unstarred["user_id"].to_list() == [50]
