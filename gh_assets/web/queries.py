"""Queries of visitors, for the pages and the API alike: from request parameters to recommendations or a clear error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gh_assets.errors import InputError, UnknownRepositoryError
from gh_assets.github.names import is_full_name, is_login
from gh_assets.serving.catalogue import Description
from gh_assets.serving.live_lookups import Lookup, LookupOutcome
from gh_assets.serving.ranking import Similar
from gh_assets.serving.requests import RecommendationRequest
from gh_assets.serving.snapshot import RecommendationList, ServingSnapshot, User
from gh_assets.web.batching import BusyError
from gh_assets.web.feedback import JournalError, Verdict
from gh_assets.web.parameters import MAX_REPOSITORIES, PageParameters, read_cursor
from gh_assets.web.problems import RequestProblemError
from gh_assets.web.state import AppState

POLL_SECONDS = 0.03
"""Interval at which a request checks whether a lookup is done."""


@dataclass(frozen=True)
class SimilarRepositories:
    """Repositories that are similar to one.

    Attributes
    ----------
    full_name, repo_id, description
        The repository itself.
    collected : bool
        Whether it was collected; otherwise it was looked up on GitHub.
    entries : sequence of (Similar, Description or None)
        The similar ones, most similar first.
    """

    full_name: str
    repo_id: int
    description: Description | None
    collected: bool
    entries: Sequence[tuple[Similar, Description | None]]


@dataclass(frozen=True)
class Query:
    """A query, answered from one snapshot; all methods raise `RequestProblemError` if it cannot be answered.

    Attributes
    ----------
    state : AppState
    snapshot : ServingSnapshot
    request : RecommendationRequest
        What is requested, without a user yet.
    """

    state: AppState
    snapshot: ServingSnapshot
    request: RecommendationRequest

    @classmethod
    async def start(cls, state: AppState, parameters: PageParameters, visitor_id: str | None) -> Query:
        """Build a query from parameters; repositories that the visitor hid are excluded."""
        snapshot = state.snapshot()
        hidden = [] if visitor_id is None else await asyncio.to_thread(state.feedback.verdicts_of, visitor_id)
        request = parameters.request(hidden=frozenset(hidden), shown=read_cursor(parameters.cursor))
        return cls(state, snapshot, request)

    async def popular(self) -> RecommendationList:
        """Recommend popular repositories to a user without known stars."""
        return await self._recommend(self.snapshot.for_new_user(self.request))

    async def for_repositories(self, names: Sequence[str]) -> RecommendationList:
        """Recommend to a user who likes the named repositories."""
        if len(names) > MAX_REPOSITORIES:
            message = f"{len(names):,} repositories were given, but the maximum is {MAX_REPOSITORIES:,}."
            raise RequestProblemError(422, "too_many_repositories", message)
        try:
            request = self.snapshot.for_repositories(names, self.request)
        except UnknownRepositoryError as error:
            raise RequestProblemError(404, "unknown_repository", str(error)) from None
        except InputError as error:
            raise RequestProblemError(422, "no_repository", str(error)) from None
        return await self._recommend(request)

    async def for_login(self, login: str, wait: float) -> RecommendationList | Lookup:
        """Recommend to a user; return the lookup if reading the stars from GitHub takes longer than `wait` seconds."""
        if not is_login(login):
            message = f"{login[:100]!r} is not a GitHub login: a login has letters, digits and '-'."
            raise RequestProblemError(422, "no_login", message)
        user = self.snapshot.users.by_login(login)
        if user is not None:
            return await self._recommend(self.snapshot.for_user(user, self.request))
        if self.state.live is None:
            message = f"{login} is not among the {len(self.snapshot.users):,} users whose stars were collected."
            raise RequestProblemError(404, "unknown_user", message)
        lookup = self.state.live.look_up(login)
        if not lookup.done.is_set():
            deadline = time.monotonic() + wait
            while not lookup.done.is_set() and time.monotonic() < deadline:
                await asyncio.sleep(POLL_SECONDS)
            if not lookup.done.is_set():
                return lookup
            self.state.metrics.lookups.labels(lookup.outcome.value).inc()
        return await self._recommend(self._request_of_lookup(lookup))

    async def similar_to(self, full_name: str) -> SimilarRepositories:
        """Find repositories that are similar to one, which need not have been collected."""
        if not is_full_name(full_name):
            message = f"{full_name[:100]!r} is not a repository name of the form owner/name."
            raise RequestProblemError(422, "no_repository", message)
        repo_id = self.snapshot.repo_id(full_name)
        if repo_id is not None:
            full_name = self.snapshot.full_name(repo_id) or full_name
            description = self.snapshot.catalogue.describe(repo_id)
            return SimilarRepositories(full_name, repo_id, description, True, await self._similar(repo_id))
        if self.state.live is None:
            raise RequestProblemError(404, "unknown_repository", f"{full_name} was not collected.")
        result = await asyncio.to_thread(self.state.live.describe, full_name)
        if isinstance(result, LookupOutcome):
            if result in (LookupOutcome.BUDGET_SPENT, LookupOutcome.UNAVAILABLE):
                raise _lookup_problem(full_name, result)
            raise RequestProblemError(404, "unknown_repository", f"GitHub has no public repository {full_name}.")
        repo_id, described = result
        collected = self.snapshot.full_name(repo_id) is not None  # it was renamed since
        entries = await self._similar(repo_id if collected else described)
        return SimilarRepositories(described.full_name, repo_id, described, collected, entries)

    async def _recommend(self, request: RecommendationRequest) -> RecommendationList:
        """Recommend in one batch with other requests that wait."""
        try:
            result = await self.state.batcher.recommend(self.snapshot, request)
        except BusyError as error:
            raise RequestProblemError(503, "busy", str(error)) from None
        kind = result.items[0].recommendation.kind if result.items else "none"
        self.state.metrics.recommendations.labels(kind).inc()
        return result

    async def _similar(self, repository: int | Description) -> list[tuple[Similar, Description | None]]:
        return await self.state.batcher.run(lambda: self.snapshot.similar(repository, self.request))

    def _request_of_lookup(self, lookup: Lookup) -> RecommendationRequest:
        """Complete the request with the stars that a finished lookup read."""
        login = lookup.login
        if lookup.outcome is LookupOutcome.STARLESS:
            request = self.snapshot.for_new_user(self.request)
            message = f"{login} has no public stars, so these recommendations are not personalized."
            return replace(request, title=f"{login} (no public stars)", warnings=[message])
        if lookup.outcome is not LookupOutcome.OK:
            raise _lookup_problem(login, lookup.outcome)
        request = self.snapshot.for_user(User(login, lookup.stars), self.request)
        warnings: list[str] = []
        known = None if lookup.user_id is None else self.snapshot.users.by_id(lookup.user_id)
        if known is not None and known.login.lower() != login.lower():
            warnings.append(f"{login} was collected under the login {known.login}.")
        if not lookup.complete:
            warnings.append(f"Only the newest {len(lookup.stars):,} stars of {login} were read.")
        return replace(request, warnings=[*warnings, *request.warnings])


async def store_feedback(state: AppState, visitor_id: str, full_name: str, verdict: Verdict) -> None:
    """Store a visitor's verdict on a repository durably.

    Raises
    ------
    RequestProblemError
        If the repository is unknown or the verdict cannot be stored.
    """
    snapshot = state.snapshot()
    repo_id = snapshot.repo_id(full_name)
    if repo_id is None:
        raise RequestProblemError(404, "unknown_repository", f"{full_name} was not collected.")
    full_name = snapshot.full_name(repo_id) or full_name
    try:
        await asyncio.to_thread(state.feedback.record, visitor_id, repo_id, full_name, verdict)
    except JournalError as error:
        raise RequestProblemError(503, "not_written", str(error)) from None
    state.metrics.feedback.labels(verdict).inc()


_LOOKUP_PROBLEMS = {
    LookupOutcome.NOT_FOUND: (404, "unknown_user", "GitHub has no user {}. The account may have been renamed."),
    LookupOutcome.ORGANIZATION: (
        404,
        "organization",
        "{} is an organization, which cannot star repositories. Enter a user, or pick repositories.",
    ),
    LookupOutcome.BLOCKED: (404, "blocked", "GitHub does not show the stars of {}."),
    LookupOutcome.BUDGET_SPENT: (
        503,
        "budget_spent",
        "{} was not collected, and the GitHub requests for visitors are used up for now. Try again in a few minutes, "
        "or pick repositories.",
    ),
    LookupOutcome.UNAVAILABLE: (
        503,
        "github_away",
        "{} was not collected, and GitHub cannot be reached at the moment. Try again later.",
    ),
}
"""Status, code and message of lookups that found nothing to recommend from."""


def _lookup_problem(name: str, outcome: LookupOutcome) -> RequestProblemError:
    """Return why nothing can be recommended for a user or a repository that was looked up on GitHub."""
    status, code, message = _LOOKUP_PROBLEMS[outcome]
    return RequestProblemError(status, code, message.format(name))
