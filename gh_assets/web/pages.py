"""The page: rendered here, whole without JavaScript; htmx only saves reloads."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import jinja2
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from gh_assets import __version__
from gh_assets.collector.lists.awesome import is_full_name
from gh_assets.registry import SERVED
from gh_assets.serving.live_lookups import Lookup
from gh_assets.serving.snapshot import RecommendationList, ServingSnapshot
from gh_assets.web import plots
from gh_assets.web.addresses import root_of
from gh_assets.web.api import app_state, interval_of, record, request_of
from gh_assets.web.cursors import write_cursor
from gh_assets.web.feedback import verdict_of
from gh_assets.web.guard import same_origin
from gh_assets.web.queries import (
    AppState,
    PageParameters,
    RequestProblemError,
    answer,
    read_query,
    request_for_login,
    request_for_repositories,
    similar,
)
from gh_assets.web.visitors import Visitor

FIRST_WAIT = 0.6
"""Seconds for which a page waits for GitHub before it shows how far that is."""

MAX_PICKED = 50
SUGGESTED = 8
LANGUAGES = 60
SHOWN_TOPICS = 6
LONGEST = 400
"""Characters of a description that are shown."""

_UNSEEN = {"Cc", "Cs", "Co", "Cn"}
_TURNING = re.compile("[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")
_MARKS = r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]"
_PILES = re.compile(f"({_MARKS}{{3}}){_MARKS}+")
"""A pile of marks on one letter paints over the lines above it."""


def plain(text: object, most: int = LONGEST) -> str:
    """Text from outside without what turns, hides or breaks what is around it; markup is escaped by the template."""
    cleaned = _TURNING.sub("", str(text))
    cleaned = "".join(" " if unicodedata.category(sign) in _UNSEEN else sign for sign in cleaned)
    cleaned = _PILES.sub(r"\1", cleaned)
    cleaned = " ".join(cleaned.split())
    return cleaned if len(cleaned) <= most else f"{cleaned[: most - 1]}…"


def count(number: int | None) -> str:
    """A number for people: 1.2k, 34k, 5.6M."""
    if number is None:
        return ""
    for size, unit in ((1_000_000, "M"), (1000, "k")):
        if number >= size:
            short = number / size
            return f"{short:.1f}{unit}" if short < 10 else f"{short:.0f}{unit}"
    return str(number)


def day(moment: dt.datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d}"


@cache
def static_version(name: str) -> str:
    """Changes with the file: browsers may keep it for ever."""
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
    environment.filters |= {"plain": plain, "count": count, "day": day}
    environment.globals |= {
        "static": lambda name: f"/static/{name}?v={static_version(name)}",
        "repo_path": repo_path,
        "user_path": user_path,
        "for_path": lambda names: link("/for", [("repo", name) for name in names]),
        "version": __version__,
        "plots": plots,
        "SHOWN_TOPICS": SHOWN_TOPICS,
    }
    return environment


def repo_path(full_name: str) -> str:
    """The page of a repository here."""
    return f"/r/{quote(full_name)}"


def user_path(login: str) -> str:
    """The page of somebody's recommendations."""
    return f"/u/{quote(login, safe='')}"


def render(
    request: Request, template: str, *, status: int = 200, visitor: Visitor | None = None, **context: Any
) -> Response:
    """A page; with the visitor's cookie, if the browser has none yet and the page has forms."""
    state, root = app_state(request), root_of(request)
    context |= {
        "state": state,
        "root": root,
        "snapshot": state.refresher.snapshot,
        "notices": state.notices(),
        "visitor": visitor,
    }
    content = templates().get_template(template).render(context)
    response = Response(content, status, {"cache-control": "private, no-cache"}, "text/html")
    if visitor is not None and not visitor.known:
        state.visitors.keep(response, visitor, secure=request.url.scheme == "https", path=root or "/")
    return response


def problem_page(request: Request, problem: RequestProblemError) -> Response:
    """What went wrong, in words, with ways to go on."""
    return render(request, "problem.html", status=problem.status, problem=problem)


def read_choices(parameters: Sequence[tuple[str, str]]) -> PageParameters:
    """What a form or a link says; several topics may stand in one field.

    Raises
    ------
    ProblemError
        If a value is none that can be.
    """
    pairs: list[tuple[str, str]] = []
    for name, value in parameters:
        several = name == "topic"
        pairs += [(name, word) for word in re.split(r"[,\s]+", value)] if several else [(name, value)]
    return read_query(PageParameters, pairs, lenient=True)


def query_of(parameters: PageParameters, **changes: Any) -> list[tuple[str, str]]:
    """A link's parameters: only what somebody chose."""
    chosen = parameters.model_copy(update={"cursor": "", **changes}).model_dump(exclude_defaults=True)
    pairs: list[tuple[str, str]] = []
    for name, value in chosen.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            pairs.append((name, str(one).lower() if isinstance(one, bool) else str(one)))
    return pairs


