"""The HTTP interface of the stand-in: GitHub's endpoints over a `World`, with tokens, limits, ETags and faults.

Responses have the form of GitHub's (docs.github.com/rest). ``/__standin__`` reports the requests that were served, for
tests and benchmarks.
"""

from __future__ import annotations

import base64
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

from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.events import MAX_EVENTS, POLL_SECONDS, EventFeeds
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.graphql import GraphQL, QueryTimeoutError, node_id
from gh_assets.embedded.standin.limits import GRAPHQL, REST, Limits, Quota
from gh_assets.embedded.standin.rendering import render, wrap
from gh_assets.embedded.standin.star_history import HISTORY_VERSION, MAX_WEEKS, weekly_rows
from gh_assets.embedded.standin.world import Repository, World, iso
from gh_assets.github.retries import Clock

Handler = Callable[[Request], Response]
Endpoint = Callable[[Request], Awaitable[Response]]

MAX_PAGE = 400
"""Last page of a list of stargazers; later pages have the status 422."""

MAX_KNOWN_USERS = 50_000
"""Number of users whose JSON is kept, about a kilobyte each."""


def _link_table(text: str) -> dict[str, str]:
    return dict(link.split("=") for link in text.split())


_REPOSITORY_LINKS = _link_table("""
forks=forks keys=keys{/key_id} collaborators=collaborators{/collaborator} teams=teams hooks=hooks
issue_events=issues/events{/number} events=events assignees=assignees{/user} branches=branches{/branch} tags=tags
blobs=git/blobs{/sha} git_tags=git/tags{/sha} git_refs=git/refs{/sha} trees=git/trees{/sha} statuses=statuses/{sha}
languages=languages stargazers=stargazers contributors=contributors subscribers=subscribers subscription=subscription
commits=commits{/sha} git_commits=git/commits{/sha} comments=comments{/number} issue_comment=issues/comments{/number}
contents=contents/{+path} compare=compare/{base}...{head} merges=merges archive={archive_format}{/ref}
downloads=downloads issues=issues{/number} pulls=pulls{/number} milestones=milestones{/number}
notifications=notifications{?since,all,participating} labels=labels{/name} releases=releases{/id}
deployments=deployments
""")
_ACCOUNT_LINKS = _link_table("""
followers=followers following=following{/other_user} gists=gists{/gist_id} starred=starred{/owner}{/repo}
subscriptions=subscriptions organizations=orgs repos=repos events=events{/privacy} received_events=received_events
""")
"""Names of the fields that end in ``_url``, and their paths below the ``url`` of the resource."""


