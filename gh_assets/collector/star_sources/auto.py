"""The source that chooses by itself: each repository's own list, or users' lists where own lists are closed."""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from gh_assets.collector.star_sources.base import CollectionTask, StarCollection, StarSource
from gh_assets.github.outcomes import Outcome

CLOSED_FOR = dt.timedelta(days=7)
"""Time during which a list that was found closed is not requested again."""

WORTHWHILE_SHARE = 0.25
"""Minimum share of closed repositories for which users' lists are read: they take too many requests for a few."""


@dataclass
class AutoSource:
    """Requests the own list of each repository, and remembers where it is closed.

    If enough repositories are closed, another source completes them (users' lists, GH Archive).

    Parameters
    ----------
    own : StarSource
        Reads repositories' own lists.
    others : callable, optional
        Returns the source for closed repositories; called only if it is needed.
    closed : dict of int to datetime
        Repositories (by id) whose lists were found closed, and when; what is found changes it.
    total : int
        Total number of repositories.
    now : datetime, optional

    Attributes
    ----------
    closed_lists, completed : int
        Repositories whose own lists are closed, and those of them that were completed from the other source.
    """

    own: StarSource
    others: Callable[[], StarSource] | None
    closed: dict[int, dt.datetime] = field(default_factory=dict)
    total: int = 0
    now: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    closed_lists: int = 0
    completed: int = 0
    name = "auto"

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Read own lists first, then complete the repositories that are closed."""
        pending: list[CollectionTask] = []
        requested: dict[int, CollectionTask] = {}

        def open_tasks() -> Iterator[CollectionTask]:
            for task in tasks:
                since = self.closed.get(task.repository.repo_id)
                if since is not None and self.now - since < CLOSED_FOR and not task.full:
                    pending.append(task)
                else:
                    requested[task.repository.repo_id] = task
                    yield task

        refusals: dict[int, StarCollection] = {}
        for collected in self.own.collect(open_tasks(), workers):
            repo_id = collected.repository.repo_id
            if collected.outcome is Outcome.RESTRICTED:
                self.closed[repo_id] = self.now
                refusals[repo_id] = collected
                pending.append(requested[repo_id])
                continue
            self.closed.pop(repo_id, None)
            yield replace(collected, source=collected.source or self.own.name)
        self.closed_lists = len(self.closed)
        is_worthwhile = len(self.closed) >= WORTHWHILE_SHARE * max(1, self.total, len(pending))
        if pending and is_worthwhile and self.others is not None:
            yield from self._complete(self.others(), pending, refusals, workers)
            return
        for task in pending:
            repo_id = task.repository.repo_id
            refusal = refusals.get(repo_id) or StarCollection(task.repository, Outcome.RESTRICTED)
            reason = refusal.reason or "its own list was found closed lately and is not requested again yet"
            yield replace(refusal, reason=reason, closed_at=self.closed[repo_id], source=None)

    def _complete(
        self, others: StarSource, tasks: Iterable[CollectionTask], refusals: Mapping[int, StarCollection], workers: int
    ) -> Iterator[StarCollection]:
        """Collect closed repositories from another source."""
        for collected in others.collect(tasks, workers):
            repo_id = collected.repository.repo_id
            self.completed += collected.outcome is Outcome.OK
            yield replace(
                collected,
                outcome=Outcome.RESTRICTED if collected.outcome is Outcome.UNKNOWN else collected.outcome,
                reason=f"its own list is closed, and {collected.reason}" if collected.reason else None,
                source=collected.source or others.name,
                closed_at=self.closed[repo_id],
                requests=collected.requests + (refusals[repo_id].requests if repo_id in refusals else 0),
            )
