"""The pool of tokens: which one sends the next request, and when.

A pool may hold only the operator's own distinct users or apps: GitHub's terms forbid sharing tokens to exceed the
limits.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from gh_assets.errors import CancelledError, RateLimitedError
from gh_assets.github.budgets import Account, AccountDirectory, Budget, Credential, Token
from gh_assets.github.ledger import MongoLedger
from gh_assets.github.rate_limits import Observation, Resource, observed_in
from gh_assets.github.retries import Clock, RetryPolicy

logger = logging.getLogger(__name__)

NOTICED_SECONDS = 5.0
"""Waits of at least this length are announced."""

MAX_ZERO_WAIT_DOUBLINGS = 8
"""Limit of the growing wait on a server that asks for none."""

LONGEST_STEP = 60.0
"""Seconds of one step of a wait: meanwhile a token may be identified, and the machine's clock may be set."""


@dataclass
class Lease:
    """A token for one request.

    Attributes
    ----------
    token, account, resource
        What the request is sent with, and what it is charged to.
    points : int
        Points that are reserved.
    release : callable
        Called with the lease and the arguments of `settle`.
    sent : float
        When it may be sent, in seconds since 1970.
    settled : bool
        Whether the response was reported.
    """

    token: Token
    account: Account
    resource: Resource
    points: int
    release: Callable[[Lease, Mapping[str, str] | None, int], None] = field(repr=False)
    sent: float = 0.0
    settled: bool = False

    @property
    def budget(self) -> Budget:
        return self.account.budgets[self.resource]

    def settle(self, headers: Mapping[str, str] | None, cost: int | None = None) -> None:
        """Report the response.

        Parameters
        ----------
        headers : mapping or None
            Of the response, with names in lower case; None if it says nothing about quota.
        cost : int, optional
            Points that the request cost; by default, those that were reserved.
        """
        self.settled = True
        self.release(self, headers, self.points if cost is None else cost)