_REPOSITORY_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("has_issues", "has_projects", "has_downloads", "allow_forking"), True),
    **dict.fromkeys(("private", "has_wiki", "has_pages", "has_discussions", "disabled", "is_template"), False),
    **dict.fromkeys(
        ("forks_count", "forks", "open_issues_count", "open_issues", "network_count", "subscribers_count"), 0
    ),
    **dict.fromkeys(("mirror_url", "homepage", "license")),
    **{"web_commit_signoff_required": False, "size": 1024, "visibility": "public", "default_branch": "main"},
}


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
    clock : Clock
    heavy_users : set of str
        Logins whose starred lists time out in GraphQL at a hundred entries per page.
    graphql : bool
        Whether the server has GraphQL.
    enterprise : bool
        Whether the server lacks what only github.com has: star histories.
    """

    world: World
    tokens: Sequence[str] | Mapping[str, int]
    limits: Limits = field(default_factory=Limits)
    restricted: bool = False
    faults: Faults = field(default_factory=Faults)
    clock: Clock = field(default_factory=Clock)
    heavy_users: AbstractSet[str] = frozenset()
    graphql: bool = True
    enterprise: bool = False
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
        self.feeds = EventFeeds(self.world)
        self._users: dict[tuple[str, int], bytes] = {}

    def used(self, token: str, resource: str = REST) -> int:
        """Return the points that the user of a token has used in the current window."""
        return self.quota.window(self.users[token], resource, self.clock.now()).used

    def app(self) -> Starlette:
        """Create the ASGI application."""
        account, repository = (
            ("/users/{login}", "/user/{user_id:int}"),
            ("/repos/{owner}/{name}", "/repositories/{repo_id:int}"),
        )
        handlers: list[tuple[Sequence[str], str, Handler]] = [
            (["/user"], "", self.viewer),
            (account, "", self.user),
            (account, "/starred", self.starred),
            (repository, "", self.repository),
            (repository, "/readme", self.readme),
            (repository, "/contents", self.contents),
            (repository, "/contents/{path:path}", self.contents),
            (repository, "/stargazers", self.stargazers),
            (repository, "/stargazers/history", self.star_history),
            (repository, "/forks", self.forks),
            (repository, "/events", self.events),
        ]
        routes = [Route("/rate_limit", self._endpoint(self.rate_limit, counted=False))]
        routes += [
            Route(prefix + path, self._endpoint(handler)) for prefixes, path, handler in handlers for prefix in prefixes
        ]
        if self.graphql:
            routes.append(Route("/graphql", self._with_faults(self._graphql), methods=["POST"]))
        routes.append(Route("/__standin__", self._authorized(self.accounting)))
        routes.append(Route("/__standin__/clock", self._authorized(self.set_clock), methods=["GET", "POST"]))
        routes.append(Route("/{path:path}", self._endpoint(self.unknown_path), methods=["GET", "POST"]))
        return Starlette(routes=routes)

    # -- tokens, limits and faults -------------------------------------------------------------------------------

    def _endpoint(self, handler: Handler, *, counted: bool = True) -> Endpoint:
        async def respond(request: Request) -> Response:
            user = self.users[_token_of(request)]
            response = self._limit_response(user, REST) if counted else None
            if response is None:
                response = self._response(handler, request)
                if counted and response.status_code != 304:
                    self.quota.spend(user, REST, 1, self.clock.now())
            response.headers.update(self._limit_headers(user, REST))
            return response

        return self._with_faults(respond)

    def _response(self, handler: Handler, request: Request) -> Response:
        try:
            response = handler(request)
        except ResponseError as error:
            response = error.response
        tag = response.headers.get("etag")
        if tag is not None and tag in request.headers.get("if-none-match", ""):
            self.served["304"] += 1
            kept = {name: value for name, value in response.headers.items() if name in ("etag", "x-poll-interval")}
            response = Response(status_code=304, headers=kept)
        status = "" if response.status_code == 200 else f" {response.status_code}"
        self.served[handler.__name__ + status] += 1
        return response

    def _with_faults(self, handler: Endpoint) -> Endpoint:
        """Wrap an endpoint: check the token, inject faults and count requests in flight."""

        async def endpoint(request: Request) -> Response:
            self.quota.in_flight += 1
            self.requests += 1
            self.world.advance(self.clock.now())
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
        return response

    def _usage(self, user: int, resource: str) -> dict[str, int]:
        """Return the usage of a resource, with the time of its reset by the server's clock."""
        usage = self.quota.usage(user, resource, self.clock.now())
        return usage | {"reset": usage["reset"] + int(self.faults.clock_skew)}

    def _limit_headers(self, user: int, resource: str) -> dict[str, str]:
        headers = {f"x-ratelimit-{name}": str(number) for name, number in self._usage(user, resource).items()}
        return headers | {"x-ratelimit-resource": resource, "x-github-media-type": "github.v3; format=json"}

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
        user = self.users[_token_of(request)]
        response = self._limit_response(user, GRAPHQL) or self._query_response(user, await request.body())
        if response.status_code != 502:
            response.headers.update(self._limit_headers(user, GRAPHQL))
        return response

    def _query_response(self, user: int, content: bytes) -> Response:
        try:
            body = orjson.loads(content)
            text, variables = str(body["query"]), dict(body.get("variables") or {})
        except (ValueError, KeyError, TypeError):
            return _error(400, "Problems parsing JSON")
        query = self.graph.prepare(text, variables)
        if isinstance(query, list):
            self.served["graphql invalid"] += 1
            return _json({"errors": query})
        # A query costs points even if it fails.
        self.quota.spend(user, GRAPHQL, query.cost, self.clock.now())
        usage = self._usage(user, GRAPHQL)
        rate_limit = {"cost": query.cost, "nodeCount": query.nodes, "resetAt": iso(usage.pop("reset")), **usage}
        try:
            answer = query.execute(rate_limit, (_operator(user), user), self.limits.query_budget)
        except QueryTimeoutError:
            self.served["graphql 502"] += 1
            return Response(b"<html>Server Error</html>", 502, media_type="text/html")
        self.served["graphql"] += 1
        return _json(answer)

    def rate_limit(self, request: Request) -> Response:
        user = self.users[_token_of(request)]
        resources = {resource: self._usage(user, resource) for resource in (REST, GRAPHQL)}
        # The budget of searches is reported and never used.
        search = {"limit": 30, "used": 0, "remaining": 30, "reset": resources[REST]["reset"]}
        return _json({"resources": {**resources, "search": search}, "rate": resources[REST]})

    def viewer(self, request: Request) -> Response:
        user = self.users[_token_of(request)]
        return _json(_profile(_account_json(_operator(user), user, "User", _base(request))))

    def user(self, request: Request) -> Response:
        account = self._find_account(request)
        if isinstance(account, str):
            described = _account_json(account, _owner_id(account), "Organization", _base(request))
        else:
            described = orjson.loads(self._user_json(account, _base(request)))
        return _json(_profile(described), tagged=True)

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
        page = _Page.of(request)
        if page.number > MAX_PAGE:
            return _error(422, "In order to keep the API fast for everyone, pagination is limited for this resource.")
        users, times = repository.stargazers[page.entries], repository.starred_at[page.entries]
        base, with_time = _base(request), _with_time(request)
        entries = [self._user_json(user, base) for user in users.tolist()]
        if with_time:
            moments = (orjson.dumps(iso(when)) for when in times.tolist())
            entries = [b'{"starred_at":%b,"user":%b}' % pair for pair in zip(moments, entries, strict=True)]
        stamp = b"%d %d %d %d " % (repository.repo_id, page.number, page.size, with_time)
        headers = page.links(f"{base}/repositories/{repository.repo_id}/stargazers", len(repository.stargazers))
        headers["etag"] = _etag(stamp + users.tobytes() + times.tobytes())
        return Response(b"[" + b",".join(entries) + b"]", media_type="application/json", headers=headers)

    def star_history(self, request: Request) -> Response:
        """Return a page of weeks, which is open where the list of stargazers is closed."""
        repository = self._find_repository(request)
        if self.enterprise or request.headers.get("x-github-api-version") != HISTORY_VERSION:
            return _error(404, "Not Found")
        page, weeks = _Page.of(request, MAX_WEEKS), weekly_rows(repository, self.clock.now())
        links = page.links(f"{_base(request)}/repositories/{repository.repo_id}/stargazers/history", len(weeks))
        return _json(weeks[page.entries], links, tagged=True)

    def starred(self, request: Request) -> Response:
        user = self._find_account(request)
        if isinstance(user, str):
            return _json([], tagged=True)  # organizations have no stars
        page, pairs, base = _Page.of(request), self.world.starred(user), _base(request)
        entries: list[dict[str, Any]] = []
        for repository, when in pairs[page.entries].tolist():
            resource = self._repository_json(self.world.repositories[repository], base)
            entries.append({"starred_at": iso(when), "repo": resource} if _with_time(request) else resource)
        return _json(entries, page.links(f"{base}/user/{self.world.user_ids[user]}/starred", len(pairs)), tagged=True)

    def forks(self, request: Request) -> Response:
        repository = self._find_repository(request)
        page, users, base = _Page.of(request), self.world.forkers(repository), _base(request)
        name = repository.full_name.split("/")[1]
        entries = []
        for user in users[page.entries]:
            fork = Repository(2**40 + repository.repo_id * 2**16 + user % 2**16, f"{self.world.logins[user]}/{name}")
            owner = orjson.loads(self._user_json(user, base))
            entries.append(self._repository_json(fork, base) | {"fork": True, "owner": owner})
        links = page.links(f"{base}/repositories/{repository.repo_id}/forks", len(users))
        return _json(entries, links, tagged=True)

    def events(self, request: Request) -> Response:
        """Return a page of a repository's feed, which is open while its list of stargazers is closed."""
        repository = self._find_repository(request)
        page, base = _Page.of(request), _base(request)
        if page.entries.start >= MAX_EVENTS:
            return _error(422, "In order to keep the API fast for everyone, pagination is limited for this resource.")
        rows = self.feeds.visible(repository, self.clock.now())
        links = page.links(f"{base}/repositories/{repository.repo_id}/events", len(rows))
        entries = self.feeds.entries(repository, rows[page.entries], base)
        return _json(entries, links | {"x-poll-interval": str(POLL_SECONDS)}, tagged=True)

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
                body = {"message": "Moved Permanently", "url": target}
                raise ResponseError(_json(body, {"location": target}, status=301))
        if repository is None:
            raise ResponseError(_error(404, "Not Found"))
        if repository.blocked:
            content = {"message": "Repository access blocked", "block": {"reason": "dmca", "created_at": None}}
            raise ResponseError(_json(content, status=451))
        return repository

    def _find_account(self, request: Request) -> int | str:
        """Return the index of a user, or the name of an owner of repositories who is not a user.

        Raises
        ------
        ResponseError
            404 if there is neither.
        """
        found: int | str | None
        if "user_id" in request.path_params:
            user_id = request.path_params["user_id"]
            found = self.world.user_by_id.get(user_id, self._owners_by_id.get(user_id))
        else:
            login = request.path_params["login"].lower()
            found = self.world.user_by_login.get(login, self._owners.get(login))
        if found is None:
            raise ResponseError(_error(404, "Not Found"))
        return found

    @cached_property
    def _owners(self) -> Mapping[str, str]:
        names = (repository.full_name.partition("/")[0] for repository in self.world.repositories)
        return {name.lower(): name for name in names}

    @cached_property
    def _owners_by_id(self) -> Mapping[int, str]:
        return {_owner_id(name): name for name in self._owners.values()}

    def _user_json(self, index: int, base: str) -> bytes:
        known = self._users.get((base, index))
        if known is None:
            if len(self._users) == MAX_KNOWN_USERS:
                self._users.clear()
            account = _account_json(self.world.logins[index], self.world.user_ids[index], "User", base)
            known = self._users[base, index] = orjson.dumps(account)
        return known

    def _repository_json(self, repository: Repository, base: str) -> dict[str, Any]:
        owner, name = repository.full_name.split("/")
        url, page = f"{base}/repos/{repository.full_name}", f"github.com/{repository.full_name}"
        return _REPOSITORY_CONSTANTS | {
            "id": repository.repo_id,
            "node_id": node_id("Repository", repository.repo_id),
            "name": name,
            "full_name": repository.full_name,
            "owner": _account_json(owner, _owner_id(owner), "Organization", base),
            "html_url": f"https://{page}",
            "description": repository.description,
            "fork": repository.fork_of is not None,
            "url": url,
            **_links_below(url, _REPOSITORY_LINKS),
            # GitHub always has these times; a world from a file may not.
            "created_at": repository.created_at or iso(0),
            "updated_at": repository.pushed_at or iso(0),
            "pushed_at": repository.pushed_at or iso(0),
            "git_url": f"git://{page}.git",
            "ssh_url": f"git@github.com:{repository.full_name}.git",
            "clone_url": f"https://{page}.git",
            "svn_url": f"https://{page}",
            **dict.fromkeys(("stargazers_count", "watchers_count", "watchers"), len(repository.stargazers)),
            "language": repository.language,
            "archived": repository.archived,
            "topics": list(repository.topics),
        }


