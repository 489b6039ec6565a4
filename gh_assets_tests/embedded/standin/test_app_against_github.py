"""The stand-in's responses and the product's queries, checked against GitHub's descriptions of its APIs.

Optional: npm fetches the descriptions (``@octokit/openapi``, ``@octokit/graphql-schema``), which are not part of this
repository. `make test-slow` runs these tests.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
from graphql import GraphQLSchema, build_schema, parse, validate
from openapi_schema_validator import OAS30Validator

from gh_assets.collector.repositories import nodes_query, repositories_query
from gh_assets.collector.seed_users import forks_query
from gh_assets.collector.star_sources.graphql import stargazers_query
from gh_assets.collector.star_sources.starred_lists import starred_query
from gh_assets.embedded.standin.graphql import SDL
from gh_assets_tests.support.worlds import LIST, troubled_world

pytestmark = pytest.mark.slow

PACKAGES = ("@octokit/openapi@23.0.2", "@octokit/graphql-schema@15.26.1")
STAR = "application/vnd.github.star+json"
QUERIES = {
    "stargazers": stargazers_query,
    "starred": starred_query,
    "repositories": repositories_query,
    "nodes": nodes_query,
    "forks": forks_query,
}


@pytest.fixture(scope="module")
def octokit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the packages; tests are skipped if npm cannot fetch them."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: GitHub's descriptions of its APIs cannot be fetched")
    folder = tmp_path_factory.mktemp("octokit")
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm could not fetch {', '.join(PACKAGES)}: {done.stderr.strip()[-200:]}")
    return folder / "node_modules" / "@octokit"


@pytest.fixture(scope="module")
def rest(octokit: Path) -> dict[str, Any]:
    return json.loads((octokit / "openapi" / "generated" / "api.github.com.json").read_text())


@pytest.fixture(scope="module")
def graph(octokit: Path) -> GraphQLSchema:
    return build_schema((octokit / "graphql-schema" / "schema.graphql").read_text(), assume_valid_sdl=True)


def schema_of(rest: dict[str, Any], path: str, status: int, media_type: str) -> dict[str, Any]:
    """Return GitHub's schema of a response."""
    response = rest["paths"][path]["get"]["responses"][str(status)]
    while "$ref" in response:
        response = rest["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    content = response["content"]
    return content.get(media_type, content.get("application/json"))["schema"]


def problems(rest: dict[str, Any], path: str, answer: requests.Response, media_type: str) -> list[str]:
    part = schema_of(rest, path, answer.status_code, media_type)
    if isinstance(answer.json(), list) and "discriminator" in part:
        # The validator would look for the discriminating field in the list itself.
        part = {"$ref": part["discriminator"]["mapping"]["array"]}
    schema = {"components": rest["components"], "allOf": [part]}
    return [f"{error.json_path}: {error.message[:200]}" for error in OAS30Validator(schema).iter_errors(answer.json())]


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
    rest, serve_world, path: str, request_path: str, status: int, media_type: str
) -> None:
    _, url = serve_world(troubled_world())
    headers = {"authorization": "Bearer token", "accept": media_type}
    answer = requests.get(url + request_path, headers=headers, timeout=10, allow_redirects=False)
    assert answer.status_code == status
    described = "application/vnd.github.v3.star+json" if media_type == STAR else media_type
    assert problems(rest, path, answer, described) == []


def test_response_of_another_path_does_not_match(rest, serve_world) -> None:
    _, url = serve_world(troubled_world())
    answer = requests.get(f"{url}/user", headers={"authorization": "Bearer token"}, timeout=10)
    assert problems(rest, "/repos/{owner}/{repo}", answer, "application/json")


@pytest.mark.parametrize("query", QUERIES.values(), ids=list(QUERIES))
def test_queries_of_the_product_are_valid_in_githubs_schema(graph: GraphQLSchema, query) -> None:
    for size in (1, 3, 100):
        assert validate(graph, parse(query(size))) == []


def test_schema_of_the_stand_in_is_a_part_of_githubs(graph: GraphQLSchema) -> None:
    for name, kind in build_schema(SDL).type_map.items():
        if name.startswith("__"):
            continue
        expected = graph.type_map[name]
        for field_name, field in getattr(kind, "fields", {}).items():
            expected_field = expected.fields[field_name]
            assert str(field.type) == str(expected_field.type), f"{name}.{field_name}"
            for argument, definition in getattr(field, "args", {}).items():
                expected_type = expected_field.args[argument].type
                assert str(definition.type) == str(expected_type), f"{name}.{field_name}({argument})"
        for value in getattr(kind, "values", {}):
            assert value in expected.values, f"{name}.{value}"
        for interface in getattr(kind, "interfaces", ()):
            assert interface.name in {other.name for other in expected.interfaces}, name