class SecondaryLimit:
    """The pause after a secondary limit, which holds for all tokens.

    Attributes
    ----------
    until : float
        No request may be sent before (seconds since 1970).
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self.until = 0.0
        self._policy = policy
        self._since: float | None = None
        self._hits = 0

    def extend(self, until: float) -> None:
        """Pause until the given time, unless the pause is longer already."""
        self.until = max(self.until, until)

    def begin(self, seconds: float | None, now: float) -> float:
        """Begin a pause, and return its end; see `TokenPool.pause`."""
        if self._since is None:
            self._since = now
        elif now - self._since > self._policy.longest_quota_wait:
            raise RateLimitedError(
                f"GitHub has answered nothing but its secondary rate limit for {math.ceil((now - self._since) / 60)} "
                "minutes. Run again later: what was collected is kept."
            )
        # Of several requests in flight that meet the same limit, one counts.
        self._hits += now >= self.until
        hits = max(1, self._hits)
        if seconds is None:
            seconds = self._policy.secondary_wait_before(hits)
        else:
            seconds = max(seconds, self._policy.wait_before(min(MAX_ZERO_WAIT_DOUBLINGS, hits)))
        self.extend(now + seconds)
        return now + seconds

    def end(self) -> None:
        """Count the next secondary limit as a first one."""
        self._hits, self._since = 0, None


class TokenPool:
    """Budgets that are used side by side: another account if one is spent, a wait only if all are.

    Accounts are used evenly from the start, so that their windows begin and end together, and none is idle while
    another one is held up by its pace.

    Parameters
    ----------
    credentials : sequence of Credential
    identifier : callable
        Finds a token's account and calls `directory.identify` (or `retire`, `postpone`).
    prober : callable
        Finds what is left of an account's budgets, which costs nothing, and calls `observe`.
    policy : RetryPolicy
    clock : Clock
    ledger : MongoLedger, optional
        Shares the budgets with other processes.

    Attributes
    ----------
    directory : AccountDirectory
        Tokens and accounts.
    notify : callable
        Called with a sentence before each wait of `NOTICED_SECONDS`.
    cancelled : threading.Event
        Set when all workers have to stop.
    """

    def __init__(
        self,
        credentials: Sequence[Credential],
        identifier: Callable[[Token], None],
        prober: Callable[[Token], None],
        policy: RetryPolicy,
        clock: Clock,
        ledger: MongoLedger | None = None,
    ) -> None:
        self.directory = AccountDirectory(credentials)
        self.policy, self.clock, self.ledger = policy, clock, ledger
        self.cancelled = threading.Event()
        self.notify: Callable[[str], None] = logger.warning
        self._limit = SecondaryLimit(self.policy)
        self._announced = 0.0
        self._in_flight = 0
        self._turn = 0
        self._changed = threading.Condition(threading.Lock())
        self._identifier, self._prober = identifier, prober
        self._probe_lock = threading.Lock()

    # -- what is known -------------------------------------------------------------------------------------------

    def observe(self, account: Account, seen: Mapping[Resource, Observation]) -> None:
        """Update an account's budgets from GitHub's overview; a resource that it omits has no limit."""
        with self._changed:
            for resource, budget in account.budgets.items():
                if resource in seen:
                    budget.unmetered = False
                    budget.observe(seen[resource], self.clock.now())
                elif budget.remaining is None:
                    budget.unmetered = True
            self._changed.notify_all()

    def refresh_budgets(self, resource: Resource) -> None:
        """Request the accounts of tokens, and the points of budgets, that are unknown.

        Raises
        ------
        AuthenticationError
            If GitHub has refused every token.
        """
        self.directory.usable_tokens()
        now = self.clock.now()
        if now < self._limit.until or not self.directory.unknown(resource, now):
            return
        with self._probe_lock:  # one worker sends the requests, the others wait for it
            for token in self.directory.unknown(resource, now):
                self._check_cancelled()
                if token.account is None:
                    self._identifier(token)
                if token.account is not None and not token.retired and token.account.budgets[resource].is_unknown:
                    self._prober(token)
        self.directory.usable_tokens()

    # -- leases --------------------------------------------------------------------------------------------------

    @contextmanager
    def lease(self, resource: Resource, points: int = 1, keep: Account | None = None) -> Iterator[Lease]:
        """Lease a token for one request, waiting for quota if necessary; the block calls `Lease.settle`.

        Parameters
        ----------
        resource : Resource
        points : int
            Points to reserve.
        keep : Account, optional
            Account to stay with if it has quota: a secondary limit is waited for, not evaded.

        Raises
        ------
        AuthenticationError
            If GitHub has refused every token.
        RateLimitedError
            If the wait for new quota exceeds the policy's limit.
        CancelledError
            If the collector was cancelled.
        """
        lease = self._acquire(resource, points, keep)
        try:
            yield lease
        finally:
            if not lease.settled:
                # The request may have reached GitHub: it counts as spent until headers say otherwise.
                lease.settle(None)

    def _acquire(self, resource: Resource, points: int, keep: Account | None) -> Lease:
        while True:
            self.refresh_budgets(resource)
            with self._changed:
                self._check_cancelled()
                now = self.clock.now()
                lease, ready = self._choose(resource, points, keep, now)
            if lease is not None:
                try:
                    self._wait_until(ready)
                    self._enter()
                except BaseException:
                    self._release(lease, None, 0, entered=False)
                    raise
                lease.sent = self.clock.now()
                return lease
            wait = ready - now
            if wait > self.policy.longest_quota_wait:
                raise RateLimitedError(
                    f"GitHub accepts no request for another {math.ceil(wait / 60)} minutes: the quota is spent, or "
                    "GitHub asked for a pause. Run again then: what was collected is kept."
                )
            self._notify_wait(ready, now, "The quota of all tokens is spent")
            self._wait_step(ready)

    def _choose(self, resource: Resource, points: int, keep: Account | None, now: float) -> tuple[Lease | None, float]:
        """Return a lease and the time at which it may be used, or None and the time at which to try again."""
        usable = self.directory.usable_tokens()
        if now < self._limit.until:
            return None, self._limit.until
        candidates = list(self.directory.accounts_in_use().values())
        able: list[tuple[bool, float, int, Token, Account]] = []
        for place, (token, account) in enumerate(candidates):
            budget = account.budgets[resource]
            budget.roll(now)
            if self.ledger is not None:
                self._limit.extend(self.ledger.renew(account, resource, points, now))
            if budget.available() >= points:
                order = (place - self._turn) % len(candidates)
                able.append((account is not keep, max(budget.next_slot, now), order, token, account))
        if now < self._limit.until:  # as another process reported
            return None, self._limit.until
        if not able:
            poll = 0.05 if self.ledger is None else 2.0
            chances = [token.identify_at for token in usable if token.account is None]
            chances += [account.budgets[resource].next_chance(points, now, poll) for _, account in candidates]
            return None, max(now + 0.01, min(chances))
        *_, token, account = min(able, key=lambda entry: entry[:3])
        self._turn += 1
        lease = Lease(token, account, resource, points, self._release)
        lease.budget.reserved += points
        return lease, lease.budget.pace(self.policy.points_a_minute.get(resource), now)

    def _wait_until(self, moment: float) -> None:
        """Wait until a time and the end of a pause, whichever is later."""
        while self._wait_step(max(moment, self._limit.until)):
            pass

    def _wait_step(self, moment: float) -> bool:
        """Wait until a time, for at most `LONGEST_STEP`; return False if it has come already."""
        with self._changed:
            self._check_cancelled()
            now = self.clock.now()
        if now >= moment:
            return False
        self.clock.wait(min(moment - now, LONGEST_STEP), self.cancelled)
        return True

    def _notify_wait(self, until: float, now: float, reason: str) -> None:
        """Announce a wait, once."""
        if until - now >= NOTICED_SECONDS and until > self._announced + NOTICED_SECONDS:
            self._announced = until
            at = dt.datetime.fromtimestamp(until, dt.UTC)
            self.notify(f"{reason}: waiting {math.ceil(until - now)} s, until {at:%H:%M:%S} UTC.")

    def _enter(self) -> None:
        """Wait until fewer requests are in flight than the policy allows."""
        with self._changed:
            accounts = self.directory.accounts.values()
            processes = max(budget.processes for account in accounts for budget in account.budgets.values())
            places = max(1, self.policy.in_flight // processes)
            while self._in_flight >= places:
                self._check_cancelled()
                self._changed.wait(0.5)
            self._in_flight += 1

    def _release(self, lease: Lease, headers: Mapping[str, str] | None, cost: int, *, entered: bool = True) -> None:
        with self._changed:
            self._in_flight -= entered
            observed = headers is not None and self._observe_headers(lease, headers)
            lease.budget.spend(lease.points, cost, observed=observed)
            self._changed.notify_all()

    def _observe_headers(self, lease: Lease, headers: Mapping[str, str]) -> bool:
        """Update a budget from a response's headers; return whether it was the lease's."""
        now = self.clock.now()
        try:
            resource = Resource(headers.get("x-ratelimit-resource", lease.resource.value))
        except ValueError:
            return False
        seen = observed_in(headers, lease.sent, now)
        if seen is None:
            return False
        lease.account.budgets[resource].unmetered = False
        lease.account.budgets[resource].observe(seen, now)
        return resource is lease.resource

    def has_points(self, lease: Lease) -> bool:
        """Whether the next request of a lease's account could be sent at once, as far as is known."""
        with self._changed:
            lease.budget.roll(self.clock.now())
            return lease.budget.remaining is None or lease.budget.available() >= lease.points

    # -- pauses and the end --------------------------------------------------------------------------------------

    def pause(self, seconds: float | None = None) -> None:
        """Pause all tokens because of a secondary limit, which other tokens must not be used to evade.

        Parameters
        ----------
        seconds : float, optional
            What GitHub asks for; by default, the policy's wait, which doubles until a response comes.

        Raises
        ------
        RateLimitedError
            If the limits have lasted for the policy's longest wait.
        """
        with self._changed:
            now = self.clock.now()
            until = self._limit.begin(seconds, now)
            for account in self.directory.accounts.values():
                for budget in account.budgets.values():
                    # No burst afterwards: it would meet the limit again.
                    budget.next_slot = max(budget.next_slot, self._limit.until)
        self._notify_wait(until, now, "GitHub's secondary rate limit was reached")
        if self.ledger is not None:
            self.ledger.pause(until)

    def answered(self) -> None:
        """Handle a response without a limit: the next secondary limit is a first one again."""
        self._limit.end()

    def wait(self, seconds: float) -> None:
        """Wait, or return early if the pool is cancelled."""
        self.clock.wait(seconds, self.cancelled)

    def cancel(self) -> None:
        """Stop all workers, including those that wait."""
        self.cancelled.set()
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Cancel, and release the claims of this process."""
        self.cancel()
        if self.ledger is not None:
            self.ledger.give_back(self.directory.accounts.values())

    def _check_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise CancelledError("Collecting was cancelled. What was collected is kept; run again to go on.")

    # -- figures -------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Number of requests that wait for their response."""
        return self._in_flight

    def _budgets(self, resource: Resource) -> list[Budget]:
        with self._changed:
            budgets = [account.budgets[resource] for _, account in self.directory.accounts_in_use().values()]
            for budget in budgets:
                budget.roll(self.clock.now())
            return budgets

    def remaining(self, resource: Resource = Resource.REST) -> int | None:
        """Return the points left over all accounts, or None before the first response."""
        left = [budget.remaining for budget in self._budgets(resource) if budget.remaining is not None]
        return sum(left) if left else None

    def limit(self, resource: Resource = Resource.REST) -> int | None:
        """Return the points of a window over all accounts, or None before the first response or without limits."""
        limits = [budget.limit for budget in self._budgets(resource) if budget.limit is not None]
        return sum(limits) if limits else None

    def next_reset(self, resource: Resource = Resource.REST) -> float | None:
        """Return when the first account gets new points, in seconds since 1970."""
        resets = [budget.reset for budget in self._budgets(resource)]
        return min((reset for reset in resets if reset and not math.isinf(reset)), default=None)
