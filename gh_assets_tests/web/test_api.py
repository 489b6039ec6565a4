"""The API as programs use it: lists with reasons, filters, paging, feedback and clear errors; and its documentation."""

import contextlib
import io
import json
import re
from statistics import mean
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gh_assets.serving.ranking import AllLists
from gh_assets.serving.snapshot import load_current_snapshot
from gh_assets.web.api import LoginParameters
from gh_assets_tests.support.commands import answer_json
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.served_home import (
    FIRST,
    PEOPLE,
    SUBJECTS,
    UNCOLLECTED_LOGIN,
    Running,
    ServedHome,
    name_of,
    opened,
    rows_of,
)
from gh_assets_tests.support.waiting import until


def listed(server: Running, path: str, **parameters: Any) -> dict[str, Any]:
    response = server.get(f"/api/v1{path}", params=parameters)
    assert response.status_code == 200, response.text
    return dict(response.json())


def names(response: dict[str, Any]) -> list[str]:
    return [entry["full_name"] for entry in response["recommendations"]]


def test_collected_user_gets_unstarred_repositories_with_own_reasons(server: Running, served_home: ServedHome) -> None:
    response = listed(server, "/users/person-4/recommendations", n=10)
    assert response["for"].startswith("Person-4 (")
    assert response["model"] == {"name": "hybrid", "version": 1, "score": 0.3, "metric": "ndcg@100"}
    starred = {str(name) for name in served_home.matrix.full_names[served_home.matrix.stars[[4]].indices]}
    assert response["known_stars"] == len(starred) == response["used_stars"]
    assert not response["cold_start"]
    assert [entry["rank"] for entry in response["recommendations"]] == list(range(1, 11))
    for entry in response["recommendations"]:
        assert entry["full_name"] not in starred
        assert (entry["kind"], entry["cold_start"]) == ("personal", False)
        assert {reason["full_name"] for reason in entry["because"]} <= starred
        assert 0 < sum(reason["share"] for reason in entry["because"]) <= 1 + 1e-6
        assert entry["description"].startswith(("Draw", "Pipes", "Bread"))
        assert entry["topics"]
        assert entry["stars"]
        assert not entry["archived"]
    kinds = [entry["language"] for entry in response["recommendations"]]
    assert kinds[0] == "Go", "of the user's subject"


