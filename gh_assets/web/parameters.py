"""The parameters of requests: what the API and the pages accept beside `RecommendationParameters`, and their limits."""

from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gh_assets.serving.requests import DEFAULT_COUNT, MAX_COUNT_PER_PAGE, RecommendationParameters
from gh_assets.web.cursors import MAX_CURSOR_LENGTH
from gh_assets.web.problems import wrong_parameter

MAX_REPOSITORIES = 1000
"""Maximum number of repositories in the body of a request."""

MAX_URL_REPOSITORIES = 100
"""Maximum number of repositories in the URL of an API request."""

MAX_PICKS = 50
"""Maximum number of repositories that a visitor can pick on the page."""

MAX_MATCHES = 50
"""Maximum number of repositories in a response to a search by name."""

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


def read_query(model: type[Model], pairs: Iterable[tuple[str, str]], *, lenient: bool = False) -> Model:
    """Validate the parameters of a URL; those whose default is a tuple may be repeated.

    Parameters
    ----------
    model : type
        The pydantic model of the parameters.
    pairs : iterable of (str, str)
        Names and values.
    lenient : bool
        Ignore empty values and unknown names, because an HTML form sends all its fields.

    Raises
    ------
    RequestProblemError
        If a value is not valid; the message names the parameter.
    """
    values: dict[str, Any] = {}
    for name, value in pairs:
        field = model.model_fields.get(name)
        if lenient and (field is None or not value.strip()):
            continue
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
