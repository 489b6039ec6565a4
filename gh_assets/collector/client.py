"""Asking GitHub's REST API: kept-alive sessions, quota, retries, conditional requests. Source: docs.github.com/rest."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests
from pydantic import SecretStr

from gh_assets import __version__
from gh_assets.collector.limits import Clock, RetryPolicy, Token, TokenPool
from gh_assets.errors import GitHubError, ServiceUnavailableError

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0

JSON = "application/vnd.github+json"
STAR_JSON = "application/vnd.github.star+json"
RAW = "application/vnd.github.raw+json"

_RETRIED = frozenset({500, 502, 503, 504})


@dataclass(frozen=True)
class Answer:
    """An answer of GitHub that means something: 200, 301, 302, 304, 307, 403, 404, 409, 410, 422 or 451."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    payload: Any
    url: str

    @property
    def etag(self) -> str | None:
        return self.headers.get("etag")

    @property
    def has_next_page(self) -> bool:
        """Whether the ``Link`` header names a next page."""
        return re.search(r'rel="?next"?', self.headers.get("link", "")) is not None

    @property
    def message(self) -> str:
        """GitHub's own words for what is wrong."""
        if isinstance(self.payload, dict):
            return str(self.payload.get("message", ""))
        return ""


class GitHubClient:
    """A client of GitHub's REST API that many threads may share.

    Parameters
    ----------
    api_url : str
        ``https://api.github.com``, a GitHub Enterprise's ``…/api/v3``, or the stand-in's address.
    tokens : sequence of SecretStr
        At least one; the operator's own distinct users or apps.
    policy : RetryPolicy, optional
    clock : Clock, optional
    """

    def __init__(
        self,
        api_url: str,
        tokens: Sequence[SecretStr],
        *,
        policy: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.api_url = api_url.rstrip("/")
        self.pool = TokenPool(tokens, policy, clock)
        self.policy = self.pool.policy
        self.requests_made = 0
        self._count_lock = threading.Lock()
        self._local = threading.local()
        self._sessions: list[requests.Session] = []

    def __enter__(self) -> GitHubClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all sessions and let waiting workers go."""
        self.cancel()
        with self._count_lock:
            sessions, self._sessions = self._sessions, []
        for session in sessions:
            session.close()

    def cancel(self) -> None:
        """Make every worker stop at its next request."""
        self.pool.cancelled.set()

    def get(
        self,
        path: str,
        *,
        parameters: Mapping[str, str | int] | None = None,
        accept: str = JSON,
        etag: str | None = None,
    ) -> Answer:
        """Ask for one resource.

        Parameters
        ----------
        path : str
            Path below the API's address (``/repos/o/r``), or a full address below it (from ``Location``).
        parameters : mapping, optional
            Query parameters.
        accept : str
            Media type; `RAW` answers are not parsed.
        etag : str, optional
            Makes the request conditional: 304 costs no quota.

        Returns
        -------
        Answer
            Redirects are not followed: the caller has to know of them.

        Raises
        ------
        AuthenticationError
            If GitHub refuses every token.
        RateLimitedError
            If no quota is to be had within the policy's longest wait.
        ServiceUnavailableError
            If GitHub cannot be reached or keeps answering with errors.
        GitHubError
            If an answer is none that GitHub documents.
        """
        url = self._url_of(path)
        headers = {"accept": accept}
        if etag is not None:
            headers["if-none-match"] = etag
        failures = 0
        problem = ""
        while failures < self.policy.attempts:
            if failures:
                self.pool.clock.wait(self.policy.wait_before(failures), self.pool.cancelled)
            token = self.pool.acquire()
            response: requests.Response | None = None
            try:
                headers["authorization"] = f"Bearer {token.secret.get_secret_value()}"
                response = self._session().get(
                    url,
                    params=parameters,
                    headers=headers,
                    timeout=(CONNECT_SECONDS, READ_SECONDS),
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                # Only the kind of fault is told: the full text of the library repeats addresses and more.
                problem = type(error).__name__
                failures += 1
                continue
            finally:
                self.pool.release(token, response.headers if response is not None else None)
                with self._count_lock:
                    self.requests_made += 1
            verdict = self._verdict(response, token)
            if verdict == "again":
                continue
            if verdict is not None:
                problem = verdict
                failures += 1
                continue
            try:
                payload = None
                if response.content and accept != RAW and response.status_code != 304:
                    payload = orjson.loads(response.content)
            except orjson.JSONDecodeError:
                if response.status_code == 200:
                    problem = "an answer that is not JSON"
                    failures += 1
                    continue
            return Answer(response.status_code, response.headers, response.content, payload, url)
        raise ServiceUnavailableError(
            f"GitHub at {self.api_url} did not answer {urlsplit(url).path} in {self.policy.attempts} tries "
            f"({problem}). Check GITHUB_API_URL and the network, then run again: what was collected is kept."
        )

    def _verdict(self, response: requests.Response, token: Token) -> str | None:
        """None for an answer to use, ``again`` for one more try that counts as no failure, else the failure."""
        status = response.status_code
        if status in (200, 301, 302, 304, 307, 404, 409, 410, 422, 451):
            return None
        if status == 401:
            self.pool.retire(token)
            return "again"
        if status in (403, 429):
            limited = response.headers.get("x-ratelimit-remaining") == "0"
            after = response.headers.get("retry-after", "")
            if after.isdigit():
                self.pool.pause(float(after))
                return "again"
            if limited:
                return "again"  # the pool has read the headers: it rotates, or waits for the reset
            if status == 429 or b"secondary rate limit" in response.content.lower():
                self.pool.pause(self.policy.secondary_wait)
                return f"{status}, a secondary limit"
            return None
        if status in _RETRIED:
            return f"status {status}"
        raise GitHubError(f"GitHub answered {urlsplit(response.url).path} with the unexpected status {status}.")

    def _url_of(self, path: str) -> str:
        if path.startswith("/"):
            return self.api_url + path
        # A redirect may only lead to the same server: the token goes along.
        if urlsplit(path)[:2] != urlsplit(self.api_url)[:2]:
            raise GitHubError(f"GitHub redirected to another server, {urlsplit(path).netloc}: not followed.")
        return path

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False  # a .netrc entry for the host would replace our token
            session.proxies = requests.utils.get_environ_proxies(self.api_url)
            session.headers["user-agent"] = f"gh_assets/{__version__}"
            session.headers["x-github-api-version"] = "2022-11-28"
            self._local.session = session
            with self._count_lock:
                self._sessions.append(session)
        return session