def test_asset_command_and_api_return_the_same_lists(
    server: Running, served_home: ServedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = load_current_snapshot(served_home.settings)
    table = pl.concat(list(snapshot.ranker.recommend_all(served_home.matrix, AllLists(15))))
    for user in range(0, PEOPLE, 7):
        login = f"Person-{user}"
        rows = table.filter(pl.col("login") == login)
        response = listed(server, f"/users/{login}/recommendations", n=15)
        assert names(response) == rows["full_name"].to_list()
        because = [[reason["full_name"] for reason in entry["because"]] for entry in response["recommendations"]]
        assert because == rows["because"].to_list()
    monkeypatch.setenv("GH_ASSETS_HOME", str(served_home.settings.home))
    liked = [name_of(0), name_of(3), "no/such"]
    for arguments, path, parameters in (
        (["person-0"], "/users/person-0/recommendations", {}),
        (["PERSON-31"], "/users/PERSON-31/recommendations", {}),
        (["--repos", ",".join(liked), "--language", "go"], "/recommendations", {"repo": liked, "language": "go"}),
        (["--popular"], "/recommendations", {}),
    ):
        document = answer_json("recommend", *arguments, "-n", "15")
        response = listed(server, path, n=15, **parameters)
        assert names(document) == names(response)
        assert document["warnings"] == response["warnings"]
        assert document["model"] == response["model"]


def test_recommendations_for_a_few_repositories(server: Running) -> None:
    response = listed(server, "/recommendations", repo=[name_of(0).upper(), name_of(3)], n=5)
    assert all(name.startswith("painters/") for name in names(response)[:3])
    reasons = {reason["full_name"] for entry in response["recommendations"] for reason in entry["because"]}
    assert reasons <= {name_of(0), name_of(3)}
    posted = server.post("/api/v1/recommendations", json={"repositories": [name_of(0), name_of(3)], "n": 5})
    assert names(posted.json()) == names(response)


def test_unknown_user_gets_popular_repositories_and_a_warning(server: Running) -> None:
    response = listed(server, "/recommendations", n=6)
    assert response["cold_start"]
    assert {entry["kind"] for entry in response["recommendations"]} == {"popular"}
    assert len({entry["language"] for entry in response["recommendations"]}) == len(SUBJECTS), "of all subjects"
    assert "popular repositories" in response["warnings"][0]


def test_repositories_unknown_to_the_model_are_listed_as_new(server: Running) -> None:
    response = listed(server, "/users/person-0/recommendations")
    assert {entry["kind"] for entry in response["new"]} == {"new"}
    assert response["new"][0]["full_name"] == name_of(len(SUBJECTS) * 24), "the new one of the user's subject"
    assert all(entry["cold_start"] and entry["because"] for entry in response["new"])
    second = listed(server, "/users/person-0/recommendations", cursor=response["next"])
    assert second["new"] == [], "only on the first page"


# -- filters, order, pages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "passes"),
    [
        ({"language": "RUST"}, lambda entry: entry["language"] == "Rust"),
        ({"topic": ["Painting", "awesome"]}, lambda entry: {"painting", "awesome"} <= set(entry["topics"])),
        ({"owner": "Bakers"}, lambda entry: entry["full_name"].startswith("bakers/")),
        ({"min_stars": 400}, lambda entry: entry["stars"] >= 400),
        ({"max_stars": 90}, lambda entry: entry["stars"] <= 90),
        ({"min_stars": 100, "max_stars": 300}, lambda entry: 100 <= entry["stars"] <= 300),
        ({"archived": "only"}, lambda entry: entry["archived"]),
        ({"archived": "no"}, lambda entry: not entry["archived"]),
    ],
)
def test_filters(server: Running, served_home: ServedHome, parameters: dict[str, Any], passes: Any) -> None:
    result = listed(server, "/users/person-9/recommendations", n=100, **parameters)
    starred = set(served_home.matrix.repo_ids[served_home.matrix.stars[[9]].indices].tolist())
    known = {row["repo_id"]: row for row in served_home.rows[: len(SUBJECTS) * 24]}
    archived = parameters.get("archived") == "only"
    expected = {
        repo_id
        for repo_id, row in known.items()
        if passes(row | {"stars": row["stargazer_count"]})
        and repo_id not in starred
        and bool(row["archived"]) == archived
    }
    assert {entry["repo_id"] for entry in result["recommendations"]} == expected
    assert all(passes(entry) for entry in result["new"])
    popular = listed(server, "/recommendations", n=100, **parameters)
    assert all(passes(entry) for entry in popular["recommendations"])


def test_including_archived_repositories_gives_more(server: Running) -> None:
    without, both = (listed(server, "/users/person-9/recommendations", n=100, archived=a) for a in ("no", "yes"))
    assert set(names(without)) < set(names(both))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    user=st.integers(0, PEOPLE - 1),
    size=st.integers(1, 30),
    order=st.fixed_dictionaries(
        {"popularity": st.sampled_from([-1, -0.3, 0, 0.5, 1]), "diversity": st.sampled_from([None, 0, 0.4, 1])}
    ),
    filters=st.sampled_from([{}, {"language": "go"}, {"min_stars": 200}, {"archived": "yes"}]),
    cold=st.booleans(),
)
def test_pages_together_are_the_whole_list(
    server: Running, user: int, size: int, order: dict[str, Any], filters: dict[str, Any], cold: bool
) -> None:
    path = "/recommendations" if cold else f"/users/person-{user}/recommendations"
    more = order | filters
    whole = listed(server, path, n=100, **more)
    result: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = listed(server, path, n=size, cursor=cursor, **more)
        result += page["recommendations"]
        cursor = page["next"]
        assert len(page["recommendations"]) == size or cursor is None
    assert [entry["full_name"] for entry in result] == names(whole)
    assert [entry["rank"] for entry in result] == list(range(1, len(result) + 1))


def test_page_does_not_repeat_what_was_shown_in_another_order(server: Running) -> None:
    first = listed(server, "/users/person-5/recommendations", n=10)
    second = listed(server, "/users/person-5/recommendations", n=10, popularity=-1, cursor=first["next"])
    assert not set(names(first)) & set(names(second))


