"""The API as programs use it: lists with reasons, filters, paging, and plain answers to what cannot be."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gh_assets.cli import cli
from gh_assets.serving.requests import Filters
from gh_assets.serving.snapshot import load_snapshot
from gh_assets_tests.support.served_home import (
    FIRST,
    PEOPLE,
    SUBJECTS,
    UNCOLLECTED_LOGIN,
    Running,
    ServedHome,
    name_of,
    until,
)


def listed(server: Running, path: str, **parameters: Any) -> dict[str, Any]:
    answer = server.get(f"/api/v1{path}", params=parameters)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def names(answer: dict[str, Any]) -> list[str]:
    return [entry["full_name"] for entry in answer["recommendations"]]


def test_a_collected_person_gets_new_things_with_own_reasons(server: Running, served_home: ServedHome) -> None:
    answer = listed(server, "/users/person-4/recommendations", n=10)
    assert answer["for"].startswith("Person-4 (")
    assert answer["model"] == {"name": "hybrid", "version": 1, "score": 0.3, "metric": "ndcg@100"}
    mine = {str(name) for name in served_home.matrix.full_names[served_home.matrix.stars[[4]].indices]}
    assert answer["known_stars"] == len(mine) == answer["used_stars"]
    assert not answer["cold_start"]
    assert [entry["rank"] for entry in answer["recommendations"]] == list(range(1, 11))
    for entry in answer["recommendations"]:
        assert entry["full_name"] not in mine
        assert (entry["kind"], entry["cold_start"]) == ("personal", False)
        assert {reason["full_name"] for reason in entry["because"]} <= mine
        assert 0 < sum(reason["share"] for reason in entry["because"]) <= 1 + 1e-6
        assert entry["description"].startswith(("Draw", "Pipes", "Bread"))
        assert entry["topics"]
        assert entry["stars"]
        assert not entry["archived"]
    kinds = [entry["language"] for entry in answer["recommendations"]]
    assert kinds[0] == "Go", "of the person's kind"


def test_asset_command_and_api_give_the_same_lists(
    server: Running, served_home: ServedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = load_snapshot(served_home.settings)
    table = pl.concat(list(snapshot.ranker.recommend_all(served_home.matrix, 15)))
    for user in range(0, PEOPLE, 7):
        login = f"Person-{user}"
        rows = table.filter(pl.col("login") == login)
        answer = listed(server, f"/users/{login}/recommendations", n=15)
        assert names(answer) == rows["full_name"].to_list()
        because = [[reason["full_name"] for reason in entry["because"]] for entry in answer["recommendations"]]
        assert because == rows["because"].to_list()
    monkeypatch.setenv("GH_ASSETS_HOME", str(served_home.settings.home))
    for login in ("person-0", "PERSON-31"):
        told = CliRunner().invoke(cli, ["recommend", login, "-n", "15", "--json"], catch_exceptions=False)
        document = json.loads(told.stdout)
        answer = listed(server, f"/users/{login}/recommendations", n=15)
        assert [entry["full_name"] for entry in document["recommendations"]] == names(answer)
        assert document["warnings"] == answer["warnings"]
        assert document["model"] == answer["model"]
    told = CliRunner().invoke(
        cli,
        ["recommend", "--repos", f"{name_of(0)},{name_of(3)}", "-n", "8", "--json", "--language", "python"],
        catch_exceptions=False,
    )
    answer = listed(server, "/recommendations", repo=[name_of(0), name_of(3)], n=8, language="python")
    assert [entry["full_name"] for entry in json.loads(told.stdout)["recommendations"]] == names(answer)


def test_a_few_repositories_are_enough(server: Running) -> None:
    answer = listed(server, "/recommendations", repo=[name_of(0).upper(), name_of(3)], n=5)
    assert all(name.startswith("painters/") for name in names(answer)[:3])
    assert {reason["full_name"] for entry in answer["recommendations"] for reason in entry["because"]} <= {
        name_of(0),
        name_of(3),
    }
    posted = server.post("/api/v1/recommendations", json={"repositories": [name_of(0), name_of(3)], "n": 5})
    assert names(posted.json()) == names(answer)


def test_nobody_in_particular_gets_what_is_popular_and_is_told(server: Running) -> None:
    answer = listed(server, "/recommendations", n=6)
    assert answer["cold_start"]
    assert {entry["kind"] for entry in answer["recommendations"]} == {"popular"}
    assert len({entry["language"] for entry in answer["recommendations"]}) == len(SUBJECTS), "of all kinds"
    assert "what many starred" in answer["warnings"][0]


def test_what_the_model_does_not_know_stands_beside_the_list(server: Running) -> None:
    answer = listed(server, "/users/person-0/recommendations")
    assert {entry["kind"] for entry in answer["new"]} == {"new"}
    assert answer["new"][0]["full_name"] == name_of(len(SUBJECTS) * 24), "the new one of the person's kind"
    assert all(entry["cold_start"] and entry["because"] for entry in answer["new"])
    second = listed(server, "/users/person-0/recommendations", cursor=answer["next"])
    assert second["new"] == [], "once is enough"


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
    found = listed(server, "/users/person-9/recommendations", n=100, **parameters)
    mine = set(served_home.matrix.repo_ids[served_home.matrix.stars[[9]].indices].tolist())
    known = {row["repo_id"]: row for row in served_home.rows[: len(SUBJECTS) * 24]}
    archived = parameters.get("archived") == "only"
    expected = {
        repo_id
        for repo_id, row in known.items()
        if passes(row | {"stars": row["stargazer_count"]}) and repo_id not in mine and bool(row["archived"]) == archived
    }
    assert {entry["repo_id"] for entry in found["recommendations"]} == expected
    assert all(passes(entry) for entry in found["new"])
    popular = listed(server, "/recommendations", n=100, **parameters)
    assert all(passes(entry) for entry in popular["recommendations"])


def test_with_archived_ones_there_are_more(server: Running) -> None:
    without, both = (listed(server, "/users/person-9/recommendations", n=100, archived=a) for a in ("no", "yes"))
    assert set(names(without)) < set(names(both))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    user=st.integers(0, PEOPLE - 1),
    size=st.integers(1, 30),
    popularity=st.sampled_from([-1, -0.3, 0, 0.5, 1]),
    diversity=st.sampled_from([None, 0, 0.4, 1]),
    filters=st.sampled_from([{}, {"language": "go"}, {"min_stars": 200}, {"archived": "yes"}]),
    cold=st.booleans(),
)
def test_pages_are_the_whole_list_in_parts(
    server: Running,
    user: int,
    size: int,
    popularity: float,
    diversity: float | None,
    filters: dict[str, Any],
    cold: bool,
) -> None:
    path = "/recommendations" if cold else f"/users/person-{user}/recommendations"
    more = {"popularity": popularity, "diversity": diversity} | filters
    whole = listed(server, path, n=100, **more)
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = listed(server, path, n=size, cursor=cursor, **more)
        found += page["recommendations"]
        cursor = page["next"]
        assert len(page["recommendations"]) == size or cursor is None
    assert [entry["full_name"] for entry in found] == names(whole)
    assert [entry["rank"] for entry in found] == list(range(1, len(found) + 1))


def test_a_page_does_not_repeat_what_was_shown_under_another_order(server: Running) -> None:
    first = listed(server, "/users/person-5/recommendations", n=10)
    second = listed(server, "/users/person-5/recommendations", n=10, popularity=-1, cursor=first["next"])
    assert not set(names(first)) & set(names(second))


def test_niche_and_popular_differ_by_the_number_of_stars(server: Running, served_home: ServedHome) -> None:
    counts = dict(
        zip(served_home.matrix.full_names.tolist(), served_home.matrix.stars.sum(axis=0).tolist(), strict=True)
    )

    def popularity_z(popularity: float, path: str) -> float:
        found = names(listed(server, path, n=10, popularity=popularity))
        return sum(counts[name] for name in found) / len(found)

    for path in ("/users/person-8/recommendations", "/recommendations"):
        assert popularity_z(-1, path) < popularity_z(0, path)
    assert popularity_z(0, "/users/person-8/recommendations") < popularity_z(1, "/users/person-8/recommendations")


def test_diversity_brings_other_kinds(server: Running) -> None:
    def kinds(diversity: float) -> int:
        found = listed(server, "/recommendations", repo=[name_of(0), name_of(6)], n=12, diversity=diversity)
        return len({entry["language"] for entry in found["recommendations"]})

    assert kinds(0.9) > kinds(0)


def test_what_a_person_owns_and_forks_of_stars_are_left_out_unless_wanted(own_served_home: ServedHome) -> None:
    from gh_assets_tests.support.served_home import opened, rows_of

    mine = own_served_home.matrix.stars[[7]].indices
    others = [place for place in range(60) if place not in mine and place % 17 != 16][:2]
    own_served_home.write_repositories(
        rows_of(
            {
                others[0]: {"full_name": "person-7/its-own"},
                others[1]: {"fork_of": FIRST + int(mine[0])},
            }
        )
    )
    with opened(own_served_home.settings) as server:
        for wanted, hidden in (
            ({}, {FIRST + others[0], FIRST + others[1]}),
            ({"own": True}, {FIRST + others[1]}),
            ({"forks": True}, {FIRST + others[0]}),
        ):
            found = listed(server, "/users/person-7/recommendations", n=100, **wanted)
            ids = {entry["repo_id"] for entry in found["recommendations"]}
            assert not ids & hidden
            assert {FIRST + others[0], FIRST + others[1]} - hidden <= ids


# -- repositories -----------------------------------------------------------------------------------------------------


def test_similar_ones_by_who_stars_them(server: Running) -> None:
    found = listed(server, f"/repositories/{name_of(1)}/similar", n=8)
    assert found["repository"]["full_name"] == name_of(1)
    assert found["collected"]
    assert {entry["kind"] for entry in found["similar"]} == {"stars"}
    assert name_of(1) not in {entry["full_name"] for entry in found["similar"]}
    likeness = [entry["likeness"] for entry in found["similar"]]
    assert likeness == sorted(likeness, reverse=True)
    shared = next(entry["shared"] for entry in found["similar"] if entry["language"] == "Go")
    assert "plumbing" in shared


def test_similar_ones_of_what_the_model_does_not_know_are_about_the_same(server: Running) -> None:
    new = name_of(len(SUBJECTS) * 24 + 2)
    found = listed(server, f"/repositories/{new}/similar", n=5)
    assert {entry["kind"] for entry in found["similar"]} == {"content"}
    assert all(entry["language"] == "Rust" for entry in found["similar"])


def test_similar_ones_of_what_was_never_collected_come_by_way_of_github(server: Running) -> None:
    found = listed(server, "/repositories/outside/plumbing-hall/similar", n=5)
    assert not found["collected"]
    assert found["repository"]["description"] == "Pipes, valves and taps for everybody"
    assert all(entry["language"] == "Go" for entry in found["similar"])
    renamed = listed(server, "/repositories/outside/before/similar", n=3)
    assert renamed["repository"]["full_name"] == "outside/now"


def test_completion(server: Running) -> None:
    found = server.get("/api/v1/repositories", params={"q": "bak", "n": 5}).json()
    assert [entry["full_name"].partition("/")[0] for entry in found] == ["bakers"] * 5
    assert [entry["stars"] for entry in found] == sorted((e["stars"] for e in found), reverse=True)
    assert server.get("/api/v1/repositories", params={"q": "no such thing"}).json() == []


def test_the_model_says_what_it_is(server: Running) -> None:
    found = listed(server, "/model")
    assert found["interval"] == [pytest.approx(0.29), pytest.approx(0.31)]
    assert (found["users"], found["repositories"]) == (PEOPLE, len(SUBJECTS) * 24)
    assert found["why"] == "the first one"
    assert found["missing"] == []
    assert found["data_time"] is not None


# -- people who were not collected -----------------------------------------------------------------------------------


def test_a_stranger_is_looked_up_on_github(server: Running) -> None:
    answer = listed(server, f"/users/{UNCOLLECTED_LOGIN}/recommendations", n=5)
    assert (answer["known_stars"], answer["cold_start"]) == (3, False)
    assert all(name.startswith("painters/") for name in names(answer)[:2])
    assert "Only 3 stars" in answer["warnings"][0]


def test_somebody_renamed_is_known_by_the_id(server: Running) -> None:
    answer = listed(server, "/users/renamed-now/recommendations")
    assert "Renamed-Now was collected under the login Person-3." in answer["warnings"]


def test_who_starred_nothing_gets_what_is_popular_and_is_told(server: Running) -> None:
    answer = listed(server, "/users/starless/recommendations")
    assert answer["cold_start"]
    assert answer["warnings"][0].startswith("starless has no public stars")


@pytest.mark.parametrize(
    ("login", "status", "code", "words"),
    [
        ("nobody-here", 404, "unknown_user", "GitHub has no user nobody-here"),
        ("painters", 404, "organization", "painters is an organization, which cannot star repositories"),
        ("not a login", 422, "no_login", "is not a GitHub login"),
        ("-x-", 422, "no_login", "is not a GitHub login"),
        ("..", 404, "http", "nothing at this address"),
    ],
)
def test_who_cannot_be_served_is_told_why(server: Running, login: str, status: int, code: str, words: str) -> None:
    path = login if login != ".." else "%2e%2e"
    answer = server.get(f"/api/v1/users/{path}/recommendations")
    if login == "..":  # a client may take the dots for itself
        assert answer.status_code in (404, 422)
        return
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "status", "code", "words"),
    [
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
def test_wrong_questions_get_one_clear_error(server: Running, path: str, status: int, code: str, words: str) -> None:
    answer = server.get(f"/api/v1{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert words in answer.json()["error"]["message"]


def test_unknown_ones_among_known_ones_are_named(server: Running) -> None:
    answer = listed(server, "/recommendations", repo=[name_of(0), "no/such"])
    assert "Not known, ignored: no/such." in answer["warnings"]


# -- feedback -------------------------------------------------------------------------------------------------------


def test_feedback_changes_the_list_at_once_and_can_be_taken_back(server: Running) -> None:
    before = names(listed(server, "/users/person-2/recommendations", person="reader-1"))
    for verdict, place in (("not_interested", 0), ("known", 1)):
        said = {"person": "reader-1", "repo": before[place], "verdict": verdict}
        assert server.post("/api/v1/feedback", json=said).status_code == 204
    after = names(listed(server, "/users/person-2/recommendations", person="reader-1"))
    assert after[:18] == before[2:20]
    assert names(listed(server, "/users/person-2/recommendations")) == before, "for others nothing changes"
    server.post("/api/v1/feedback", json={"person": "reader-1", "repo": before[0], "verdict": "none"})
    again = names(listed(server, "/users/person-2/recommendations", person="reader-1"))
    assert again[0] == before[0]
    stored = server.state.refresher.database()
    assert stored is not None
    repo_id = next(row for row in listed(server, "/users/person-2/recommendations")["recommendations"])["repo_id"]
    document = until(lambda: stored["feedback"].find_one({"_id": f"reader-1:{repo_id}", "said.verdict": "none"}))
    assert set(document["said"]) == {"person", "repo_id", "full_name", "verdict", "at", "version"}


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"person": "x", "repo": "no/such", "verdict": "known"}, 404),
        ({"person": "x", "repo": name_of(0), "verdict": "great"}, 422),
        ({"person": "", "repo": name_of(0), "verdict": "known"}, 422),
        ({"person": {"$ne": ""}, "repo": name_of(0), "verdict": "known"}, 422),
        ({"person": "x", "repo": name_of(0), "verdict": "known", "more": 1}, 422),
        ([], 422),
    ],
)
def test_wrong_feedback_is_refused(server: Running, said: Any, status: int) -> None:
    answer = server.post("/api/v1/feedback", json=said)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


# -- description ---------------------------------------------------------------------------------------------------


def test_the_description_names_every_parameter_and_field(server: Running) -> None:
    described = server.get("/api/v1/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    paths = described["paths"]
    assert set(paths) == {
        "/api/v1/users/{login}/recommendations",
        "/api/v1/recommendations",
        "/api/v1/repositories/{owner}/{name}/similar",
        "/api/v1/repositories",
        "/api/v1/model",
        "/api/v1/feedback",
    }
    parameters = paths["/api/v1/users/{login}/recommendations"]["get"]["parameters"]
    assert {"login", "n", "language", "topic", "min_stars", "popularity", "diversity", "cursor", "wait"} <= {
        parameter["name"] for parameter in parameters
    }
    assert all(parameter["description"] for parameter in parameters if parameter["in"] == "query")
    schema = described["components"]["schemas"]["RecommendationOut"]
    answer = listed(server, "/users/person-1/recommendations", n=1)
    assert set(answer["recommendations"][0]) == set(schema["properties"])
    assert set(answer) == set(described["components"]["schemas"]["RecommendationsOut"]["properties"])
    assert set(listed(server, "/model")) == set(described["components"]["schemas"]["ModelOut"]["properties"])
    similar = listed(server, f"/repositories/{name_of(0)}/similar", n=1)
    assert set(similar) == set(described["components"]["schemas"]["SimilarsOut"]["properties"])
    assert set(similar["similar"][0]) == set(described["components"]["schemas"]["SimilarOut"]["properties"])


def test_filters_say_when_nothing_is_asked() -> None:
    assert Filters(own=True, forks=True, archived="yes").accepts_unknown
    assert not Filters(language="go").accepts_unknown
    assert not Filters(archived="only").accepts_unknown
