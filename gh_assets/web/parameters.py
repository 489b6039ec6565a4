"""The parameters of requests: what the API and the pages accept beside `RecommendationParameters`, and their limits.

Among them are cursors: the repositories that earlier pages of a list showed, as text that fits into a URL. With page
numbers a list would repeat or skip entries when the model, the data or a visitor's feedback changes between two pages.
With a cursor the next page holds the best repositories that were not shown.
"""

import base64
import binascii
from collections.abc import Collection, Iterable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gh_assets.serving.requests import (
    DEFAULT_COUNT,
    MAX_COUNT_PER_PAGE,
    MAX_PAGED_RECOMMENDATIONS,
    RecommendationParameters,
)
from gh_assets.web.problems import RequestProblemError, wrong_parameter

MAX_REPOSITORIES = 1000
"""Maximum number of repositories in the body of a request."""

MAX_URL_REPOSITORIES = 100
"""Maximum number of repositories in the URL of an API request."""

MAX_PICKS = 50
"""Maximum number of repositories that a visitor can pick on the page."""

MAX_MATCHES = 50
"""Maximum number of repositories in a response to a search by name."""

MAX_CURSOR_LENGTH = 8 * MAX_PAGED_RECOMMENDATIONS
"""Maximum number of characters of a cursor."""

RepositoryName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class PageParameters(RecommendationParameters):
    """Parameters of one page of recommendations."""

    # FastAPI builds a deferred model in a way that makes pydantic warn on stderr.
    model_config = ConfigDict(defer_build=False, use_attribute_docstrings=True)

    n: int = Field(DEFAULT_COUNT, ge=1, le=MAX_COUNT_PER_PAGE)
    """Number of recommendations."""

    cursor: str = Field("", max_length=MAX_CURSOR_LENGTH)
    """`next` of the previous page: continues with what was not shown."""


Model = TypeVar("Model", bound=BaseModel)


def read_query(model: type[Model], pairs: Iterable[tuple[str, str]]) -> Model:
    """Validate the parameters of a URL; those whose default is a tuple may be repeated.

    Parameters
    ----------
    model : type
        The pydantic model of the parameters.
    pairs : iterable of (str, str)
        Names and values.

    Raises
    ------
    RequestProblemError
        If a value is not valid; the message names the parameter.
    """
    values: dict[str, Any] = {}
    for name, value in pairs:
        field = model.model_fields.get(name)
        if field is not None and isinstance(field.default, tuple):
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise wrong_parameter(first["loc"], first["msg"]) from None


def openapi_query(model: type[BaseModel]) -> dict[str, Any]:
    """Describe the fields of a model as query parameters of OpenAPI."""
    schema = model.model_json_schema()
    required = schema.get("required", ())
    parameters = []
    for name, field in schema["properties"].items():
        description = field.pop("description", "")
        field.pop("title", None)
        parameters.append(
            {"name": name, "in": "query", "required": name in required, "description": description, "schema": field}
        )
    return {"parameters": parameters}


def write_cursor(shown: Collection[int]) -> str:
    """Encode ids: sorted, delta-encoded as LEB128, then base64url without padding."""
    content = bytearray()
    before = 0
    for repo_id in sorted(set(shown)):
        step, before = repo_id - before, repo_id
        while step >= 0x80:
            content.append(step & 0x7F | 0x80)
            step >>= 7
        content.append(step)
    return base64.urlsafe_b64encode(bytes(content)).decode().rstrip("=")


def read_cursor(text: str) -> tuple[int, ...]:
    """Decode a cursor to ids in ascending order.

    Raises
    ------
    RequestProblemError
        If the text is not a cursor.
    """
    message = "The cursor is not valid. Leave it out to start at the top of the list."
    invalid = RequestProblemError(422, "no_cursor", message)
    if len(text) > MAX_CURSOR_LENGTH:
        raise invalid
    try:
        content = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise invalid from None
    ids: list[int] = []
    value = shift = before = 0
    for byte in content:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            before += value
            ids.append(before)
            value = shift = 0
        elif shift > 63:
            raise invalid
    if shift or len(ids) > MAX_PAGED_RECOMMENDATIONS or (ids and ids[-1] >= 2**63):
        raise invalid
    return tuple(ids)
