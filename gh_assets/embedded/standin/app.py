"""The HTTP interface of the stand-in: GitHub's endpoints over a `World`, with tokens, limits, ETags and faults.

Responses have the form of GitHub's (docs.github.com/rest). ``/__standin__`` reports the requests that were served, for
tests and benchmarks.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cached_property
from typing import Any
from urllib.parse import quote

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gh_assets.embedded.standin.clock import MachineClock, VirtualClock
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.graphql import GraphQL, QueryTimeoutError, node_id
from gh_assets.embedded.standin.limits import GRAPHQL, REST, Limits, Quota
from gh_assets.embedded.standin.rendering import render, wrap
from gh_assets.embedded.standin.world import NO_TIME, Repository, World

Handler = Callable[[Request], Response]
Endpoint = Callable[[Request], Awaitable[Response]]

UNKNOWN_TIME = "1970-01-01T00:00:00Z"

MAX_PAGE = 400
"""Last page of a list of stargazers; later pages have the status 422."""

_REPOSITORY_LINKS = [
    "forks",
    "keys{/key_id}",
    "collaborators{/collaborator}",
    "teams",
    "hooks",
    "issues/events{/number}",
    "events",
    "assignees{/user}",
    "branches{/branch}",
    "tags",
    "git/blobs{/sha}",
    "git/tags{/sha}",
    "git/refs{/sha}",
    "git/trees{/sha}",
    "statuses/{sha}",
    "languages",
    "stargazers",
    "contributors",
    "subscribers",
    "subscription",
    "commits{/sha}",
    "git/commits{/sha}",
    "comments{/number}",
    "issues/comments{/number}",
    "contents/{+path}",
    "compare/{base}...{head}",
    "merges",
    "{archive_format}{/ref}",
    "downloads",
    "issues{/number}",
    "pulls{/number}",
    "milestones{/number}",
    "notifications{?since,all,participating}",
    "labels{/name}",
    "releases{/id}",
    "deployments",
]
_LINK_NAMES = [
    "forks",
    "keys",
    "collaborators",
    "teams",
    "hooks",
    "issue_events",
    "events",
    "assignees",
    "branches",
    "tags",
    "blobs",
    "git_tags",
    "git_refs",
    "trees",
    "statuses",
    "languages",
    "stargazers",
    "contributors",
    "subscribers",
    "subscription",
    "commits",
    "git_commits",
    "comments",
    "issue_comment",
    "contents",
    "compare",
    "merges",
    "archive",
    "downloads",
    "issues",
    "pulls",
    "milestones",
    "notifications",
    "labels",
    "releases",
    "deployments",
]


class ResponseError(Exception):
    """A request ends with an error response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


