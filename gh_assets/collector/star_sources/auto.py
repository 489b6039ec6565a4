"""The source that finds out by itself which one works: each repository's own list, else what users tell of it."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from gh_assets.collector.star_sources.base import CollectionTask, StarCollection, StarSource
from gh_assets.errors import GraphQLUnavailableError
from gh_assets.github.outcomes import Outcome

logger = logging.getLogger(__name__)

CLOSED_FOR = dt.timedelta(days=7)
"""A list that was found closed is not tried again within this time."""

WORTHWHILE_SHARE = 0.25
"""Users are asked for their lists when at least this share of the repositories is closed: that many requests would be
out of proportion for a few."""


@dataclass
class AutoReport:
    """Which way the repositories went."""

    closed: int = 0
    by_users: int = 0


class OwnLists:
    """Reads repositories' own lists by GraphQL, and by REST where the server or the token has no GraphQL.

    Parameters
    ----------
    by_graphql, by_rest : StarSource
    """

    def __init__(self, by_graphql: StarSource, by_rest: StarSource) -> None:
        self.by_graphql = by_graphql
        self.by_rest = by_rest
        self.name = by_graphql.name

    def may_have_changed(self, *, closed: bool) -> bool:
        """Not when GitHub's count is what it was."""
        return False

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """What GraphQL has not given when it turns out that there is none is read by REST."""
        tasks, asked, done = iter(tasks), dict[int, CollectionTask](), set[int]()

        def watched() -> Iterator[CollectionTask]:
            for work in tasks:
                asked[work.repository.repo_id] = work
                yield work

        try:
            for collected in self.by_graphql.collect(watched(), workers):
                done.add(collected.repository.repo_id)
                yield collected
        except GraphQLUnavailableError as error:
            logger.warning("%s Lists are read by REST instead.", error)
            left = [work for repo_id, work in asked.items() if repo_id not in done]
            for collected in self.by_rest.collect(chain(left, tasks), workers):
                yield replace(collected, source=collected.source or self.by_rest.name)


class AutoSource:
    """Asks each repository once for its own list, and remembers where it is closed.

    Closed repositories are completed by `others` (users' lists, GH Archive), if they are many enough to be worth it.

    Parameters
    ----------
    own : StarSource
        Reads repositories' own lists.
    others : callable, optional
        Gives the source for what is closed; made when it is needed.
    closed : mapping of int to datetime
        Repositories (by id) whose lists were found closed, and when.
    total : int
        Repositories in all.
    now : datetime, optional
    """

    name = "auto"

    def __init__(
        self,
        own: StarSource,
        others: Callable[[], StarSource] | None,
        *,
        closed: Mapping[int, dt.datetime] | None = None,
        total: int = 0,
        now: dt.datetime | None = None,
    ) -> None:
        self.own = own
        self.others = others
        self.closed = dict(closed or {})
        self.total = total
        self.now = now or dt.datetime.now(dt.UTC)
        self.report = AutoReport()

    def may_have_changed(self, *, closed: bool) -> bool:
        """Of closed repositories, more users may tell."""
        return closed

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Own lists first; what turns out to be closed is collected in one pass afterwards."""
        waiting: list[CollectionTask] = []
        asked: dict[int, CollectionTask] = {}

        def open_ones() -> Iterator[CollectionTask]:
            for work in tasks:
                since = self.closed.get(work.repository.repo_id)
                if since is not None and self.now - since < CLOSED_FOR and not work.full:
                    waiting.append(work)
                else:
                    asked[work.repository.repo_id] = work
                    yield work

        reasons: dict[int, str | None] = {}
        requests: dict[int, int] = {}
        for collected in self.own.collect(open_ones(), workers):
            repo_id = collected.repository.repo_id
            if collected.outcome is Outcome.RESTRICTED:
                self.closed[repo_id] = self.now
                reasons[repo_id], requests[repo_id] = collected.reason, collected.requests
                waiting.append(asked[repo_id])
                continue
            self.closed.pop(repo_id, None)
            yield replace(collected, source=collected.source or self.own.name)
        self.report.closed = len(self.closed)
        worthwhile = len(self.closed) >= WORTHWHILE_SHARE * max(1, self.total, len(waiting))
        if waiting and worthwhile and self.others is not None:
            others = self.others()
            for collected in others.collect(waiting, workers):
                repo_id = collected.repository.repo_id
                outcome = Outcome.RESTRICTED if collected.outcome is Outcome.UNKNOWN else collected.outcome
                reason = f"its own list is closed, and {collected.reason}" if collected.reason else None
                self.report.by_users += collected.outcome is Outcome.OK
                yield replace(
                    collected,
                    outcome=outcome,
                    reason=reason,
                    source=collected.source or others.name,
                    closed_at=self.closed[repo_id],
                    requests=collected.requests + requests.get(repo_id, 0),
                )
            return
        for work in waiting:
            repo_id = work.repository.repo_id
            reason = reasons.get(repo_id) or "its own list was found closed lately and is not asked again yet"
            yield StarCollection(
                work.repository,
                Outcome.RESTRICTED,
                reason,
                requests=requests.get(repo_id, 0),
                closed_at=self.closed[repo_id],
            )
