"""The ASGI application: API, page, health and metrics, behind the guard."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from gh_assets import __version__
from gh_assets.github.client import GitHubClient
from gh_assets.services.connections import connect_github
from gh_assets.services.world import has_only_archive
from gh_assets.serving.live_lookups import INTERACTIVE_RETRY, LiveLookups
from gh_assets.serving.refresher import SnapshotRefresher
from gh_assets.settings import Settings, split_list
from gh_assets.web import api, pages
from gh_assets.web.addresses import Addresses, local_path
from gh_assets.web.api import app_state, as_json
from gh_assets.web.batching import Batcher
from gh_assets.web.feedback import Feedback
from gh_assets.web.guard import LOCAL, Guard
from gh_assets.web.metrics import Metrics
from gh_assets.web.queries import AppState, RequestProblemError, home_page_of
from gh_assets.web.visitors import Visitors

log = logging.getLogger(__name__)

DESCRIPTION = """Recommendations of GitHub repositories, from the model that serves now, each with the stars that
explain it. Nothing is recommended that a person already starred or owns, unless asked for.

Errors are `{"error": {"code": …, "message": …}}`; the message says what was wrong and what to do."""

STATIC_SECONDS = 365 * 86_400


def build_state(settings: Settings) -> AppState:
    """Everything that a server has, not started yet."""
    metrics = Metrics()

    def connect() -> GitHubClient:
        # The quota is shared with whoever collects, while Mongo answers.
        return connect_github(settings, refresher.database(), policy=INTERACTIVE_RETRY)

    live = None
    if settings.live_requests and not has_only_archive(settings):
        live = LiveLookups(
            connect,
            requests_an_hour=settings.live_requests,
            pages=settings.live_pages,
            keep=settings.live_keep.total_seconds(),
        )
    refresher = SnapshotRefresher(settings, metrics, live)
    folder = settings.home_path / "web"
    feedback = Feedback(folder / "feedback", refresher.database, metrics.unshipped.set)
    return AppState(
        settings, metrics, refresher, Batcher(metrics), live, feedback, Visitors.of_home(folder), home_page_of(settings)
    )


def build_app(settings: Settings, *, hosts: tuple[str, ...] | None = None, root_path: str = "") -> FastAPI:
    """The application; everything it needs is started with it, and stopped.

    Parameters
    ----------
    settings : Settings
    hosts : tuple of str, optional
        Host names that it answers to; empty: any. Unset: this machine's own, and those of the settings.
    root_path : str
        Path below which a proxy shows the application, such as `/recs`; empty: the root.
    """
    state = build_state(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.refresher.start()
        state.feedback.start()
        try:
            yield
        finally:
            state.feedback.close()
            if state.live is not None:
                state.live.close()
            state.refresher.close()
            state.batcher.close()

    app = FastAPI(
        title="gh_assets",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=f"{api.PREFIX}/openapi.json",
        docs_url=None,  # these load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.state = state
    app.router.routes.extend(api.router.routes)  # an included router would be looked through twice at each request
    pages.add_pages(app)
    app.add_api_route("/healthz", healthz, methods=["GET"], include_in_schema=False)
    app.add_api_route("/readyz", readyz, methods=["GET"], include_in_schema=False)
    app.add_api_route("/metrics", metrics_page, methods=["GET"], include_in_schema=False)
    app.mount("/static", Static(packages=[("gh_assets.web", "static")]), name="static")
    app.add_exception_handler(RequestProblemError, handle_problem)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, handle_validation_error)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, handle_http_exception)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, handle_unexpected_error)
    app.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=4)
    app.add_middleware(
        Guard,
        metrics=state.metrics,
        hosts=(*LOCAL, *settings.serve_hosts) if hosts is None else hosts,
        keys=settings.api_keys,
        a_minute=settings.serve_rate,
    )
    # Added last, it comes first: the guard counts the clients of a proxy, and not the proxy.
    app.add_middleware(Addresses, proxies=split_list(settings.trusted_proxies or ""), prefix=root_path)
    return app


class Static(StaticFiles):
    """Files that came with the package; their addresses change with their content."""

    def file_response(self, *arguments: object, **more: object) -> Response:
        response = super().file_response(*arguments, **more)  # type: ignore[arg-type]
        response.headers["cache-control"] = f"public, max-age={STATIC_SECONDS}, immutable"
        return response


# -- for whoever watches the server ------------------------------------------------------------------------------------


async def healthz() -> Response:
    """The process lives."""
    return as_json({"ok": True})


async def readyz(request: Request) -> Response:
    """Whether it can answer; 503 only if nothing is loaded. What is loaded and missing is for those with a key."""
    refresher = app_state(request).refresher
    snapshot = refresher.snapshot
    if not request.state.has_key:
        # Behind a proxy strangers come from this machine, too: an address proves nothing.
        return as_json({"ready": snapshot is not None}, 200 if snapshot is not None else 503)
    services = {
        name: {
            "answers": service.answers,
            "since": service.changed.astimezone(dt.UTC).isoformat(timespec="seconds"),
        }
        for name, service in refresher.services.items()
    }
    document = {
        "ready": snapshot is not None,
        "model": None if snapshot is None else {"name": snapshot.model.name, "version": snapshot.model.version},
        "loaded": None if snapshot is None else snapshot.loaded_at.isoformat(timespec="seconds"),
        "missing": refresher.missing(),
        "services": services,
        "version": __version__,
    }
    return as_json(document, 200 if snapshot is not None else 503)


async def metrics_page(request: Request) -> Response:
    """For Prometheus."""
    return Response(generate_latest(app_state(request).metrics.registry), 200, None, CONTENT_TYPE_LATEST)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def _told(request: Request, problem: RequestProblemError, headers: dict[str, str] | None = None) -> Response:
    if local_path(request.scope).startswith("/api/"):
        document = {"error": {"code": problem.code, "message": problem.message}}
        response = as_json(document, problem.status)
    else:
        response = pages.problem_page(request, problem)
    if problem.status == 503:
        response.headers["retry-after"] = "5"
    for name, value in (headers or {}).items():
        response.headers[name] = value
    return response


async def handle_problem(request: Request, problem: RequestProblemError) -> Response:
    return _told(request, problem)


async def handle_validation_error(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("query", "body", "path"))
    words = f"{place}: {first['msg']}." if place else f"{first['msg']}."
    return _told(request, RequestProblemError(422, "wrong_parameter", words[:500]))


async def handle_http_exception(request: Request, error: HTTPException) -> Response:
    words = {404: "There is nothing at this address.", 405: "This address does not take that method."}
    problem = RequestProblemError(error.status_code, "http", words.get(error.status_code, str(error.detail)))
    return _told(request, problem, dict(error.headers or {}))


async def handle_unexpected_error(request: Request, error: Exception) -> Response:
    """A mistake of ours: the log says where, the client that it was not theirs."""
    log.error("failed", exc_info=error)
    return _told(
        request, RequestProblemError(500, "failed", "Something went wrong here. It has been noted; try again.")
    )