@dataclass
class Standin:
    """A GitHub server: a world, its tokens and limits, and counts of the requests.

    Parameters
    ----------
    world : World
    tokens : sequence of str, or mapping of str to int
        Accepted tokens, by default of one user each, numbered from 1; a mapping gives the user of each.
    limits : Limits
    restricted : bool
        Whether no stargazers can be listed, as since July 2026; otherwise only `Repository.restricted` counts.
    faults : Faults
    clock : MachineClock or VirtualClock
    heavy_users : set of str
        Logins whose starred lists time out in GraphQL at a hundred entries per page.
    graphql : bool
        Whether the server has GraphQL.
    """

    world: World
    tokens: Sequence[str] | Mapping[str, int]
    limits: Limits = field(default_factory=Limits)
    restricted: bool = False
    faults: Faults = field(default_factory=Faults)
    clock: MachineClock | VirtualClock = field(default_factory=MachineClock)
    heavy_users: AbstractSet[str] = frozenset()
    graphql: bool = True
    served: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    """Number of all requests, including those with a fault."""

    def __post_init__(self) -> None:
        self.users = (
            dict(self.tokens)
            if isinstance(self.tokens, Mapping)
            else {token: number for number, token in enumerate(self.tokens, start=1)}
        )
        self.quota = Quota(self.limits)
        self.graph = GraphQL(self.world, lambda repository: self.restricted or repository.restricted, self.heavy_users)
        self._users: dict[tuple[str, int], bytes] = {}

    def used(self, token: str, resource: str = REST) -> int:
        """Return the points that the user of a token has used in the current window."""
        return self.quota.window(self.users[token], resource, self.clock.now()).used

    def app(self) -> Starlette:
        """Create the ASGI application."""
        get = [
            ("/rate_limit", self.rate_limit, False),
            ("/user", self.viewer, True),
            ("/user/{user_id:int}", self.user, True),
            ("/users/{login}", self.user, True),
            ("/users/{login}/starred", self.starred, True),
            ("/user/{user_id:int}/starred", self.starred, True),
            ("/repos/{owner}/{name}", self.repository, True),
            ("/repositories/{repo_id:int}", self.repository, True),
            ("/repos/{owner}/{name}/readme", self.readme, True),
            ("/repositories/{repo_id:int}/readme", self.readme, True),
            ("/repos/{owner}/{name}/contents", self.contents, True),
            ("/repos/{owner}/{name}/contents/{path:path}", self.contents, True),
            ("/repositories/{repo_id:int}/contents", self.contents, True),
            ("/repositories/{repo_id:int}/contents/{path:path}", self.contents, True),
            ("/repos/{owner}/{name}/stargazers", self.stargazers, True),
            ("/repositories/{repo_id:int}/stargazers", self.stargazers, True),
            ("/repos/{owner}/{name}/forks", self.forks, True),
            ("/repositories/{repo_id:int}/forks", self.forks, True),
        ]
        routes = [Route(path, self._endpoint(handler, counted)) for path, handler, counted in get]
        if self.graphql:
            routes.append(Route("/graphql", self._with_faults(self._graphql), methods=["POST"]))
        routes.append(Route("/__standin__", self._authorized(self.accounting)))
        routes.append(Route("/__standin__/clock", self._authorized(self.set_clock), methods=["GET", "POST"]))
        return Starlette(
            routes=[*routes, Route("/{path:path}", self._endpoint(self.unknown_path, True), methods=["GET", "POST"])],
        )

    # -- tokens, limits and faults -------------------------------------------------------------------------------

    def _endpoint(self, handler: Handler, counted: bool) -> Endpoint:
        async def respond(request: Request) -> Response:
            user = self.users[_token_of(request)]
            limited = self._limit_response(user, REST) if counted else None
            if limited is not None:
                return limited
            try:
                response = handler(request)
            except ResponseError as error:
                response = error.response
            tag = response.headers.get("etag")
            if tag is not None and tag in request.headers.get("if-none-match", ""):
                self.served["304"] += 1
                response = Response(status_code=304, headers={"etag": tag})
            elif counted:
                self.quota.spend(user, REST, 1, self.clock.now())
            self.served[handler.__name__ + ("" if response.status_code == 200 else f" {response.status_code}")] += 1
            response.headers.update(self._limit_headers(user, REST))
            return response

        return self._with_faults(respond)

    def _with_faults(self, handler: Endpoint) -> Endpoint:
        """Wrap an endpoint: check the token, inject faults and count requests in flight."""

        async def endpoint(request: Request) -> Response:
            self.quota.in_flight += 1
            self.requests += 1
            try:
                fault = self.faults.next(graphql=request.url.path == "/graphql")
                replacement = await self.faults.replacement(fault, request) if fault is not None else None
                if replacement is not None:
                    self.served[f"fault {fault}"] += 1
                    response = replacement
                elif _token_of(request) not in self.users:
                    self.served["401"] += 1
                    response = _error(401, "Bad credentials" if _token_of(request) else "Requires authentication")
                else:
                    response = await handler(request)
                if fault is not None and replacement is None:
                    response = self.faults.corrupt(fault, response)
            finally:
                self.quota.in_flight -= 1
            response.headers["date"] = formatdate(self.clock.now() + self.faults.clock_skew, usegmt=True)
            return response

        return endpoint

    def _authorized(self, handler: Endpoint) -> Endpoint:
        """Wrap an endpoint of the stand-in's own: check the token, without faults or limits."""

        async def endpoint(request: Request) -> Response:
            if _token_of(request) not in self.users:
                return _error(401, "Requires authentication")
            return await handler(request)

        return endpoint

    def _limit_response(self, user: int, resource: str) -> Response | None:
        """Return the error response if a request exceeds a limit."""
        kind = self.quota.exceeded(user, resource, self.clock.now())
        if kind is None:
            return None
        self.served["limited"] += 1
        if kind == "primary":
            response = _error(403, f"API rate limit exceeded for user ID {user}.")
        else:
            response = _error(403, "You have exceeded a secondary rate limit. Please wait a few minutes.")
            if self.limits.retry_after is not None:
                response.headers["retry-after"] = str(self.limits.retry_after)
        response.headers.update(self._limit_headers(user, resource))
        return response

    def _limit_headers(self, user: int, resource: str) -> dict[str, str]:
        headers = self.quota.headers(user, resource, self.clock.now())
        headers["x-ratelimit-reset"] = str(int(headers["x-ratelimit-reset"]) + int(self.faults.clock_skew))
        return headers | {"x-github-media-type": "github.v3; format=json"}

    # -- endpoints -----------------------------------------------------------------------------------------------

    async def accounting(self, _request: Request) -> Response:
        """Report the requests served, by endpoint and status, and the world."""
        return _json(
            {
                "requests": self.requests,
                "served": dict(sorted(self.served.items())),
                "world": self.world.description,
                "lists": self.world.lists,
                "violations": dict(self.quota.violations),
                "spent": dict(self.quota.spent),
                "faults": dict(self.faults.injected),
                "repositories": len(self.world.repositories),
                "users": len(self.world.logins),
                "stars": self.world.star_count,
            }
        )

    async def set_clock(self, request: Request) -> Response:
        """Report the time, or advance a virtual clock."""
        if request.method == "POST":
            if not isinstance(self.clock, VirtualClock):
                return _error(422, "This stand-in uses the machine's clock.")
            self.clock.advance(float((await request.json())["now"]))
        return _json({"now": self.clock.now()})

    async def _graphql(self, request: Request) -> Response:
        """``POST /graphql``."""
        now = self.clock.now()
        user = self.users[_token_of(request)]
        limited = self._limit_response(user, GRAPHQL)
        if limited is not None:
            return limited
        try:
            body = orjson.loads(await request.body())
            query, variables = str(body["query"]), dict(body.get("variables") or {})
        except (ValueError, KeyError, TypeError):
            return _error(400, "Problems parsing JSON")
        prepared = self.graph.prepare(query, variables)
        if isinstance(prepared, list):
            self.served["graphql invalid"] += 1
            response = _json({"errors": prepared})
            response.headers.update(self._limit_headers(user, GRAPHQL))
            return response
        plan, execution, document = prepared
        # A query costs points even if it fails.
        self.quota.spend(user, GRAPHQL, plan.cost, now)
        window = self.quota.window(user, GRAPHQL, now)
        limit = self.limits.graphql_points
        reset = dt.datetime.fromtimestamp(window.reset + self.faults.clock_skew, dt.UTC)
        try:
            content = self.graph.execute(
                execution,
                document,
                rate_limit={
                    "cost": plan.cost,
                    "limit": limit,
                    "nodeCount": plan.nodes,
                    "remaining": max(0, limit - window.used),
                    "resetAt": reset.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "used": window.used,
                },
                viewer=(f"standin-operator-{user}", user),
                budget=self.limits.query_budget,
            )
        except QueryTimeoutError:
            self.served["graphql 502"] += 1
            return Response(b"<html>Server Error</html>", 502, media_type="text/html")
        self.served["graphql"] += 1
        response = _json(content)
        response.headers.update(self._limit_headers(user, GRAPHQL))
        return response

    def rate_limit(self, request: Request) -> Response:
        usage = self.quota.describe(self.users[_token_of(request)], self.clock.now())
        skew = int(self.faults.clock_skew)
        resources = {name: {**budget, "reset": budget["reset"] + skew} for name, budget in usage.items()}
        # The budget of searches is reported and never used.
        search = {"limit": 30, "used": 0, "remaining": 30, "reset": resources[REST]["reset"]}
        return _json({"resources": {**resources, "search": search}, "rate": resources[REST]})

    def viewer(self, request: Request) -> Response:
        number = self.users[_token_of(request)]
        login = f"standin-operator-{number}"
        return _json(_profile(_account_json(login, number, "User", f"{_base(request)}/users/{login}")))

    def user(self, request: Request) -> Response:
        index = self._find_user(request)
        if index is None:
            owner = self._find_organization(request)
            if owner is None:
                return _error(404, "Not Found")
            account = _account_json(owner, _owner_id(owner), "Organization", f"{_base(request)}/users/{owner}")
            return _json(_profile(account), tagged=True)
        return _json(_profile(orjson.loads(self._user_json(index, _base(request)))), tagged=True)

    def repository(self, request: Request) -> Response:
        repository = self._find_repository(request)
        resource = self._repository_json(repository, _base(request))
        origin = None if repository.fork_of is None else self.world.by_id.get(repository.fork_of)
        if origin is not None:
            resource["parent"] = resource["source"] = self._repository_json(origin, _base(request))
        return _json(resource, tagged=True)

    def readme(self, request: Request) -> Response:
        repository = self._find_repository(request)
        return self._file(request, repository, repository.readme_name, "readme")

    def contents(self, request: Request) -> Response:
        """Return a file, or the entries of a folder."""
        repository = self._find_repository(request)
        path = request.path_params.get("path", "").strip("/")
        if path in repository.content:
            return self._file(request, repository, path, "file")
        prefix = f"{path}/" if path else ""
        descendants = [name.removeprefix(prefix) for name in repository.content if name.startswith(prefix)]
        if not descendants:
            return _error(404, "Not Found")
        names = sorted({name.partition("/")[0] for name in descendants})
        return _json([self._content_json(request, repository, prefix + name) for name in names], tagged=True)

    def _file(self, request: Request, repository: Repository, path: str, kind: str) -> Response:
        accept = request.headers.get("accept", "")
        content = repository.content[path].encode()
        if "raw" in accept:
            return _tagged(content, "application/vnd.github.raw+json; charset=utf-8")
        if "html" in accept:
            html = repository.rendered.get(path) or render(path, repository.content[path])
            if html is None:
                return _error(415, "Unsupported 'Accept' header: this file is not rendered.")
            return _tagged(wrap(html, path, kind).encode(), "application/vnd.github.html+json; charset=utf-8")
        resource = self._content_json(request, repository, path)
        encoded = {"encoding": "base64", "content": base64.encodebytes(content).decode()}
        return _json(resource | encoded, tagged=True)

    def _content_json(self, request: Request, repository: Repository, path: str) -> dict[str, Any]:
        """Return the resource of a file or folder, without its content."""
        text = repository.content.get(path)
        if text is None:
            # Like the hash of a tree, it changes with every file of the folder.
            files = [name + content for name, content in repository.content.items() if name.startswith(f"{path}/")]
            content, size, kind, git_kind = "\0".join(files).encode(), 0, "dir", "tree"
        else:
            content = text.encode()
            size, kind, git_kind = len(content), "file", "blob"
        sha = hashlib.sha1(b"%s %d\0" % (git_kind.encode(), len(content)) + content, usedforsecurity=False).hexdigest()
        url = f"{_base(request)}/repos/{repository.full_name}"
        quoted = quote(path)
        download = f"https://raw.githubusercontent.com/{repository.full_name}/main/{quoted}"
        addresses = {
            "url": f"{url}/contents/{quoted}?ref=main",
            "html_url": f"https://github.com/{repository.full_name}/{git_kind}/main/{quoted}",
            "git_url": f"{url}/git/{git_kind}s/{sha}",
            "download_url": None if text is None else download,
        }
        return {
            **addresses,
            "_links": {"self": addresses["url"], "html": addresses["html_url"], "git": addresses["git_url"]},
            "type": kind,
            "size": size,
            "name": path.rpartition("/")[2],
            "path": path,
            "sha": sha,
        }

    def stargazers(self, request: Request) -> Response:
        repository = self._find_repository(request)
        if self.restricted or repository.restricted:
            return _error(403, "You do not have permission to view the stargazers of this repository.")
        page, per_page = _paging(request)
        if page > MAX_PAGE:
            return _error(422, "In order to keep the API fast for everyone, pagination is limited for this resource.")
        start, end = (page - 1) * per_page, page * per_page
        users, times = repository.stargazers[start:end], repository.starred_at[start:end]
        starred = "star+json" in request.headers.get("accept", "")
        stamp = b"%d %d %d %d " % (repository.repo_id, page, per_page, starred) + users.tobytes() + times.tobytes()
        tag = _etag(stamp)
        base = _base(request)
        if starred:
            entries = [
                b'{"starred_at":'
                + orjson.dumps(_iso(int(when)))
                + b',"user":'
                + self._user_json(int(user), base)
                + b"}"
                for user, when in zip(users, times, strict=True)
            ]
        else:
            entries = [self._user_json(int(user), base) for user in users]
        headers = {"etag": tag}
        link = _link_header(
            f"{base}/repositories/{repository.repo_id}/stargazers", page, per_page, len(repository.stargazers)
        )
        if link:
            headers["link"] = link
        return Response(b"[" + b",".join(entries) + b"]", media_type="application/json", headers=headers)

    def starred(self, request: Request) -> Response:
        index = self._find_user(request)
        if index is None:
            # Organizations exist and have no stars.
            return _error(404, "Not Found") if self._find_organization(request) is None else _json([], tagged=True)
        page, per_page = _paging(request)
        pairs = self.world.starred(index)
        base = _base(request)
        with_time = "star+json" in request.headers.get("accept", "")
        entries: list[dict[str, Any]] = []
        for repository, when in pairs[(page - 1) * per_page : page * per_page]:
            resource = self._repository_json(self.world.repositories[int(repository)], base)
            entries.append({"starred_at": _iso(int(when)), "repo": resource} if with_time else resource)
        response = _json(entries, tagged=True)
        link = _link_header(f"{base}/user/{self.world.user_ids[index]}/starred", page, per_page, len(pairs))
        if link:
            response.headers["link"] = link
        return response

    def forks(self, request: Request) -> Response:
        repository = self._find_repository(request)
        page, per_page = _paging(request)
        users = self.world.forkers(repository)
        base = _base(request)
        name = repository.full_name.split("/")[1]
        entries = []
        for user in users[(page - 1) * per_page : page * per_page]:
            fork = Repository(2**40 + repository.repo_id * 2**16 + user % 2**16, f"{self.world.logins[user]}/{name}")
            resource = self._repository_json(fork, base) | {"fork": True}
            entries.append(resource | {"owner": orjson.loads(self._user_json(user, base))})
        response = _json(entries, tagged=True)
        link = _link_header(f"{base}/repositories/{repository.repo_id}/forks", page, per_page, len(users))
        if link:
            response.headers["link"] = link
        return response

    def unknown_path(self, _request: Request) -> Response:
        return _error(404, "Not Found")

    # -- resources -----------------------------------------------------------------------------------------------

    def _find_repository(self, request: Request) -> Repository:
        """Return the repository of a path.

        Raises
        ------
        ResponseError
            301 if it was renamed, 404 if it does not exist, 451 if it is blocked.
        """
        parameters = request.path_params
        if "repo_id" in parameters:
            repository = self.world.by_id.get(parameters["repo_id"])
        else:
            name = f"{parameters['owner']}/{parameters['name']}".lower()
            repository = self.world.by_name.get(name)
            if repository is None and name in self.world.moved:
                rest = request.url.path.split("/", 4)[4:]
                target = f"{_base(request)}/repositories/{self.world.moved[name].repo_id}"
                target += "".join(f"/{part}" for part in rest)
                target += f"?{request.url.query}" if request.url.query else ""
                body = orjson.dumps({"message": "Moved Permanently", "url": target})
                raise ResponseError(Response(body, 301, {"location": target}, "application/json"))
        if repository is None:
            raise ResponseError(_error(404, "Not Found"))
        if repository.blocked:
            content = {"message": "Repository access blocked", "block": {"reason": "dmca", "created_at": None}}
            raise ResponseError(Response(orjson.dumps(content), 451, media_type="application/json"))
        return repository

    def _find_user(self, request: Request) -> int | None:
        if "user_id" in request.path_params:
            return self.world.user_by_id.get(request.path_params["user_id"])
        return self.world.user_by_login.get(request.path_params["login"].lower())

    def _find_organization(self, request: Request) -> str | None:
        """Return an owner of repositories who is not a user."""
        if "user_id" in request.path_params:
            return self._owners_by_id.get(request.path_params["user_id"])
        return self._owners.get(request.path_params["login"].lower())

    @cached_property
    def _owners(self) -> Mapping[str, str]:
        names = (repository.full_name.partition("/")[0] for repository in self.world.repositories)
        return {name.lower(): name for name in names}

    @cached_property
    def _owners_by_id(self) -> Mapping[int, str]:
        return {_owner_id(name): name for name in self._owners.values()}

    def _user_json(self, index: int, base: str) -> bytes:
        kept = self._users.get((base, index))
        if kept is None:
            url = f"{base}/users/{self.world.logins[index]}"
            kept = self._users[base, index] = orjson.dumps(
                _account_json(self.world.logins[index], self.world.user_ids[index], "User", url)
            )
        return kept

    def _repository_json(self, repository: Repository, base: str) -> dict[str, Any]:
        owner, name = repository.full_name.split("/")
        url = f"{base}/repos/{repository.full_name}"
        stars = repository.star_count
        links = {f"{key}_url": f"{url}/{path}" for key, path in zip(_LINK_NAMES, _REPOSITORY_LINKS, strict=True)}
        return {
            "id": repository.repo_id,
            "node_id": node_id("Repository", repository.repo_id),
            "name": name,
            "full_name": repository.full_name,
            "private": False,
            "owner": _account_json(owner, _owner_id(owner), "Organization", f"{base}/users/{owner}"),
            "html_url": f"https://github.com/{repository.full_name}",
            "description": repository.description,
            "fork": repository.fork_of is not None,
            "url": url,
            **links,
            # GitHub always has these times; a world from a file may not.
            "created_at": repository.created_at or UNKNOWN_TIME,
            "updated_at": repository.pushed_at or UNKNOWN_TIME,
            "pushed_at": repository.pushed_at or UNKNOWN_TIME,
            "git_url": f"git://github.com/{repository.full_name}.git",
            "ssh_url": f"git@github.com:{repository.full_name}.git",
            "clone_url": f"https://github.com/{repository.full_name}.git",
            "svn_url": f"https://github.com/{repository.full_name}",
            "mirror_url": None,
            "homepage": None,
            "size": 1024,
            "stargazers_count": stars,
            "watchers_count": stars,
            "watchers": stars,
            "language": repository.language,
            "has_issues": True,
            "has_projects": True,
            "has_downloads": True,
            "has_wiki": False,
            "has_pages": False,
            "has_discussions": False,
            "forks_count": 0,
            "forks": 0,
            "archived": repository.archived,
            "disabled": False,
            "open_issues_count": 0,
            "open_issues": 0,
            "license": None,
            "allow_forking": True,
            "is_template": False,
            "web_commit_signoff_required": False,
            "topics": list(repository.topics),
            "visibility": "public",
            "default_branch": "main",
            "network_count": 0,
            "subscribers_count": 0,
        }