@dataclass(frozen=True)
class _Page:
    """A requested page of a list."""

    number: int
    size: int

    @classmethod
    def of(cls, request: Request, largest: int = 100) -> _Page:
        def parameter(name: str, default: int) -> int:
            text = request.query_params.get(name, "")
            return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else default

        return cls(parameter("page", 1), min(largest, parameter("per_page", 30)))

    @property
    def entries(self) -> slice:
        return slice((self.number - 1) * self.size, self.number * self.size)

    def links(self, url: str, total: int) -> dict[str, str]:
        """Return the header with the links to other pages, if there are any."""
        last = min(MAX_PAGE, max(1, -(-total // self.size)))
        targets: dict[str, int] = {}
        if self.number > 1:
            targets |= {"prev": min(self.number - 1, last), "first": 1}
        if self.number < last:
            targets |= {"next": self.number + 1, "last": last}
        links = [f'<{url}?per_page={self.size}&page={number}>; rel="{rel}"' for rel, number in targets.items()]
        return {"link": ", ".join(links)} if links else {}


def _token_of(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() in ("bearer", "token") else ""


def _base(request: Request) -> str:
    return f"http://{request.headers['host']}"


def _with_time(request: Request) -> bool:
    """Whether the response shall have the times of stars."""
    return "star+json" in request.headers.get("accept", "")


def _operator(user: int) -> str:
    """Return the login of a token's user."""
    return f"standin-operator-{user}"


def _owner_id(owner: str) -> int:
    return int.from_bytes(hashlib.blake2b(owner.lower().encode(), digest_size=4).digest()) + 2**33


def _links_below(url: str, links: Mapping[str, str]) -> dict[str, str]:
    return {f"{name}_url": f"{url}/{path}" for name, path in links.items()}


def _account_json(login: str, account_id: int, kind: str, base: str) -> dict[str, Any]:
    url = f"{base}/users/{login}"
    return {
        "login": login,
        "id": account_id,
        "node_id": node_id(kind, account_id),
        "avatar_url": f"https://avatars.githubusercontent.com/u/{account_id}?v=4",
        "gravatar_id": "",
        "url": url,
        "html_url": f"https://github.com/{login}",
        **_links_below(url, _ACCOUNT_LINKS),
        "type": kind,
        "user_view_type": "public",
        "site_admin": False,
    }


def _profile(account: dict[str, Any]) -> dict[str, Any]:
    """Return the full resource of an account."""
    details = dict.fromkeys(("name", "company", "location", "email", "hireable", "bio", "twitter_username"))
    counts = dict.fromkeys(("public_repos", "public_gists", "followers", "following"), 0)
    return account | details | counts | {"blog": "", "created_at": iso(0), "updated_at": iso(0)}


def _etag(content: bytes) -> str:
    return f'W/"{hashlib.blake2b(content, digest_size=20).hexdigest()}"'


def _tagged(content: bytes, media_type: str) -> Response:
    return Response(content, headers={"etag": _etag(content)}, media_type=media_type)


def _json(value: Any, headers: Mapping[str, str] | None = None, *, status: int = 200, tagged: bool = False) -> Response:
    content = orjson.dumps(value)
    tag = {"etag": _etag(content)} if tagged else {}
    return Response(content, status, tag | dict(headers or {}), "application/json; charset=utf-8")


def _error(status: int, message: str) -> Response:
    url = "https://docs.github.com/rest"
    return _json({"message": message, "documentation_url": url, "status": str(status)}, status=status)
