"""The ASGI application: API, pages, health checks and metrics, behind the guard."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from gh_assets import __version__
from gh_assets.settings import Settings, split_list
from gh_assets.web import api, pages
from gh_assets.web.addresses import AddressMiddleware, local_path
from gh_assets.web.api import as_json
from gh_assets.web.guard import LOCAL_HOSTS, Guard, is_api
from gh_assets.web.problems import RequestProblemError, wrong_parameter
from gh_assets.web.rendering import render
from gh_assets.web.state import app_state, build_state

log = logging.getLogger(__name__)

DESCRIPTION = """Recommendations of GitHub repositories, each with the stars that explain it. Repositories that the user
starred are never recommended; the user's own ones only on request.

Errors are `{"error": {"code": …, "message": …}}`; the message says what was wrong and what to do."""

STATIC_SECONDS = 365 * 86_400


def build_app(settings: Settings, *, hosts: tuple[str, ...] | None = None, root_path: str = "") -> FastAPI:
    """Build the application, whose lifespan starts and stops everything that it needs.

    Parameters
    ----------
    settings : Settings
    hosts : tuple of str, optional
        Host names that are served; empty: all. By default this machine's own and those of the settings.
    root_path : str
        Path prefix under which a reverse proxy serves the application, such as `/recs`; empty for the root.
    """
    state = build_state(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.start()
        try:
            yield
        finally:
            state.close()

    app = FastAPI(
        title="gh_assets",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=f"{api.PREFIX}/openapi.json",
        docs_url=None,  # these pages load scripts from other sites
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.state = state
    app.router.routes.extend(api.router.routes)  # `include_router` would match its routes twice for each request
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
        hosts=(*LOCAL_HOSTS, *settings.serve_hosts) if hosts is None else hosts,
        keys=settings.api_keys,
        per_minute=settings.serve_rate,
    )
    # Added last, so it is outermost: the guard counts the clients of a proxy instead of the proxy.
    app.add_middleware(AddressMiddleware, proxies=split_list(settings.trusted_proxies or ""), prefix=root_path)
    return app


class Static(StaticFiles):
    """Files of the package, which browsers cache forever because their URLs contain a hash."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["cache-control"] = f"public, max-age={STATIC_SECONDS}, immutable"
        return response


# -- monitoring --------------------------------------------------------------------------------------------------------


async def healthz() -> Response:
    """Liveness: the process responds."""
    return as_json({"ok": True})


async def readyz(request: Request) -> Response:
    """Readiness: status 503 only if no snapshot is loaded. The details are for requests with an API key."""
    refresher = app_state(request).refresher
    snapshot = refresher.snapshot
    document: dict[str, Any] = {"ready": snapshot is not None}
    # The address proves nothing: behind a proxy all requests come from this machine.
    if request.state.has_key:
        document |= {
            "model": None if snapshot is None else {"name": snapshot.model.name, "version": snapshot.model.version},
            "loaded": None if snapshot is None else snapshot.loaded_at.isoformat(timespec="seconds"),
            "missing": refresher.monitor.unavailable(),
            "services": {
                name: {"answers": service.answers, "since": service.changed.isoformat(timespec="seconds")}
                for name, service in refresher.monitor.services.items()
            },
            "version": __version__,
        }
    return as_json(document, 200 if snapshot is not None else 503)


async def metrics_page(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(generate_latest(app_state(request).metrics.registry), 200, None, CONTENT_TYPE_LATEST)


# -- errors ------------------------------------------------------------------------------------------------------------


async def handle_problem(request: Request, problem: RequestProblemError) -> Response:
    if is_api(local_path(request.scope)):
        response = as_json(problem.to_json(), problem.status)
    else:
        response = render(request, "problem.html", status=problem.status, problem=problem)
    if problem.status == 503:
        response.headers["retry-after"] = "5"
    response.headers.update(problem.headers)
    return response


async def handle_validation_error(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    _, *location = first["loc"]  # it begins with the part of the request: path or body
    return await handle_problem(request, wrong_parameter(location, first["msg"]))


async def handle_http_exception(request: Request, error: HTTPException) -> Response:
    messages = {404: "There is nothing at this address.", 405: "This address does not support that HTTP method."}
    message = messages.get(error.status_code, str(error.detail))
    return await handle_problem(request, RequestProblemError(error.status_code, "http", message, error.headers or {}))


async def handle_unexpected_error(request: Request, error: Exception) -> Response:
    """Log a bug of the server; the client learns only that it is not the request's fault."""
    log.error("failed", exc_info=error)
    message = "An unexpected error occurred on the server. It has been logged. Please try again."
    return await handle_problem(request, RequestProblemError(500, "failed", message))
