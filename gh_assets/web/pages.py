"""The routes of the pages, which are complete without JavaScript; htmx only replaces full page loads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from gh_assets.github.names import is_full_name
from gh_assets.registry import SERVED
from gh_assets.serving.catalogue import Description
from gh_assets.serving.live_lookups import Lookup
from gh_assets.serving.snapshot import RecommendationList, ServingSnapshot
from gh_assets.web import plots
from gh_assets.web.addresses import root_of
from gh_assets.web.feedback import parse_verdict
from gh_assets.web.guard import same_origin
from gh_assets.web.parameters import MAX_PICKS, PageParameters, read_query, write_cursor
from gh_assets.web.problems import RequestProblemError
from gh_assets.web.queries import Query, store_feedback
from gh_assets.web.rendering import link, render, repo_path, user_path
from gh_assets.web.state import app_state
from gh_assets.web.visitors import Visitor

FIRST_WAIT = 0.6
"""Seconds that a page waits for GitHub before it shows the progress."""

SUGGESTIONS = 8
"""Matches that a search for repositories suggests."""

LANGUAGES = 60
"""Languages in the filter."""

MODEL_CHANGES = 20
"""Rows of the champion history."""

TOPICS = re.compile(r"[,\s]+")
"""What separates the topics of one field."""


def read_form(pairs: Sequence[tuple[str, str]]) -> PageParameters:
    """Validate the parameters of a form or link; one topic field may contain several topics.

    Empty values and unknown names are ignored, because a form sends all its fields.

    Raises
    ------
    RequestProblemError
        If a value is not valid.
    """
    known = [(name, value) for name, value in pairs if name in PageParameters.model_fields]
    split = [(name, part) for name, value in known for part in (TOPICS.split(value) if name == "topic" else [value])]
    return read_query(PageParameters, [(name, part) for name, part in split if part.strip()])


def query_of(parameters: PageParameters, **changes: Any) -> list[tuple[str, str]]:
    """Return the parameters of a link: those that differ from their defaults, without the cursor unless it is given."""
    chosen = parameters.model_copy(update={"cursor": "", **changes}).model_dump(exclude_defaults=True)
    pairs: list[tuple[str, str]] = []
    for name, value in chosen.items():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            pairs.append((name, str(part).lower() if isinstance(part, bool) else str(part)))
    return pairs


@dataclass(frozen=True)
class Visit:
    """A visitor's request of a page that depends on parameters."""

    request: Request
    visitor: Visitor
    parameters: PageParameters
    query: Query

    @classmethod
    async def start(cls, request: Request) -> Visit:
        state = app_state(request)
        visitor = state.visitors.of(request)
        parameters = read_form(request.query_params.multi_items())
        query = await Query.start(state, parameters, visitor.visitor_id if visitor.known else None)
        return cls(request, visitor, parameters, query)

    def render(self, template: str, *, status: int = 200, **context: Any) -> Response:
        return render(
            self.request, template, status=status, visitor=self.visitor, here=_url_of(self.request), **context
        )

    def render_list(
        self,
        result: RecommendationList | None,
        *,
        login: str | None = None,
        picks: Sequence[str] | None = None,
        search: str = "",
        suggestions: Sequence[Description] = (),
    ) -> Response:
        """Render a list of recommendations.

        Parameters
        ----------
        result : RecommendationList or None
            None if no repository has been picked yet.
        login : str, optional
            The user that the list is for.
        picks : sequence of str, optional
            The repositories that the list is based on.
        search : str
            Text that the visitor searches for among the names of repositories.
        suggestions : sequence of Description
            Repositories that match the search.
        """
        path = self.request.url.path
        kept = [("repo", name) for name in picks or ()]
        chosen = query_of(self.parameters)
        more = None
        if result is not None and result.shown:
            more = link(path, [*kept, *query_of(self.parameters, cursor=write_cursor(result.shown))])
        return self.render(
            "list.html",
            result=result,
            parameters=self.parameters,
            login=login,
            picks=picks,
            search=search,
            suggestions=suggestions,
            languages=[language for language, _ in self.query.snapshot.catalogue.languages[:LANGUAGES]],
            path=path,
            kept=kept,
            start=link(path, [*kept, *chosen]),
            unfiltered=link(path, kept),
            more=more,
            has_filters=bool(chosen),
        )


# -- pages -------------------------------------------------------------------------------------------------------------


async def home(request: Request) -> Response:
    state = app_state(request)
    snapshot = state.refresher.snapshot
    # Only synthetic users are shown as examples: real ones did not consent to it.
    users = snapshot.users.examples(3) if snapshot is not None and state.settings.uses_standin else []
    popular = [] if snapshot is None else [snapshot.full_name(repo_id) for repo_id in most_starred(snapshot, 4)]
    rising = [] if snapshot is None else [described.full_name for _, described in snapshot.rising(4)]
    return render(request, "home.html", users=users, popular=popular, rising=rising)


def most_starred(snapshot: ServingSnapshot, n: int) -> tuple[int, ...]:
    """Return the ids of the repositories with the most stars."""
    order = (-snapshot.ranker.popularity).argsort(kind="stable")[:n]
    return tuple(int(repo_id) for repo_id in snapshot.served.trained.repo_ids[order])