def test_popularity_parameter_shifts_the_number_of_stars(server: Running, served_home: ServedHome) -> None:
    counts = dict(
        zip(served_home.matrix.full_names.tolist(), served_home.matrix.stars.sum(axis=0).tolist(), strict=True)
    )

    def mean_count(popularity: float, path: str) -> Any:
        return mean(counts[name] for name in names(listed(server, path, n=10, popularity=popularity)))

    person = "/users/person-8/recommendations"
    assert mean_count(-1, person) < mean_count(0, person) < mean_count(1, person)
    assert mean_count(-1, "/recommendations") < mean_count(0, "/recommendations")


def test_diversity_adds_other_subjects(server: Running) -> None:
    def kinds(diversity: float) -> int:
        result = listed(server, "/recommendations", repo=[name_of(0), name_of(6)], n=12, diversity=diversity)
        return len({entry["language"] for entry in result["recommendations"]})

    assert kinds(0.9) > kinds(0)


def test_own_repositories_and_forks_of_stars_are_excluded_by_default(own_served_home: ServedHome) -> None:
    starred = own_served_home.matrix.stars[[7]].indices
    own, fork = [place for place in range(60) if place not in starred and place % 17 != 16][:2]
    origin = FIRST + int(starred[0])
    changes: dict[int, dict[str, Any]] = {own: {"full_name": "person-7/its-own"}, fork: {"fork_of": origin}}
    own_served_home.write_repositories(rows_of(changes))
    with opened(own_served_home.settings) as server:
        for wanted, hidden in (
            ({}, {FIRST + own, FIRST + fork}),
            ({"own": True}, {FIRST + fork}),
            ({"forks": True}, {FIRST + own}),
        ):
            result = listed(server, "/users/person-7/recommendations", n=100, **wanted)
            ids = {entry["repo_id"] for entry in result["recommendations"]}
            assert not ids & hidden
            assert {FIRST + own, FIRST + fork} - hidden <= ids


# -- repositories -----------------------------------------------------------------------------------------------------


def test_similar_repositories_are_starred_by_the_same_users(server: Running) -> None:
    result = listed(server, f"/repositories/{name_of(1)}/similar", n=8)
    assert result["repository"]["full_name"] == name_of(1)
    assert result["collected"]
    assert {entry["kind"] for entry in result["similar"]} == {"stars"}
    assert name_of(1) not in {entry["full_name"] for entry in result["similar"]}
    likeness = [entry["likeness"] for entry in result["similar"]]
    assert likeness == sorted(likeness, reverse=True)
    shared = next(entry["shared"] for entry in result["similar"] if entry["language"] == "Go")
    assert "plumbing" in shared


def test_similar_repositories_of_one_unknown_to_the_model_are_similar_in_content(server: Running) -> None:
    new = name_of(len(SUBJECTS) * 24 + 2)
    result = listed(server, f"/repositories/{new}/similar", n=5)
    assert {entry["kind"] for entry in result["similar"]} == {"content"}
    assert all(entry["language"] == "Rust" for entry in result["similar"])


def test_similar_repositories_of_an_uncollected_one_use_its_description_on_github(server: Running) -> None:
    result = listed(server, "/repositories/outside/plumbing-hall/similar", n=5)
    assert not result["collected"]
    assert result["repository"]["description"] == "Pipes, valves and taps for every house"
    assert all(entry["language"] == "Go" for entry in result["similar"])
    renamed = listed(server, "/repositories/outside/before/similar", n=3)
    assert renamed["repository"]["full_name"] == "outside/now"


def test_search_by_name(server: Running) -> None:
    result = server.get("/api/v1/repositories", params={"q": "bak", "n": 5}).json()
    assert [entry["full_name"].partition("/")[0] for entry in result] == ["bakers"] * 5
    assert [entry["stars"] for entry in result] == sorted((e["stars"] for e in result), reverse=True)
    assert server.get("/api/v1/repositories", params={"q": "no such thing"}).json() == []


def test_model_endpoint(server: Running) -> None:
    result = listed(server, "/model")
    assert result["interval"] == [pytest.approx(0.29), pytest.approx(0.31)]
    assert (result["users"], result["repositories"]) == (PEOPLE, len(SUBJECTS) * 24)
    assert result["why"] == "the first one"
    assert result["missing"] == []
    assert result["data_time"] is not None


# -- users who were not collected --------------------------------------------------------------------------------------