def link(path: str, parameters: Sequence[tuple[str, str]]) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path


# -- pages -------------------------------------------------------------------------------------------------------------


async def home(request: Request) -> Response:
    state = app_state(request)
    snapshot = state.refresher.snapshot
    # Real people did not ask to be examples.
    people = snapshot.people.examples(3) if snapshot is not None and state.settings.uses_standin else []
    popular = [] if snapshot is None else [snapshot.full_name(repo_id) for repo_id in most_starred(snapshot, 4)]
    return render(request, "home.html", people=people, popular=popular)


def most_starred(snapshot: ServingSnapshot, n: int) -> tuple[int, ...]:
    """Ids of what most people starred."""
    order = (-snapshot.ranker.popularity).argsort(kind="stable")[:n]
    return tuple(int(repo_id) for repo_id in snapshot.served.trained.repo_ids[order])


async def go(request: Request) -> Response:
    """Where the forms of the first page lead: to an address that can be shared."""
    root = root_of(request)
    login, repo = (request.query_params.get(name, "").strip() for name in ("login", "similar"))
    login = login.removeprefix("https://github.com/").removeprefix("@").strip("/")
    repo = repo.removeprefix("https://github.com/").removesuffix(".git").strip("/")
    if login:
        return RedirectResponse(root + user_path(login), 303)
    if repo and is_full_name(repo):
        return RedirectResponse(root + repo_path(repo), 303)
    if repo:
        return RedirectResponse(root + link("/for", [("q", repo)]), 303)
    return RedirectResponse(f"{root}/", 303)


async def user(request: Request) -> Response:
    state, visitor, parameters = _begin(request)
    snapshot = state.snapshot()
    login = str(request.path_params["login"])
    wanted = await request_of(state, parameters, _known(visitor))
    wait = 0.0 if "hx-request" in request.headers else FIRST_WAIT
    prepared = await request_for_login(state, snapshot, login, wanted, wait)
    if isinstance(prepared, Lookup):
        return render(request, "reading.html", status=202, lookup=prepared, here=_here(request), visitor=visitor)
    return _listed(request, visitor, snapshot, parameters, await answer(state, snapshot, prepared), login=login)


async def popular(request: Request) -> Response:
    state, visitor, parameters = _begin(request)
    snapshot = state.snapshot()
    prepared = snapshot.for_new_user(await request_of(state, parameters, _known(visitor)))
    return _listed(request, visitor, snapshot, parameters, await answer(state, snapshot, prepared), login=None)


async def picked(request: Request) -> Response:
    """What somebody likes, picked one by one, and what goes with it."""
    state, visitor, parameters = _begin(request)
    snapshot = state.snapshot()
    removed = request.query_params.getlist("remove")
    wanted = [name.strip() for text in request.query_params.getlist("repo") for name in text.split(",")]
    names = list(dict.fromkeys(name for name in wanted if name and name not in removed))
    if len(names) > MAX_PICKED:
        raise RequestProblemError(
            422, "too_many_repositories", f"At most {MAX_PICKED} repositories can be picked here."
        )
    text = request.query_params.get("q", "")[:100]
    suggestions = await _suggestions(state, snapshot, text, names)
    found = None
    if names:
        prepared = request_for_repositories(snapshot, names, await request_of(state, parameters, _known(visitor)))
        found = await answer(state, snapshot, prepared)
    return _listed(
        request, visitor, snapshot, parameters, found, login=None, names=names, text=text, suggestions=suggestions
    )