async def go(request: Request) -> Response:
    """Redirect the forms of the home page to URLs that can be shared."""
    root = root_of(request.scope)
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
    visit = await Visit.start(request)
    login = str(request.path_params["login"])
    result = await visit.query.for_login(login, 0.0 if "hx-request" in request.headers else FIRST_WAIT)
    if isinstance(result, Lookup):
        return visit.render("reading.html", status=202, lookup=result)
    return visit.render_list(result, login=login)


async def popular(request: Request) -> Response:
    visit = await Visit.start(request)
    return visit.render_list(await visit.query.popular())


async def from_picks(request: Request) -> Response:
    """Recommendations for repositories that the visitor picks one by one."""
    visit = await Visit.start(request)
    removed = request.query_params.getlist("remove")
    names = [name.strip() for text in request.query_params.getlist("repo") for name in text.split(",")]
    picks = list(dict.fromkeys(name for name in names if name and name not in removed))
    if len(picks) > MAX_PICKS:
        raise RequestProblemError(422, "too_many_repositories", f"You can pick at most {MAX_PICKS} repositories.")
    search = request.query_params.get("q", "")[:100]
    suggestions = await _suggestions(visit.query, search, picks)
    result = await visit.query.for_repositories(picks) if picks else None
    return visit.render_list(result, picks=picks, search=search, suggestions=suggestions)


async def _suggestions(query: Query, search: str, picks: Sequence[str]) -> Sequence[Description]:
    if not search.strip():
        return []
    matches = await query.state.batcher.run(lambda: query.snapshot.catalogue.search(search, SUGGESTIONS + len(picks)))
    picked = {name.lower() for name in picks}
    return [match for _, match in matches if match.full_name.lower() not in picked][:SUGGESTIONS]


async def repository(request: Request) -> Response:
    """A repository, and similar ones."""
    visit = await Visit.start(request)
    similar = await visit.query.similar_to(f"{request.path_params['owner']}/{request.path_params['name']}")
    return visit.render("repository.html", similar=similar)


async def model(request: Request) -> Response:
    """The model that is served, its score, and its predecessors."""
    state = app_state(request)
    snapshot = state.snapshot()
    view = state.refresher.watcher.view
    champions = {move.key for move in view.moves}
    served = [entry for entry in view.registered if entry.name in SERVED or entry.key in champions]
    return render(
        request,
        "model.html",
        model=snapshot.model,
        interval=snapshot.model.intervals.get(snapshot.model.metric),
        board=plots.leaderboard_plot(snapshot.model),
        standings=snapshot.standings,
        known=plots.known_stars_plot(snapshot.standings, snapshot.model.name),
        history=plots.history_plot(served, snapshot.model.metric, champions),
        moves=view.moves[:MODEL_CHANGES],
    )


async def hidden(request: Request) -> Response:
    """The repositories that a visitor hid, which can be shown again."""
    state = app_state(request)
    visitor = state.visitors.of(request)
    verdicts = await asyncio.to_thread(state.feedback.verdicts_of, visitor.visitor_id)
    by_name = sorted((name, verdict) for verdict, name in verdicts.values())
    return render(request, "hidden.html", visitor=visitor, verdicts=by_name, here=_url_of(request))


async def api_page(request: Request) -> Response:
    """The description of the API for people."""
    app: FastAPI = request.app
    return render(request, "api.html", description=app.openapi(), base=str(request.base_url).rstrip("/"))


async def feedback(request: Request) -> Response:
    """Store a verdict from a form, and redirect to the page that the form was on."""
    state = app_state(request)
    if not same_origin(request):
        raise RequestProblemError(403, "foreign_form", "This form was sent from another site.")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise RequestProblemError(415, "no_form", "This address accepts HTML forms only.")
    fields = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), max_num_fields=20))
    visitor = state.visitors.of(request)
    if not state.visitors.verify(visitor, fields.get("token", "")):
        message = "This form has expired, or cookies are disabled. Go back, reload the page, and try again."
        raise RequestProblemError(403, "stale_form", message)
    verdict = parse_verdict(fields.get("verdict"))
    name = fields.get("repo", "")
    if verdict is None or state.snapshot().repo_id(name) is None:
        raise RequestProblemError(422, "wrong_form", "The form does not contain a known repository and a verdict.")
    await store_feedback(state, visitor.visitor_id, name, verdict)
    return RedirectResponse(_local_path(fields.get("back", ""), root_of(request.scope)), 303)


def _local_path(path: str, root: str) -> str:
    """Return a path if it is one of this server below its root, otherwise the home page: no open redirect."""
    below = path.removeprefix(root) if path.startswith(f"{root}/") else ""
    is_local = below.startswith("/") and not below.startswith(("//", "/\\")) and path.isprintable() and path.isascii()
    return path if is_local and "\\" not in path and "/.." not in path else f"{root}/"


def _url_of(request: Request) -> str:
    """The path and query of a request, for forms that lead back to it."""
    query = request.url.query
    return f"{quote(request.url.path)}?{query}" if query else quote(request.url.path)


def add_pages(app: FastAPI) -> None:
    """Add the routes of the pages to an application."""
    pages = {
        "/": home,
        "/go": go,
        "/u/{login}": user,
        "/popular": popular,
        "/for": from_picks,
        "/r/{owner}/{name}": repository,
        "/model": model,
        "/hidden": hidden,
        "/api": api_page,
    }
    for path, endpoint in pages.items():
        app.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False, response_class=Response)
    app.add_api_route("/feedback", feedback, methods=["POST"], include_in_schema=False, response_class=Response)
