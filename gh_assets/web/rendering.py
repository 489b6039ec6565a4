"""Rendering of the pages: the templates, their filters and links."""

import datetime as dt
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from fastapi import Request
from fastapi.responses import Response

from gh_assets import __version__
from gh_assets.serving.ranking import POPULAR_DIVERSITY
from gh_assets.serving.requests import MAX_STARS
from gh_assets.web import plots
from gh_assets.web.addresses import root_of
from gh_assets.web.state import app_state
from gh_assets.web.visitors import Visitor

MAX_TOPICS = 6
"""Topics shown for a repository."""

MAX_DESCRIPTION = 400
"""Characters shown of a description."""

_INVISIBLE_CATEGORIES = {"Cc", "Cs", "Co", "Cn"}
_INVISIBLE = re.compile("[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")
"""Characters that change the direction of text, or have no width."""

_MARKS = r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]"
_STACKED_MARKS = re.compile(f"({_MARKS}{{3}}){_MARKS}+")
"""More than three combining marks on one letter, which would cover the lines above it."""


def plain(text: object, max_length: int = MAX_DESCRIPTION) -> str:
    """Remove from external text what would disturb the text around it; the templates escape markup."""
    cleaned = _INVISIBLE.sub("", str(text))
    cleaned = "".join(" " if unicodedata.category(char) in _INVISIBLE_CATEGORIES else char for char in cleaned)
    cleaned = _STACKED_MARKS.sub(r"\1", cleaned)
    cleaned = " ".join(cleaned.split())
    return cleaned if len(cleaned) <= max_length else f"{cleaned[: max_length - 1]}…"


def count(number: int | None) -> str:
    """Abbreviate a number: 1.2k, 34k, 5.6M."""
    if number is None:
        return ""
    for size, unit in ((1_000_000, "M"), (1000, "k")):
        if number >= size:
            short = number / size
            return f"{short:.1f}{unit}" if short < 10 else f"{short:.0f}{unit}"
    return str(number)


def day(moment: dt.datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d}"


def score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


@cache
def static_version(name: str) -> str:
    """Hash of a static file, part of its URL so that browsers can cache it forever."""
    return hashlib.sha256(files("gh_assets.web").joinpath("static", name).read_bytes()).hexdigest()[:12]


@cache
def templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gh_assets.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "count": count, "day": day, "score": score}
    environment.globals |= {
        "static": lambda name: f"/static/{name}?v={static_version(name)}",
        "repo_path": repo_path,
        "user_path": user_path,
        "for_path": lambda names: link("/for", [("repo", name) for name in names]),
        "version": __version__,
        "plots": plots,
        "MAX_STARS": MAX_STARS,
        "MAX_TOPICS": MAX_TOPICS,
        "POPULAR_DIVERSITY": POPULAR_DIVERSITY,
    }
    return environment


def repo_path(full_name: str) -> str:
    """Path of the page of a repository."""
    return f"/r/{quote(full_name)}"


def user_path(login: str) -> str:
    """Path of the page of a user's recommendations."""
    return f"/u/{quote(login, safe='')}"


def link(path: str, parameters: Sequence[tuple[str, str]]) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path


def render(
    request: Request, template: str, *, status: int = 200, visitor: Visitor | None = None, **context: Any
) -> Response:
    """Render a page; with the visitor's cookie if the page has forms and the browser did not send the cookie."""
    state, root = app_state(request), root_of(request.scope)
    context.update(state=state, root=root, snapshot=state.refresher.snapshot, notices=state.notices(), visitor=visitor)
    content = templates().get_template(template).render(context)
    response = Response(content, status, {"cache-control": "private, no-cache"}, "text/html")
    if visitor is not None and not visitor.known:
        state.visitors.set_cookie(response, visitor, secure=request.url.scheme == "https", path=root or "/")
    return response