def test_uncollected_user_is_looked_up_on_github(server: Running) -> None:
    response = listed(server, f"/users/{UNCOLLECTED_LOGIN}/recommendations", n=5)
    assert (response["known_stars"], response["cold_start"]) == (3, False)
    assert all(name.startswith("painters/") for name in names(response)[:2])
    assert "Only 3 stars" in response["warnings"][0]


def test_renamed_user_is_recognized_by_id(server: Running) -> None:
    response = listed(server, "/users/renamed-now/recommendations")
    assert "Renamed-Now was collected under the login Person-3." in response["warnings"]


def test_user_without_stars_gets_popular_repositories_and_a_warning(server: Running) -> None:
    response = listed(server, "/users/starless/recommendations")
    assert response["cold_start"]
    assert response["warnings"][0].startswith("starless has no public stars")


@pytest.mark.parametrize(
    ("path", "status", "code", "message"),
    [
        ("/users/missing-user/recommendations", 404, "unknown_user", "GitHub has no user missing-user"),
        ("/users/painters/recommendations", 404, "organization", "painters is an organization, which cannot star"),
        ("/users/not a login/recommendations", 422, "no_login", "is not a GitHub login"),
        ("/users/-x-/recommendations", 422, "no_login", "is not a GitHub login"),
        ("/recommendations?n=0", 422, "wrong_parameter", "n: Input should be greater than or equal to 1"),
        ("/recommendations?n=ten", 422, "wrong_parameter", "n: "),
        ("/recommendations?colour=red", 422, "wrong_parameter", "colour: "),
        ("/recommendations?popularity=nan", 422, "wrong_parameter", "popularity: "),
        ("/recommendations?popularity=2", 422, "wrong_parameter", "popularity: "),
        ("/recommendations?cursor=!!", 422, "no_cursor", "Leave it out"),
        ("/recommendations?cursor=zzzzzzzz", 422, "no_cursor", "Leave it out"),
        ("/recommendations?repo=a/b/c", 422, "no_repository", "give owner/name"),
        ("/recommendations?repo=no/such", 404, "unknown_repository", "knows none of no/such"),
        ("/repositories/no/such/similar", 404, "unknown_repository", "GitHub has no public repository no/such"),
        ("/repositories", 422, "wrong_parameter", "q: "),
        ("/nothing", 404, "http", "nothing at this address"),
        ("/recommendations?person=a%20b", 422, "wrong_parameter", "person: "),
    ],
)
def test_invalid_request_gets_one_clear_error(server: Running, path: str, status: int, code: str, message: str) -> None:
    response = server.get(f"/api/v1{path}")
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert message in response.json()["error"]["message"]


def test_unknown_repositories_among_known_ones_are_named(server: Running) -> None:
    response = listed(server, "/recommendations", repo=[name_of(0), "no/such"])
    assert "Unknown repositories were ignored: no/such." in response["warnings"]


# -- feedback -------------------------------------------------------------------------------------------------------


def test_feedback_changes_the_list_at_once_and_can_be_withdrawn(server: Running) -> None:
    before = names(listed(server, "/users/person-2/recommendations", person="reader-1"))
    for verdict, place in (("not_interested", 0), ("known", 1)):
        body = {"person": "reader-1", "repo": before[place], "verdict": verdict}
        assert server.post("/api/v1/feedback", json=body).status_code == 204
    after = names(listed(server, "/users/person-2/recommendations", person="reader-1"))
    assert after[:18] == before[2:20]
    assert names(listed(server, "/users/person-2/recommendations")) == before, "nothing changes for other users"
    server.post("/api/v1/feedback", json={"person": "reader-1", "repo": before[0], "verdict": "none"})
    again = names(listed(server, "/users/person-2/recommendations", person="reader-1"))
    assert again[0] == before[0]
    repo_id = listed(server, "/users/person-2/recommendations")["recommendations"][0]["repo_id"]
    wanted = {"_id": f"reader-1:{repo_id}", "said.verdict": "none"}
    document = until(lambda: server.database["feedback"].find_one(wanted))
    assert set(document["said"]) == {"person", "repo_id", "full_name", "verdict", "at", "version"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"person": "x", "repo": "no/such", "verdict": "known"}, 404),
        ({"person": "x", "repo": name_of(0), "verdict": "great"}, 422),
        ({"person": "", "repo": name_of(0), "verdict": "known"}, 422),
        ({"person": {"$ne": ""}, "repo": name_of(0), "verdict": "known"}, 422),
        ({"person": "x", "repo": name_of(0), "verdict": "known", "more": 1}, 422),
        ([], 422),
    ],
)
def test_invalid_feedback_is_refused(server: Running, body: Any, status: int) -> None:
    response = server.post("/api/v1/feedback", json=body)
    assert response.status_code == status
    assert response.json()["error"]["message"]


# -- description ---------------------------------------------------------------------------------------------------


def test_openapi_description_names_every_parameter_and_field(server: Running) -> None:
    description = server.get("/api/v1/openapi.json").json()
    assert description["openapi"].startswith("3.1")
    paths = description["paths"]
    assert set(paths) == {
        "/api/v1/users/{login}/recommendations",
        "/api/v1/recommendations",
        "/api/v1/repositories/{owner}/{name}/similar",
        "/api/v1/repositories",
        "/api/v1/rising",
        "/api/v1/model",
        "/api/v1/feedback",
    }
    parameters = paths["/api/v1/users/{login}/recommendations"]["get"]["parameters"]
    assert {"login", "n", "language", "topic", "min_stars", "popularity", "diversity", "cursor", "wait"} <= {
        parameter["name"] for parameter in parameters
    }
    assert all(parameter["description"] for parameter in parameters if parameter["in"] == "query")
    response = listed(server, "/users/person-1/recommendations", n=1)
    similar = listed(server, f"/repositories/{name_of(0)}/similar", n=1)
    for schema, example in (
        ("RecommendationsOut", response),
        ("RecommendationOut", response["recommendations"][0]),
        ("ModelOut", listed(server, "/model")),
        ("SimilarsOut", similar),
        ("SimilarOut", similar["similar"][0]),
    ):
        assert set(example) == set(description["components"]["schemas"][schema]["properties"])


# -- documentation -----------------------------------------------------------------------------------------------------

DOCUMENT = (CHECKOUT / "docs" / "reference" / "http-api.md").read_text(encoding="utf-8")
SOURCES = "".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "gh_assets" / "web").glob("*.py"))


def for_test_world(text: str) -> str:
    """Replace the example names by those of the test world."""
    text = text.replace("octocat", "person-1").replace("vuejs/vue", name_of(0)).replace("vitejs/vite", name_of(3))
    return text.replace("q=vue", "q=paint").replace("vuejs/core", name_of(6))


@pytest.mark.parametrize("address", re.findall(r"curl '(http://127.0.0.1:8000/[^']*)'", DOCUMENT))
def test_documented_addresses_respond(server: Running, address: str) -> None:
    parts = urlsplit(for_test_world(address))
    response = server.get(f"{parts.path}?{parts.query}")
    assert response.status_code == 200, response.text
    assert response.json()


def test_documented_response_has_the_fields_of_a_response(server: Running) -> None:
    documented = json.loads(re.search(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)[1])  # type: ignore[index]
    response = server.get("/api/v1/users/person-1/recommendations?n=1").json()
    assert list(documented) == list(response)
    assert list(documented["recommendations"][0]) == list(response["recommendations"][0])


def test_every_parameter_is_documented() -> None:
    table = DOCUMENT.split("| parameter | |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:]))) == set(
        LoginParameters.model_fields
    )


def test_documented_error_codes_are_those_of_the_code() -> None:
    table = DOCUMENT.split("| status | code | |")[1].split("\n\n")[0]
    documented = {code for line in table.splitlines()[2:] for code in re.findall(r"`([a-z_]+)`", line.split("|")[2])}
    raised = set(re.findall(r'\(\s*[45]\d\d,\s*"([a-z_]+)"', SOURCES))
    page_codes = {"foreign_form", "no_form", "stale_form", "wrong_form"}
    assert raised - page_codes - {"failed", "http", "not_utf8", "not_text"} == documented


def test_documented_program_runs(server: Running) -> None:
    program = re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[1]  # type: ignore[index]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(for_test_world(program).replace("http://127.0.0.1:8000", server.url), {})
    assert re.fullmatch(r"\d+ repositories by hybrid 1\n", output.getvalue())


def test_documented_feedback_is_accepted(server: Running) -> None:
    body = re.search(r"-d '(\{.*?\})'", DOCUMENT)[1]  # type: ignore[index]
    assert server.post("/api/v1/feedback", json=json.loads(for_test_world(body))).status_code == 204
