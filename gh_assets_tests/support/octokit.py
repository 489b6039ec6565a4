"""GitHub's descriptions of its APIs, which npm fetches (``@octokit/openapi``, ``@octokit/graphql-schema``)."""

from typing import Any

import requests
from openapi_schema_validator import OAS30Validator

PACKAGES = ("@octokit/openapi@23.0.2", "@octokit/graphql-schema@15.26.1")


def schema_of(rest: dict[str, Any], path: str, status: int, media_type: str) -> Any:
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