async def _suggestions(
    state: AppState, snapshot: ServingSnapshot, text: str, names: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    if not text.strip():
        return []
    found = await state.batcher.run(lambda: snapshot.catalogue.search(text, SUGGESTED + len(names)))
    taken = {name.lower() for name in names}
    entries = [(snapshot.full_name(repo_id) or "", snapshot.catalogue.describe(repo_id)) for repo_id in found]
    return [{"name": name, "about": about} for name, about in entries if name.lower() not in taken][:SUGGESTED]


def _listed(
    request: Request,
    visitor: Visitor,
    snapshot: ServingSnapshot,
    parameters: PageParameters,
    found: RecommendationList | None,
    *,
    login: str | None,
    names: Sequence[str] | None = None,
    text: str = "",
    suggestions: Sequence[Mapping[str, Any]] = (),
) -> Response:
    path = request.url.path
    kept = [("repo", name) for name in names or ()]
    more = None
    if found is not None and found.shown:
        more = link(path, [*kept, *query_of(parameters, cursor=write_cursor(found.shown))])
    return render(
        request,
        "list.html",
        visitor=visitor,
        answer=found,
        parameters=parameters,
        login=login,
        names=names,
        text=text,
        suggestions=suggestions,
        languages=[language for language, _ in snapshot.catalogue.languages[:LANGUAGES]],
        path=path,
        kept=kept,
        start=link(path, [*kept, *query_of(parameters)]),
        bare=link(path, kept),
        more=more,
        here=_here(request),
        chosen=bool(query_of(parameters)),
    )


async def repository(request: Request) -> Response:
    """A repository, and others like it."""
    state, visitor, parameters = _begin(request)
    snapshot = state.snapshot()
    full_name = f"{request.path_params['owner']}/{request.path_params['name']}"
    likes = await similar(state, snapshot, full_name, await request_of(state, parameters, _known(visitor)))
    return render(request, "repository.html", visitor=visitor, likes=likes, here=_here(request))


async def model(request: Request) -> Response:
    """Which model serves, how good it is, and what was before it."""
    state = app_state(request)
    snapshot = state.snapshot()
    known = state.refresher.models
    held_once = {(move.name, move.version) for move in known.moves}
    served = [entry for entry in known.registered if entry.name in SERVED or (entry.name, entry.version) in held_once]
    return render(
        request,
        "model.html",
        model=snapshot.model,
        interval=interval_of(snapshot.model),
        board=plots.leaderboard_plot(snapshot.model),
        history=plots.history_plot(served, snapshot.model.metric, held_once),
        moves=known.moves[:20],
    )


async def hidden(request: Request) -> Response:
    """What a visitor does not want to see, to take it back."""
    state = app_state(request)
    visitor = state.visitors.of(request)
    said = await _verdicts(state, visitor)
    return render(request, "hidden.html", visitor=visitor, said=said, here=_here(request))


async def _verdicts(state: AppState, visitor: Visitor) -> list[tuple[str, str]]:
    found = await asyncio.to_thread(state.feedback.of, visitor.person)
    return sorted((name, verdict) for verdict, name in found.values())


async def api_page(request: Request) -> Response:
    """The API for people: what it offers, with examples."""
    app: FastAPI = request.app
    return render(request, "api.html", description=app.openapi(), base=str(request.base_url).rstrip("/"))


async def feedback(request: Request) -> Response:
    """A verdict from a form: written down, and back to the page, where the list has changed."""
    state = app_state(request)
    if not same_origin(request):
        raise RequestProblemError(403, "foreign_form", "This form was sent from another site.")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise RequestProblemError(415, "no_form", "This address takes forms.")
    fields = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), max_num_fields=20))
    visitor = state.visitors.of(request)
    if not state.visitors.signed(visitor, fields.get("token", "")):
        raise RequestProblemError(
            403, "stale_form", "This form is out of date, or cookies are switched off: go back, reload, and try again."
        )
    verdict = verdict_of(fields.get("verdict"))
    name = fields.get("repo", "")
    snapshot = state.snapshot()
    repo_id = snapshot.repo_id(name)
    if verdict is None or repo_id is None:
        raise RequestProblemError(422, "wrong_form", "The form names no repository that is known, or no verdict.")
    await record(state, visitor.person, repo_id, snapshot.full_name(repo_id) or name, verdict)
    return RedirectResponse(_local(fields.get("back", ""), root_of(request)), 303)


def _local(path: str, root: str) -> str:
    """A path of this site below its root; whatever else a form says leads to the first page."""
    below = path.removeprefix(root) if path.startswith(f"{root}/") else ""
    ours = below.startswith("/") and not below.startswith(("//", "/\\")) and path.isprintable() and path.isascii()
    return path if ours and "\\" not in path and "/.." not in path else f"{root}/"


def _begin(request: Request) -> tuple[AppState, Visitor, PageParameters]:
    state = app_state(request)
    return state, state.visitors.of(request), read_choices(request.query_params.multi_items())


def _known(visitor: Visitor) -> str | None:
    """Whose verdicts count; a new visitor has none."""
    return visitor.person if visitor.known else None


def _here(request: Request) -> str:
    """The present address, for forms that come back to it."""
    query = request.url.query
    return f"{quote(request.url.path)}?{query}" if query else quote(request.url.path)


def add_pages(app: FastAPI) -> None:
    """Give an application its pages."""
    pages = {
        "/": home,
        "/go": go,
        "/u/{login}": user,
        "/popular": popular,
        "/for": picked,
        "/r/{owner}/{name}": repository,
        "/model": model,
        "/hidden": hidden,
        "/api": api_page,
    }
    for path, endpoint in pages.items():
        app.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False, response_class=Response)
    app.add_api_route("/feedback", feedback, methods=["POST"], include_in_schema=False, response_class=Response)
