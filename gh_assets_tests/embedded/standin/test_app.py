"""Tests of the stand-in's REST API, which responds as GitHub does."""

import base64
from typing import Any

import pytest
import requests

from gh_assets.embedded.standin.limits import Limits
from gh_assets_tests.support.octokit import problems
from gh_assets_tests.support.standin import StandinClient, StandinOf
from gh_assets_tests.support.worlds import LIST, troubled_world

STAR = "application/vnd.github.star+json"


@pytest.fixture
def api(standin_of: StandinOf) -> StandinClient:
    """The world of all outcomes."""
    return standin_of(troubled_world())


def test_repository_is_found_by_name_in_any_case_and_by_id(api: StandinClient) -> None:
    by_name = api.get("/repos/GOOD/One").json()
    assert (by_name["id"], by_name["full_name"], by_name["stargazers_count"]) == (1, "good/one", 250)
    assert api.get("/repositories/1").json() == by_name


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/repos/not/there", 404),
        ("/repositories/404", 404),
        ("/repos/old/name", 301),
        ("/repos/taken/down", 451),
        ("/repos/closed/list", 200),
        ("/repos/closed/list/stargazers", 403),
        ("/users/unknown", 404),
        ("/users/user-1", 200),
        ("/user/5001", 200),
        ("/user", 200),
        ("/nothing/like/this/exists", 404),
        ("/repositories/1/stargazers?page=401", 422),
    ],
)
def test_statuses_of_paths(api: StandinClient, path: str, status: int) -> None:
    assert api.get(path).status_code == status


def test_renamed_repository_redirects_to_its_id_with_the_rest_of_the_path(api: StandinClient) -> None:
    location = api.get("/repos/old/name/stargazers?per_page=2").headers["location"]
    assert location == f"{api.url}/repositories/3/stargazers?per_page=2"
    assert len(api.get(location.removeprefix(api.url)).json()) == 2


def test_links_page_through_all_stargazers_once(api: StandinClient) -> None:
    path, seen = "/repos/good/one/stargazers?per_page=100", []
    while path:
        response = api.get(path)
        seen += [user["id"] for user in response.json()]
        path = response.links.get("next", {}).get("url", "").removeprefix(api.url)
    assert seen == [5000 + user for user in range(250)]


def test_stars_have_times_in_their_media_type_only(api: StandinClient) -> None:
    plain = api.get("/repos/good/one/stargazers").json()[0]
    starred = api.get("/repos/good/one/stargazers", accept=STAR).json()[0]
    assert starred == {"starred_at": "2017-07-14T02:40:00Z", "user": plain}
    assert len(api.get("/repos/good/one/stargazers").json()) == 30, "the default page size"


def test_starred_repositories_of_a_user_are_listed_newest_first(api: StandinClient) -> None:
    starred = api.get("/users/user-1/starred", accept=STAR).json()
    assert sorted(entry["repo"]["full_name"] for entry in starred) == ["fresh/name", "good/one", "taken/down"]
    assert [entry["starred_at"] for entry in starred] == sorted((e["starred_at"] for e in starred), reverse=True)


def test_readme_is_the_same_raw_and_in_the_contents(api: StandinClient) -> None:
    raw = api.get(f"/repos/{LIST}/readme", accept="application/vnd.github.raw+json")
    described = api.get(f"/repos/{LIST}/contents/README.md").json()
    assert base64.b64decode(described["content"]).decode() == raw.text
    assert "github.com/Good/ONE" in raw.text
    assert api.get(f"/repos/{LIST}/contents/other.txt").status_code == 404


def test_each_representation_of_a_file_has_its_own_etag(api: StandinClient) -> None:
    answers = {
        kind: api.get(f"/repos/{LIST}/readme", accept=f"application/vnd.github{kind}+json")
        for kind in ("", ".raw", ".html")
    }
    assert len({answer.headers["etag"] for answer in answers.values()}) == 3
    html = answers[".html"].text
    assert html.startswith('<div id="readme" class="md" data-path="README.md"><article class="markdown-body')
    assert '<a href="https://github.com/Good/ONE">' in html
    listing = api.get(f"/repos/{LIST}/contents").json()
    assert [(entry["name"], entry["type"]) for entry in listing] == [("README.md", "file")]
    assert "content" not in listing[0]


def test_unchanged_content_has_status_304(api: StandinClient) -> None:
    for path in ("/repos/good/one", "/repos/good/one/stargazers?page=2", f"/repos/{LIST}/readme"):
        tag = api.get(path).headers["etag"]
        assert api.get(path, **{"if-none-match": tag}).status_code == 304
        assert api.get(path, **{"if-none-match": 'W/"other"'}).status_code == 200
    assert api.get("/repos/good/one/stargazers?page=1").headers["etag"] != tag


def test_request_without_a_valid_token_is_rejected(api: StandinClient) -> None:
    assert requests.get(f"{api.url}/user", timeout=10).status_code == 401
    wrong = api.get("/user", authorization="Bearer wrong")
    assert (wrong.status_code, wrong.json()["message"]) == (401, "Bad credentials")


def test_primary_limit_is_reported_and_enforced(standin_of: StandinOf) -> None:
    api = standin_of(limits=Limits(requests=2))
    answers = [api.get("/repos/a/b") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 403]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    free = api.get("/rate_limit")
    assert (free.status_code, free.json()["resources"]["core"]["used"]) == (200, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "request_path", "status"),
    [
        ("/rate_limit", "/rate_limit", 200),
        ("/user", "/user", 200),
        ("/users/{username}", "/users/user-1", 200),
        ("/user/{account_id}", "/user/5001", 200),
        ("/users/{username}", "/users/unknown", 404),
        ("/users/{username}/starred", "/users/user-1/starred?per_page=2", 200),
        ("/repos/{owner}/{repo}", "/repos/good/one", 200),
        ("/repos/{owner}/{repo}", "/repos/old/name", 301),
        ("/repos/{owner}/{repo}", "/repos/not/there", 404),
        ("/repos/{owner}/{repo}/readme", f"/repos/{LIST}/readme", 200),
        ("/repos/{owner}/{repo}/contents/{path}", f"/repos/{LIST}/contents/README.md", 200),
        ("/repos/{owner}/{repo}/contents/{path}", f"/repos/{LIST}/contents/", 200),
        ("/repos/{owner}/{repo}/stargazers", "/repos/good/one/stargazers?per_page=3", 200),
        ("/repos/{owner}/{repo}/forks", "/repos/good/one/forks", 200),
    ],
)
@pytest.mark.parametrize("media_type", ["application/json", STAR])
def test_rest_responses_match_githubs_description(
    rest: Any, api: StandinClient, path: str, request_path: str, status: int, media_type: str
) -> None:
    answer = api.get(request_path, accept=media_type)
    assert answer.status_code == status
    described = "application/vnd.github.v3.star+json" if media_type == STAR else media_type
    assert problems(rest, path, answer, described) == []


@pytest.mark.slow
def test_response_of_another_path_does_not_match(rest: Any, api: StandinClient) -> None:
    assert problems(rest, "/repos/{owner}/{repo}", api.get("/user"), "application/json")
