"""Options of commands as pydantic models: each field becomes an option with the field's bounds and description."""

import types
from collections.abc import Callable, Collection
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field, FilePath, ValidationError
from pydantic.fields import FieldInfo

from gh_assets.embedded.standin.kinds import KINDS
from gh_assets.settings import MAX_PAGES, StarSourceName


class ChainOptions(BaseModel):
    """Options of `gh-assets run`. Unset ones have the values of the settings."""

    model_config = ConfigDict(frozen=True, defer_build=True, use_attribute_docstrings=True)

    source: StarSourceName | None = None
    """Where stars are read from: GitHub's stargazer lists over REST (stargazers) or GraphQL (graphql), users' own
    starred lists (starred), repositories' event feeds (events), hours of GH Archive (gharchive), the file given by
    --stars (file), or whichever of them is available (auto, the default)."""

    stars: Path | None = None
    """Parquet, CSV or TSV file with the columns repo and login. The GitHub stand-in serves it as its world; --source
    file reads it directly."""

    archive: tuple[str, ...] = ()
    """Hours of GH Archive to read first: a file, a folder, gs://bucket/object or an HTTP address, in which {0..23} is a
    range of numbers. Repeatable."""

    awesome: tuple[str, ...] = ()
    """Awesome list: owner/name on GitHub, owner/name/path of a file or folder in it, an address on GitHub, or a local
    file (Markdown, Org, AsciiDoc or reStructuredText). Repeatable."""

    seed_users: Path | None = None
    """Users whose starred lists are read first: Parquet, CSV or TSV file with the column login, or a text file with one
    login per line."""

    max_users: int | None = Field(None, ge=1)
    """Maximum number of users whose starred lists are read."""

    max_pages: int | None = Field(None, ge=1, le=MAX_PAGES)
    """Maximum number of pages of 100 stars per repository or user."""

    max_requests: int | None = Field(None, ge=1)
    """Stop collecting after this many requests; the next run continues from there."""

    full: bool = False
    """Read every list to its end again, which also detects stars that were removed."""

    epochs: int | None = Field(None, ge=1)
    """Maximum number of training epochs."""

    retrain: bool = False
    """Train even if a model of the same data exists."""

    accept_matrix: bool = False
    """Train even if users, repositories or stars are fewer than half as many as last time."""


class StandinOptions(BaseModel):
    """Options of `gh-assets github-standin`."""

    model_config = ConfigDict(frozen=True, defer_build=True, use_attribute_docstrings=True)

    stars: Path | None = None
    """Parquet, CSV or TSV file with the columns repo and login; without it, a synthetic world is served."""

    awesome: tuple[FilePath, ...] = ()
    """File that is served as an awesome list, as the README of a repository; needs --stars. Repeatable."""

    port: int = Field(8085, ge=1, le=65535)
    """Port to listen on."""

    token: tuple[str, ...] = ()
    """Accepted token; by default a new one. Repeatable."""

    limit: int = Field(5000, ge=1)
    """Requests per hour and token."""

    github_limits: bool = False
    """Apply GitHub's own limits, including secondary ones, instead of --limit alone."""

    restricted: bool = False
    """Refuse to list stargazers, as GitHub has done since July 2026."""

    enterprise: bool = False
    """Lack star histories, as GitHub Enterprise does."""

    query_budget: int | None = Field(None, ge=1)
    """Number of nodes above which a GraphQL query exceeds GitHub's resource limits."""

    fault: tuple[str, ...] = Field(
        default=(),
        title="KIND=SHARE",
        description="Share of responses that fail in a given way, such as 502=0.05. Repeatable. Kinds: "
        f"{', '.join(KINDS)}.",
    )
    world: Literal["synthetic", "large"] = "synthetic"
    """World that is generated: the one of gh-assets run, or one with the long tails of GitHub, whose stars go on
    arriving by the clock until the end of the year."""

    repositories: int | None = Field(None, ge=20)
    """Repositories of a generated world: 600, or 10,000 of a large one."""

    users: int | None = Field(None, ge=20)
    """Users of a generated world: 2,500, or 350,000 of a large one."""

    seed: int = 0
    """Seed of the generated world."""


def options_of(
    model: type[BaseModel], *, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds an option to a command for each field of a model.

    The command is called with an instance of the model as `options`. A field's title, if it has one, is the placeholder
    in the help.

    Parameters
    ----------
    model : type of BaseModel
    without : collection of str
        Fields that get no option and keep their defaults.
    """
    fields = {name: field for name, field in model.model_fields.items() if name not in without}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_options(**values: Any) -> None:
            try:
                options = model(**{name: values.pop(name) for name in fields})
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                raise click.BadParameter(first["msg"], param_hint=_flag(str(first["loc"][0]))) from None
            command(options=options, **values)

        for name, field in reversed(fields.items()):
            with_options = click.option(_flag(name), name, **_attributes(field))(with_options)
        return with_options

    return decorate


def _flag(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def _attributes(field: FieldInfo) -> dict[str, Any]:
    kind = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    attributes: dict[str, Any] = {"help": field.description, "default": field.default, "metavar": field.title}
    if kind is bool:
        return attributes | {"is_flag": True}
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
        attributes["multiple"] = True
    elif field.default not in (None, ""):
        attributes["show_default"] = True
    return attributes | {"type": _parameter_type(kind, field)}


def _parameter_type(kind: Any, field: FieldInfo) -> Any:
    if kind == FilePath:
        return click.Path(path_type=Path, exists=True, dir_okay=False)
    if kind is Path:
        return click.Path(path_type=Path)
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    bounds = {type(bound): bound for bound in field.metadata}
    if Ge in bounds or Le in bounds:
        number_range = click.IntRange if kind is int else click.FloatRange
        return number_range(getattr(bounds.get(Ge), "ge", None), getattr(bounds.get(Le), "le", None))
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind
