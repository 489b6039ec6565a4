"""The source that chooses by itself: repositories' own lists, or event feeds and users' lists where they are closed."""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from gh_assets.collector.star_sources.base import CollectionTask, PreviousStars, StarCollection, StarSource
from gh_assets.collector.star_sources.events import EventFeeds, FeedLook, LookAllowance
from gh_assets.errors import BudgetSpentError, RateLimitedError
from gh_assets.github.outcomes import Outcome
from gh_assets.local.concurrency import map_bounded

CLOSED_FOR = dt.timedelta(days=7)
"""Time during which a list that was found closed is not requested again."""

WORTHWHILE_SHARE = 0.25
"""Minimum share of closed repositories for which users' lists are read: they take too many requests for a few."""


@dataclass
class AutoSource:
    """Requests the own list of each repository, and remembers where it is closed.

    The event feeds of closed repositories are looked at, as far as the quota goes, and if enough repositories are
    closed, another source adds to them (users' lists).

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
    feeds : EventFeeds, optional
    allowance : LookAllowance, optional
        Which looks at feeds the quota allows; by default all.

    Attributes
    ----------
    closed_lists, completed, looked : int
        Repositories whose own lists are closed, those of them that were completed from the other source, and those
        whose feeds were looked at.
    """

    own: StarSource
    others: Callable[[], StarSource] | None
    closed: dict[int, dt.datetime] = field(default_factory=dict)
    total: int = 0
    now: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    feeds: EventFeeds | None = None
    allowance: LookAllowance | None = None
    closed_lists: int = 0
    completed: int = 0
    looked: int = 0
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
        for look, collected in map_bounded(lambda task: self._look_alone(task, refusals), pending, workers):
            self._count(look)
            yield collected

    def _count(self, look: FeedLook | None) -> None:
        """Count a look; called by the one thread that takes the results."""
        self.looked += look is not None and not look.is_skipped

    def _look(self, task: CollectionTask) -> FeedLook | None:
        """Look at the feed of a closed repository; None if that is impossible."""
        if self.feeds is None:
            return None
        with nullcontext(True) if self.allowance is None else self.allowance.look() as send:
            if not send and task.repository.repo_id not in self.feeds.feeds:
                return None
            return self.feeds.look(task, send=send)

    def _look_alone(
        self, task: CollectionTask, refusals: Mapping[int, StarCollection]
    ) -> tuple[FeedLook | None, StarCollection]:
        """Return the look at the feed of a closed repository, and the result from it."""
        repo_id = task.repository.repo_id
        refusal = refusals.get(repo_id) or StarCollection(task.repository, Outcome.RESTRICTED)
        reason = refusal.reason or "its own list was found closed lately and is not requested again yet"
        look = self._look(task)
        if self.feeds is None or look is None:
            return None, replace(refusal, reason=reason, closed_at=self.closed[repo_id], source=None)
        collected = self.feeds.collection(look, task.load_previous())
        return look, self._of_closed(replace(collected, source=self.feeds.name), refusals)

    def _of_closed(self, collected: StarCollection, refusals: Mapping[int, StarCollection]) -> StarCollection:
        """Return the result of a closed repository that another source has collected."""
        repo_id = collected.repository.repo_id
        return replace(
            collected,
            outcome=Outcome.RESTRICTED if collected.outcome is Outcome.UNKNOWN else collected.outcome,
            reason=f"its own list is closed, and {collected.reason}" if collected.reason else None,
            closed_at=self.closed[repo_id],
            requests=collected.requests + (refusals[repo_id].requests if repo_id in refusals else 0),
        )

    def _complete(
        self, others: StarSource, tasks: Iterable[CollectionTask], refusals: Mapping[int, StarCollection], workers: int
    ) -> Iterator[StarCollection]:
        """Collect closed repositories from another source, beside their feeds."""
        added = {task.repository.repo_id: _FeedStars(task, self.feeds) for task in tasks}
        failure: Exception | None = None
        try:
            for repo_id, look in map_bounded(
                lambda feed: (feed.repo_id, self._look(feed.task)), added.values(), workers
            ):
                added[repo_id].look = look
                self._count(look)
        except (BudgetSpentError, RateLimitedError) as error:
            failure = error  # raised when what is known was yielded
        for collected in others.collect([feed.with_stars() for feed in added.values()], workers):
            self.completed += collected.outcome is Outcome.OK
            combined = added[collected.repository.repo_id].combined(
                replace(collected, source=collected.source or others.name)
            )
            yield self._of_closed(combined, refusals)
        if failure is not None:
            raise failure


@dataclass
class _FeedStars:
    """The look at a feed, whose stars another source gets as if they had been stored."""

    task: CollectionTask
    feeds: EventFeeds | None
    look: FeedLook | None = None
    from_feed: StarCollection | None = None

    @property
    def repo_id(self) -> int:
        return self.task.repository.repo_id

    def with_stars(self) -> CollectionTask:
        """Return the task with the stars of the feed beside the stored ones."""
        return self.task if self.look is None else replace(self.task, load_previous=self._previous)

    def _previous(self) -> PreviousStars | None:
        assert self.look is not None
        assert self.feeds is not None
        stored = self.task.load_previous()
        found = self.feeds.collection(self.look, stored)
        self.from_feed = replace(found, table=None, unchanged=found.unchanged or found.table is None)
        return stored if found.table is None else PreviousStars(found.table, [])

    def combined(self, collected: StarCollection) -> StarCollection:
        """Return the result of the other source with what is known of the feed now."""
        if self.look is None or self.from_feed is None:
            return collected
        found = self.from_feed
        feed = found.feed
        if feed is not None and collected.table is not None:
            feed = feed.model_copy(update={"stars": collected.table.height})
        # That a feed has no star does not matter where the other source has some.
        is_of_interest = found.outcome is Outcome.OK or collected.outcome is not Outcome.OK
        reasons = [collected.reason, found.reason if is_of_interest else None]
        return replace(
            collected,
            reason="; ".join(reason for reason in reasons if reason is not None) or None,
            unchanged=collected.unchanged and found.unchanged,
            proven=collected.proven and (found.proven or found.outcome is not Outcome.OK),
            requests=collected.requests + found.requests,
            not_modified=collected.not_modified + found.not_modified,
            feed=feed,
            gap=found.gap,
        )
