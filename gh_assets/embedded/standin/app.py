"""The stand-in's HTTP side: GitHub's REST endpoints over a `World`, with tokens, limits, ETags and paging.

Answers have the shape of GitHub's own (docs.github.com/rest). ``/__standin__`` is its own accounting, which tests
and benchmarks read.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gh_assets.embedded.standin.world import NO_TIME, Repository, World

MAX_PAGE = 400
"""GitHub answers 422 past this page of a list of stargazers."""

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


@dataclass
class TokenUse:
    """A token's window of requests."""

    reset: float
    used: int = 0


@dataclass
class Limits:
    """Primary limit of the stand-in: `requests` in each window of `window_seconds`, per token."""

    requests: int = 5_000_000
    window_seconds: float = 3600.0


@dataclass
class Standin:
    """A world, who may ask, and what was asked."""

    world: World
    tokens: Sequence[str]
    limits: Limits = field(default_factory=Limits)
    uses: dict[str, TokenUse] = field(default_factory=dict)
    served: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._users: dict[tuple[str, int], bytes] = {}

    def app(self) -> Starlette:
        """The ASGI application."""
        get = [
            ("/rate_limit", self.rate_limit, False),
            ("/user", self.viewer, True),
            ("/user/{user_id:int}", self.user, True),
            ("/users/{login}", self.user, True),
            ("/users/{login}/starred", self.starred, True),
            ("/repos/{owner}/{name}", self.repository, True),
            ("/repositories/{repo_id:int}", self.repository, True),
            ("/repos/{owner}/{name}/readme", self.readme, True),
            ("/repositories/{repo_id:int}/readme", self.readme, True),
            ("/repos/{owner}/{name}/contents/{path:path}", self.readme, True),
            ("/repos/{owner}/{name}/stargazers", self.stargazers, True),
            ("/repositories/{repo_id:int}/stargazers", self.stargazers, True),
        ]
        routes = [Route(path, self._endpoint(handler, counted)) for path, handler, counted in get]
        routes.append(Route("/__standin__", self.accounting))
        return Starlette(
            routes=[*routes, Route("/{path:path}", self._endpoint(self.unknown_path, True))],
        )

    # -- who asks, and how much is left --------------------------------------------------------------------------

    def _endpoint(
        self, handler: Callable[[Request], Response], counted: bool
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            token = _token_of(request)
            if token not in self.tokens:
                self.served["401"] += 1
                return _error(401, "Bad credentials" if token else "Requires authentication")
            use = self._use(token)
            spent = counted and use.used >= self.limits.requests
            if spent:
                self.served["limited"] += 1
                response = _error(403, f"API rate limit exceeded for user ID {self.tokens.index(token) + 1}.")
            else:
                response = handler(request)
                tag = response.headers.get("etag")
                if tag is not None and tag in request.headers.get("if-none-match", ""):
                    self.served["304"] += 1
                    response = Response(status_code=304, headers={"etag": tag})
                elif counted:
                    use.used += 1
                self.served[handler.__name__ + ("" if response.status_code == 200 else f" {response.status_code}")] += 1
            response.headers.update(self._limit_headers(use))
            return response

        return endpoint

    def _use(self, token: str) -> TokenUse:
        now = time.time()
        use = self.uses.get(token)
        if use is None or now >= use.reset:
            use = self.uses[token] = TokenUse(now + self.limits.window_seconds)
        return use

    def _limit_headers(self, use: TokenUse) -> dict[str, str]:
        return {
            "x-ratelimit-limit": str(self.limits.requests),
            "x-ratelimit-remaining": str(max(0, self.limits.requests - use.used)),
            "x-ratelimit-used": str(use.used),
            "x-ratelimit-reset": str(int(use.reset)),
            "x-ratelimit-resource": "core",
            "x-github-media-type": "github.v3; format=json",
        }

    # -- endpoints -----------------------------------------------------------------------------------------------

    async def accounting(self, _request: Request) -> Response:
        """What was served so far, by endpoint and status, and what the world is."""
        return _json(
            {
                "served": dict(sorted(self.served.items())),
                "world": self.world.description,
                "lists": self.world.lists,
                "repositories": len(self.world.repositories),
                "users": len(self.world.logins),
                "stars": self.world.star_count,
            }
        )

    def rate_limit(self, request: Request) -> Response:
        use = self._use(_token_of(request))
        core = {
            "limit": self.limits.requests,
            "used": use.used,
            "remaining": max(0, self.limits.requests - use.used),
            "reset": int(use.reset),
        }
        return _json({"resources": {"core": core}, "rate": core})

    def viewer(self, request: Request) -> Response:
        number = self.tokens.index(_token_of(request)) + 1
        return _json({"login": f"standin-operator-{number}", "id": number, "type": "User"})

    def user(self, request: Request) -> Response:
        index = self._find_user(request)
        if index is None:
            return _error(404, "Not Found")
        return _json(orjson.loads(self._user_json(index, _base(request))), tagged=True)

    def repository(self, request: Request) -> Response:
        found = self._find_repository(request)
        if isinstance(found, Response):
            return found
        return _json(self._repository_json(found, _base(request)), tagged=True)

    def readme(self, request: Request) -> Response:
        found = self._find_repository(request)
        if isinstance(found, Response):
            return found
        path = request.path_params.get("path", "README.md")
        if path.lower() not in ("readme.md", "readme"):
            return _error(404, "Not Found")
        text = found.readme or f"# {found.full_name}\n\n{found.description or ''}\n"
        content = text.encode()
        if "raw" in request.headers.get("accept", ""):
            return _tagged(content, "application/vnd.github.raw+json; charset=utf-8")
        sha = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        answer = {
            "type": "file",
            "encoding": "base64",
            "size": len(content),
            "name": "README.md",
            "path": "README.md",
            "sha": sha,
            "content": base64.encodebytes(content).decode(),
        }
        return _json(answer, tagged=True)

    def stargazers(self, request: Request) -> Response:
        found = self._find_repository(request)
        if isinstance(found, Response):
            return found
        if found.restricted:
            return _error(403, "You do not have permission to view the stargazers of this repository.")
        page, per_page = _paging(request)
        if page > MAX_PAGE:
            return _error(422, "In order to keep the API fast for everyone, pagination is limited for this resource.")
        start, end = (page - 1) * per_page, page * per_page
        users, times = found.stargazers[start:end], found.starred_at[start:end]
        starred = "star+json" in request.headers.get("accept", "")
        stamp = b"%d %d %d %d " % (found.repo_id, page, per_page, starred) + users.tobytes() + times.tobytes()
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
        link = _link_header(f"{base}/repositories/{found.repo_id}/stargazers", page, per_page, len(found.stargazers))
        if link:
            headers["link"] = link
        return Response(b"[" + b",".join(entries) + b"]", media_type="application/json", headers=headers)

    def starred(self, request: Request) -> Response:
        index = self._find_user(request)
        if index is None:
            return _error(404, "Not Found")
        page, per_page = _paging(request)
        pairs = self.world.starred(index)
        base = _base(request)
        with_time = "star+json" in request.headers.get("accept", "")
        entries: list[dict[str, Any]] = []
        for repository, when in pairs[(page - 1) * per_page : page * per_page]:
            described = self._repository_json(self.world.repositories[int(repository)], base)
            entries.append({"starred_at": _iso(int(when)), "repo": described} if with_time else described)
        response = _json(entries, tagged=True)
        link = _link_header(f"{base}/user/{self.world.user_ids[index]}/starred", page, per_page, len(pairs))
        if link:
            response.headers["link"] = link
        return response

    def unknown_path(self, _request: Request) -> Response:
        return _error(404, "Not Found")

    # -- finding and describing ----------------------------------------------------------------------------------

    def _find_repository(self, request: Request) -> Repository | Response:
        parameters = request.path_params
        if "repo_id" in parameters:
            found = self.world.by_id.get(parameters["repo_id"])
        else:
            name = f"{parameters['owner']}/{parameters['name']}".lower()
            found = self.world.by_name.get(name)
            if found is None and name in self.world.moved:
                rest = request.url.path.split("/", 4)[4:]
                target = f"{_base(request)}/repositories/{self.world.moved[name].repo_id}"
                target += "".join(f"/{part}" for part in rest)
                target += f"?{request.url.query}" if request.url.query else ""
                body = orjson.dumps({"message": "Moved Permanently", "url": target})
                return Response(body, 301, {"location": target}, "application/json")
        if found is None:
            return _error(404, "Not Found")
        if found.blocked:
            answer = {"message": "Repository access blocked", "block": {"reason": "dmca", "created_at": None}}
            return Response(orjson.dumps(answer), 451, media_type="application/json")
        return found

    def _find_user(self, request: Request) -> int | None:
        if "user_id" in request.path_params:
            return self.world.user_by_id.get(request.path_params["user_id"])
        return self.world.user_by_login.get(request.path_params["login"].lower())

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
        stars = len(repository.stargazers)
        owner_id = int.from_bytes(hashlib.blake2b(owner.lower().encode(), digest_size=4).digest()) + 2**33
        links = {f"{key}_url": f"{url}/{path}" for key, path in zip(_LINK_NAMES, _REPOSITORY_LINKS, strict=True)}
        return {
            "id": repository.repo_id,
            "node_id": _node_id("Repository", repository.repo_id),
            "name": name,
            "full_name": repository.full_name,
            "private": False,
            "owner": _account_json(owner, owner_id, "Organization", f"{base}/users/{owner}"),
            "html_url": f"https://github.com/{repository.full_name}",
            "description": repository.description,
            "fork": False,
            "url": url,
            **links,
            "created_at": repository.created_at,
            "updated_at": repository.pushed_at,
            "pushed_at": repository.pushed_at,
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
            "temp_clone_token": None,
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


def _account_json(login: str, account_id: int, kind: str, url: str) -> dict[str, Any]:
    return {
        "login": login,
        "id": account_id,
        "node_id": _node_id(kind, account_id),
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


def _node_id(kind: str, number: int) -> str:
    return base64.b64encode(f"{len(kind):02}:{kind}{number}".encode()).decode()


def _iso(seconds: int) -> str | None:
    if seconds == NO_TIME:
        return None
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _etag(content: bytes) -> str:
    return f'W/"{hashlib.blake2b(content, digest_size=20).hexdigest()}"'


def _tagged(content: bytes, media_type: str) -> Response:
    return Response(content, headers={"etag": _etag(content)}, media_type=media_type)


def _json(answer: Any, *, tagged: bool = False) -> Response:
    content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    media_type = "application/json; charset=utf-8"
    return _tagged(content, media_type) if tagged else Response(content, media_type=media_type)


def _error(status: int, message: str) -> Response:
    answer = {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}
    return Response(orjson.dumps(answer), status, media_type="application/json; charset=utf-8")