def _token_of(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() in ("bearer", "token") else ""


def _base(request: Request) -> str:
    return f"http://{request.headers['host']}"


def _paging(request: Request) -> tuple[int, int]:
    def number(name: str, default: int) -> int:
        text = request.query_params.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else default

    return number("page", 1), min(100, number("per_page", 30))


def _link_header(url: str, page: int, per_page: int, total: int) -> str:
    last = min(MAX_PAGE, max(1, -(-total // per_page)))
    targets: dict[str, int] = {}
    if page > 1:
        targets |= {"prev": min(page - 1, last), "first": 1}
    if page < last:
        targets |= {"next": page + 1, "last": last}
    return ", ".join(f'<{url}?per_page={per_page}&page={number}>; rel="{rel}"' for rel, number in targets.items())


def _owner_id(owner: str) -> int:
    return int.from_bytes(hashlib.blake2b(owner.lower().encode(), digest_size=4).digest()) + 2**33


def _account_json(login: str, account_id: int, kind: str, url: str) -> dict[str, Any]:
    return {
        "login": login,
        "id": account_id,
        "node_id": node_id(kind, account_id),
        "avatar_url": f"https://avatars.githubusercontent.com/u/{account_id}?v=4",
        "gravatar_id": "",
        "url": url,
        "html_url": f"https://github.com/{login}",
        "followers_url": f"{url}/followers",
        "following_url": f"{url}/following{{/other_user}}",
        "gists_url": f"{url}/gists{{/gist_id}}",
        "starred_url": f"{url}/starred{{/owner}}{{/repo}}",
        "subscriptions_url": f"{url}/subscriptions",
        "organizations_url": f"{url}/orgs",
        "repos_url": f"{url}/repos",
        "events_url": f"{url}/events{{/privacy}}",
        "received_events_url": f"{url}/received_events",
        "type": kind,
        "user_view_type": "public",
        "site_admin": False,
    }


def _profile(account: dict[str, Any]) -> dict[str, Any]:
    """Return the full resource of an account."""
    details = dict.fromkeys(("name", "company", "location", "email", "hireable", "bio", "twitter_username"))
    counts = dict.fromkeys(("public_repos", "public_gists", "followers", "following"), 0)
    return account | details | counts | {"blog": "", "created_at": UNKNOWN_TIME, "updated_at": UNKNOWN_TIME}


def _iso(seconds: int) -> str | None:
    if seconds == NO_TIME:
        return None
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _etag(content: bytes) -> str:
    return f'W/"{hashlib.blake2b(content, digest_size=20).hexdigest()}"'


def _tagged(content: bytes, media_type: str) -> Response:
    return Response(content, headers={"etag": _etag(content)}, media_type=media_type)


def _json(value: Any, *, tagged: bool = False) -> Response:
    content = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    media_type = "application/json; charset=utf-8"
    return _tagged(content, media_type) if tagged else Response(content, media_type=media_type)


def _error(status: int, message: str) -> Response:
    content = {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}
    return Response(orjson.dumps(content), status, media_type="application/json; charset=utf-8")
