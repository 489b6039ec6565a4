"""Sending single requests to GitHub over kept-alive connections, and counting them."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import requests
from pydantic import SecretStr

from gh_assets import __version__
from gh_assets.errors import BudgetSpentError, ConfigurationError
from gh_assets.github.rate_limits import Resource
from gh_assets.local.network import UNTRUSTED_HELP, is_untrusted

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0

API_VERSION = "2022-11-28"
"""Version of the REST API, which GitHub Enterprise has as well."""

_HEADERS = {
    "user-agent": f"gh_assets/{__version__}",
    "x-github-api-version": API_VERSION,
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
}


@dataclass(frozen=True)
class Request:
    """A request, without the token that authorizes it.

    Attributes
    ----------
    method, url : str
    headers : mapping
    parameters : mapping or None
        Query parameters.
    body : bytes or None
    resource : Resource
        The quota that it spends.
    points : int
        Points that it is expected to cost.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    parameters: Mapping[str, str | int] | None = None
    body: bytes | None = None
    resource: Resource = Resource.REST
    points: int = 1


@dataclass
class Usage:
    """Counts of what was sent so far."""

    requests: int = 0
    graphql_points: int = 0
    not_modified: int = 0
    retries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, requests: int = 0, points: int = 0, not_modified: int = 0, retries: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.graphql_points += points
            self.not_modified += not_modified
            self.retries += retries


class Transport:
    """Sends requests from many threads, each over a session of its own.

    Parameters
    ----------
    api_url : str
        ``https://api.github.com``, ``…/api/v3`` of GitHub Enterprise, or the stand-in's address.
    max_requests : int, optional
        Cap on the number of requests.
    """

    def __init__(self, api_url: str, max_requests: int | None = None) -> None:
        self.api_url = api_url.rstrip("/")
        # ``…/graphql``; on an Enterprise server ``…/api/graphql`` beside ``…/api/v3``.
        self.graphql_url = self.api_url.removesuffix("/v3") + "/graphql"
        self.max_requests = max_requests
        self.usage = Usage()
        self._lock = threading.Lock()
        self._local = threading.local()
        self._sessions: list[requests.Session] = []

    def send(self, request: Request, secret: SecretStr | str) -> requests.Response:
        """Send a request once; redirects are not followed.

        The session's adapter is called directly: what `Session.request` does around it (cookies, history, hooks, the
        environment) takes as long as the rest, and is not needed.

        Parameters
        ----------
        request : Request
        secret : SecretStr or str
            The token, or an app's signed request for one.

        Raises
        ------
        BudgetSpentError
            If the cap on requests is reached.
        ConfigurationError
            If the server's certificate is not trusted.
        requests.RequestException
            If the network fails.
        """
        self._count_request()
        session = self._session()
        text = secret if isinstance(secret, str) else secret.get_secret_value()
        prepared = requests.PreparedRequest()
        prepared.prepare_method(request.method)
        prepared.prepare_url(request.url, request.parameters)
        headers = {**_HEADERS, **request.headers, "authorization": f"Bearer {text}"}
        prepared.headers = requests.structures.CaseInsensitiveDict(headers)
        if request.body is not None:
            prepared.prepare_body(request.body, None)
        try:
            response = session.get_adapter(request.url).send(
                prepared,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                verify=os.environ.get("REQUESTS_CA_BUNDLE") or True,
                proxies=session.proxies,
            )
        except requests.exceptions.SSLError as error:
            if not is_untrusted(error):
                raise
            raise ConfigurationError(
                f"The certificate of GitHub at {self.api_url} is signed by no known authority. {UNTRUSTED_HELP}"
            ) from None
        _ = response.content  # read now: the connection is free for the next request
        return response

    def _count_request(self) -> None:
        with self._lock:
            if self.max_requests is not None and self.usage.requests >= self.max_requests:
                raise BudgetSpentError(
                    f"The cap on requests is reached: {self.max_requests:,} were sent. What was collected is kept; run "
                    "again to go on."
                )
            self.usage.add(requests=1)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False  # an entry for the host in .netrc would replace the token
            session.proxies = requests.utils.get_environ_proxies(self.api_url)
            self._local.session = session
            with self._lock:
                self._sessions.append(session)
        return session

    def close(self) -> None:
        """Close all sessions."""
        with self._lock:
            sessions, self._sessions = self._sessions, []
        for session in sessions:
            session.close()
