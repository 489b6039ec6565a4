"""Tokens, the budgets behind them, and when to try again. The one place for retry and rate-limit policy.

GitHub counts per user or app installation, not per token: tokens of one user share one `Account` here, too. Each
account has two budgets, of REST requests and of GraphQL points. A pool may hold only the operator's own distinct users
or apps: GitHub's terms forbid sharing tokens to exceed the limits.

Source: docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api and
docs.github.com/graphql/overview/rate-limits-and-query-limits-for-the-graphql-api.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Protocol

from pydantic import SecretStr

from gh_assets.errors import AuthenticationError, CancelledError, RateLimitedError

logger = logging.getLogger(__name__)

WINDOW_SLACK = 5.0
"""Seconds by which GitHub's reset times of one window may differ."""


LONGEST_WINDOW = 7200.0
"""GitHub's windows have an hour: figures that speak of a much later reset are not believed."""

NOTICED_SECONDS = 5.0
"""Waits of this length are announced."""

RENEWAL_SECONDS = 5.0
"""How often a process that uses a shared budget tells the others, and hears of them."""


class Resource(StrEnum):
    """What GitHub budgets apart, by its own names in ``x-ratelimit-resource``."""

    REST = "core"
    GRAPHQL = "graphql"


class Clock(Protocol):
    """Time as the collector sees it; tests and simulations bring their own."""

    def now(self) -> float:
        """Seconds since 1970."""

    def wait(self, seconds: float, cancelled: threading.Event) -> None:
        """Let `seconds` pass, or less if `cancelled` is set meanwhile."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def wait(self, seconds: float, cancelled: threading.Event) -> None:
        cancelled.wait(seconds)


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed request is tried again, and how fast requests may follow each other.

    Parameters
    ----------
    attempts : int
        Tries in all for network faults and answers 500, 502, 503, 504.
    first_wait, longest_wait : float
        Seconds; the wait doubles from the first to the longest, with jitter.
    secondary_wait : float
        Seconds to wait on a secondary limit that names no time (GitHub asks for at least 60); doubles while the limit
        lasts.
    longest_secondary_wait : float
        Seconds; where that doubling ends.
    longest_quota_wait : float
        Seconds that a caller is ready to wait for a new quota, or for a secondary limit to end; more raises
        `RateLimitedError`.
    confirmation_wait : float
        Seconds before a token that GitHub refused is tried once more, the last time.
    points_a_minute : mapping of Resource to int
        Requests (REST) and queries (GraphQL) a minute and account. GitHub's secondary limits are 900 and 2,000; the
        distance to them is for other programs of the same user, and for a second collector that has just begun.
        A resource without an entry is not paced.
    in_flight : int
        Requests in flight at once in all; GitHub's limit is 100.
    """

    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 30.0
    secondary_wait: float = 60.0
    longest_secondary_wait: float = 960.0
    longest_quota_wait: float = 3700.0
    confirmation_wait: float = 5.0
    points_a_minute: Mapping[Resource, int] = field(
        default_factory=lambda: {Resource.REST: 800, Resource.GRAPHQL: 1800}
    )
    in_flight: int = 80

    def wait_before(self, attempt: int) -> float:
        """Seconds before try number `attempt` (1 is the first repetition)."""
        # Jitter keeps many workers from coming back at the same moment.
        ceiling = min(self.longest_wait, self.first_wait * 2 ** (attempt - 1))
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - no secret depends on it

    def secondary_wait_before(self, attempt: int) -> float:
        """Seconds to wait when the secondary limit was met `attempt` times without an answer between."""
        least = min(self.longest_secondary_wait, self.secondary_wait * 2 ** (attempt - 1))
        return float(least * random.uniform(1.0, 1.1))  # noqa: S311


class Credential(Protocol):
    """What a token's text comes from. `PersonalToken` here; app installations renew theirs (`apps`)."""

    @property
    def label(self) -> str:
        """What messages call it."""

    @property
    def identity(self) -> str | None:
        """Whose budget it uses, if that is known without asking."""

    def secret(self, now: float) -> SecretStr:
        """The text to send; may have to be fetched."""

    def refused(self) -> bool:
        """Told of a 401. True if another try may succeed, because the text will be a new one."""


class PersonalToken:
    """A token that stays as it is."""

    identity = None

    def __init__(self, text: SecretStr) -> None:
        self._text = text

    @property
    def label(self) -> str:
        return f"…{self._text.get_secret_value()[-4:]}"

    def secret(self, now: float) -> SecretStr:
        return self._text

    def refused(self) -> bool:
        return False


@dataclass(frozen=True)
class Observation:
    """A budget as an answer's headers tell it; `reset`, and `at` when it was told, in seconds by our own clock."""

    limit: int
    remaining: int
    reset: float
    at: float


def observation_of(
    limit: object, remaining: object, reset: object, now: float, skew: float = 0.0
) -> Observation | None:
    """Return the budget that an answer describes; None if its figures are missing or cannot be true.

    Parameters
    ----------
    limit, remaining, reset : object
        As they came: numbers or texts; `reset` in seconds since 1970 by the server's clock.
    now : float
        When they came, by our clock.
    skew : float
        Seconds by which the server's clock is ahead.
    """
    try:
        points, left, end = int(str(limit)), int(str(remaining)), float(str(reset)) - skew
    except ValueError:
        return None
    if points < 1 or left < 0 or not end <= now + LONGEST_WINDOW:
        return None
    if left == 0 and end <= now - WINDOW_SLACK:
        return None  # nothing is left in a window that is over
    return Observation(points, min(left, points), end, now)


@dataclass(frozen=True)
class Grant:
    """What the ledger lets this process use of an account's budget.

    Attributes
    ----------
    points : int
        Including what is in flight.
    observation : Observation or None
        What all processes together know of the budget; None if it has to be found out.
    processes : int
        How many use it now, this one included.
    paused_until : float
        Nobody may ask before: another process met a secondary limit.
    """

    points: int
    observation: Observation | None
    processes: int
    paused_until: float


class Ledger(Protocol):
    """Shares budgets between processes; see `gh_assets.github.ledger`."""

    def claim(
        self, account: str, resource: Resource, observation: Observation | None, used: int, want: int, now: float
    ) -> Grant:
        """Tell what was seen, keep `used` points in flight and ask for `want` more."""

    def give_back(self, seen: Mapping[tuple[str, Resource], int]) -> None:
        """Leave all claims of this process to the others, telling the points that were left at last."""

    def pause(self, until: float) -> None:
        """Let no process ask before."""

    def identity_of(self, digest: str) -> str | None:
        """Whose a token is, by its digest, if any process has found that out."""

    def remember_identity(self, digest: str, identity: str) -> None:
        """Tell the others whose a token is."""


class Budget:
    """What is left of one resource of one account, as far as GitHub and our own count tell."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self.remaining: int | None = None
        self.reset = 0.0
        self.observed_at = 0.0
        self.reserved = 0
        self.granted: int | None = None
        self.unmetered = False
        self.next_slot = 0.0
        self.claimed_at = -math.inf
        self.processes = 1

    def observe(self, seen: Observation, now: float) -> None:
        """Take in what an answer says; answers overtake each other."""
        if seen.reset <= now - WINDOW_SLACK and self.remaining is not None:
            return  # an answer of a window that is over
        if self.remaining is None or math.isinf(self.reset):
            self.remaining = seen.remaining if self.remaining is None else min(self.remaining, seen.remaining)
            self.reset = seen.reset
        elif seen.reset > self.reset + WINDOW_SLACK:
            self.remaining, self.reset = seen.remaining, seen.reset
        elif seen.reset >= self.reset - WINDOW_SLACK:
            # Within one window the smallest number is the newest.
            self.remaining = min(self.remaining, seen.remaining)
        self.limit = seen.limit
        self.observed_at = max(self.observed_at, seen.at)

    def forget(self) -> None:
        """What is left has to be found out."""
        self.remaining = None

    def roll(self, now: float) -> None:
        """Begin a new window when the old one is over.

        One second more: resets are given in whole seconds. When the new window ends is known by its first answer.
        """
        if self.remaining is not None and self.limit is not None and now >= self.reset + 1.0:
            self.remaining, self.reset = self.limit, math.inf

    def available(self) -> float:
        """Points that may be used now by this process."""
        if self.unmetered:
            return math.inf
        if self.remaining is None:
            return 0
        return min(self.remaining, math.inf if self.granted is None else self.granted) - self.reserved


class Account:
    """A user or app installation: what GitHub's limits are counted by."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.budgets = {resource: Budget() for resource in Resource}


class Token:
    """A credential, the account it belongs to, and whether GitHub takes it. Never prints the token."""

    def __init__(self, credential: Credential) -> None:
        self.credential = credential
        self.account: Account | None = None
        self.identify_at = 0.0
        self.retired = False
        self.refusals = 0
        """How often GitHub refused it since it was last taken."""
        self.confirming = threading.Lock()

    def __repr__(self) -> str:
        return f"Token({self.label})"

    @property
    def label(self) -> str:
        """What messages call it: its last four characters."""
        return self.credential.label


@dataclass
class Lease:
    """A token for one request, the points reserved for it, and when it may be sent (seconds since 1970)."""

    token: Token
    account: Account
    resource: Resource
    points: int
    sent: float = 0.0


class TokenPool:
    """Budgets used side by side: another account when one is spent, waiting only when all are.

    Accounts are used evenly from the start: their windows then begin, and end, together, and none is idle while
    another one is held up by its points a minute.

    Parameters
    ----------
    credentials : sequence of Credential or SecretStr
    policy : RetryPolicy
    clock : Clock
    ledger : Ledger, optional
        Shares the budgets with other processes.
    identifier : callable, optional
        Finds out whose a token is and calls `identify` (or `retire`, `postpone`); without one each token is an account
        of its own.
    prober : callable, optional
        Finds out, without spending any, what is left of an account's budgets and calls `observe`; without one a budget
        that nobody knows is taken to have no limit.
    """

    def __init__(
        self,
        credentials: Sequence[Credential | SecretStr],
        policy: RetryPolicy | None = None,
        clock: Clock | None = None,
        ledger: Ledger | None = None,
        identifier: Callable[[Token], None] | None = None,
        prober: Callable[[Token], None] | None = None,
    ) -> None:
        self.tokens = [Token(PersonalToken(c) if isinstance(c, SecretStr) else c) for c in credentials]
        self.policy = policy or RetryPolicy()
        self.clock = clock or SystemClock()
        self.ledger = ledger
        self.cancelled = threading.Event()
        self.accounts: dict[str, Account] = {}
        self.notify: Callable[[str], None] = logger.warning
        """Hears what is waited for, before a wait that a person would notice."""
        self._announced = 0.0
        self._paused_until = 0.0
        self._limited_since: float | None = None
        self._secondary_hits = 0
        self._in_flight = 0
        self._turn = 0
        self._changed = threading.Condition(threading.Lock())
        self._identifier = identifier or self._identify_apart
        self._prober = prober
        self._probe_lock = threading.Lock()

    # -- tokens and accounts -------------------------------------------------------------------------------------

    def identify(self, token: Token, identity: str) -> None:
        """Attach a token to the account that it belongs to."""
        with self._changed:
            account = self.accounts.setdefault(identity, Account(identity))
            if any(other.account is account for other in self.tokens):
                logger.warning("The token %s is of a user who has another one here: they share a quota.", token.label)
            token.account = account
            self._changed.notify_all()

    def observe(self, account: Account, seen: Mapping[Resource, Observation]) -> None:
        """What GitHub says about an account's budgets; one that is not mentioned has no limit."""
        with self._changed:
            for resource, budget in account.budgets.items():
                if resource in seen:
                    budget.unmetered = False
                    budget.observe(seen[resource], self.clock.now())
                elif budget.remaining is None:
                    budget.unmetered = True
            self._changed.notify_all()

    def postpone(self, token: Token, until: float) -> None:
        """Find out later whose a token is: its quota is spent until then (seconds since 1970)."""
        token.identify_at = until + 1.0

    def _identify_apart(self, token: Token) -> None:
        self.identify(token, f"token {self.tokens.index(token)}")

    def refresh_budgets(self, resource: Resource) -> None:
        """Learn whose tokens are, and what is left of the budgets of which nothing is known.

        Raises
        ------
        AuthenticationError
            If GitHub has refused every token.
        """
        self._usable_tokens()
        now = self.clock.now()
        if now < self._paused_until or not self._unknown(resource, now):
            return
        with self._probe_lock:  # one worker asks, the others wait for what it finds out
            for token in self._unknown(resource, now):
                self._check_cancelled()
                if token.account is None:
                    self._identifier(token)
                if token.account is None or token.retired:
                    continue
                budget = token.account.budgets[resource]
                if budget.remaining is None and not budget.unmetered:
                    if self._prober is None:
                        budget.unmetered = True
                    else:
                        self._prober(token)
        self._usable_tokens()

    def _unknown(self, resource: Resource, now: float) -> list[Token]:
        unknown = []
        for token in self.tokens:
            if token.account is not None:
                budget = token.account.budgets[resource]
                if not token.retired and budget.remaining is None and not budget.unmetered:
                    unknown.append(token)
            elif not token.retired and now >= token.identify_at:
                unknown.append(token)
        return unknown

    def retire(self, token: Token) -> None:
        """Never use a token again that GitHub refused."""
        with self._changed:
            token.retired = True
            logger.warning("GitHub refused the token ending in %s (401): it is not used any more.", token.label)
            self._changed.notify_all()

    @property
    def retired(self) -> list[str]:
        """Labels of the tokens that GitHub refused."""
        return [token.label for token in self.tokens if token.retired]

    # -- asking --------------------------------------------------------------------------------------------------

    @contextmanager
    def lease(
        self, resource: Resource, points: int = 1, keep: Account | None = None
    ) -> Iterator[tuple[Lease, Callable[..., None]]]:
        """A token to ask with. Call the second value with the answer's headers (and the points it really cost).

        `keep` is the account to stay with if it has quota: a secondary limit is waited out, not gone around.
        """
        lease = self._acquire(resource, points, keep)
        settled = False

        def settle(headers: Mapping[str, str] | None, cost: int = points) -> None:
            nonlocal settled
            settled = True
            self._release(lease, headers, cost)

        try:
            yield lease, settle
        finally:
            if not settled:
                # Nobody knows whether it reached GitHub: it counts as spent until headers say otherwise.
                self._release(lease, None, points)

    def _acquire(self, resource: Resource, points: int, keep: Account | None) -> Lease:
        """A token with quota, waiting for it if need be.

        Raises
        ------
        AuthenticationError
            If GitHub has refused every token.
        RateLimitedError
            If the wait for new quota is longer than the policy allows.
        CancelledError
            If the collector was cancelled.
        """
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
                    lease.sent = self.clock.now()
                except BaseException:
                    self._release(lease, None, 0, entered=False)
                    raise
                return lease
            wait = ready - now
            if wait > self.policy.longest_quota_wait:
                raise RateLimitedError(
                    f"GitHub lets no token ask for another {math.ceil(wait / 60)} minutes: the quota is spent, or it "
                    "asked us to wait. Run again then: what was collected is kept."
                )
            self._notify_wait(ready, now, "The quota of all tokens is spent")
            self._wait_until(ready, pausing=False)

    def _choose(self, resource: Resource, points: int, keep: Account | None, now: float) -> tuple[Lease | None, float]:
        """A lease and the time at which it may be used; or None and the time at which to ask again."""
        alive = self._usable_tokens()
        if now < self._paused_until:
            return None, self._paused_until
        known = list({id(token.account): token for token in reversed(alive) if token.account is not None}.values())
        known.reverse()
        able: list[tuple[float, int, Token, Budget]] = []
        for place, token in enumerate(known):
            assert token.account is not None
            budget = token.account.budgets[resource]
            budget.roll(now)
            if self.ledger is not None:
                self._claim(token.account, resource, points, now)
            if budget.available() >= points:
                able.append((budget.next_slot, (place - self._turn) % len(known), token, budget))
        if now < self._paused_until:  # as the ledger has just told
            return None, self._paused_until
        if not able:
            return None, self._next_chance(known, alive, resource, points, now)
        _, _, token, budget = min(able, key=lambda entry: (entry[2].account is not keep, max(entry[0], now), entry[1]))
        self._turn += 1
        budget.reserved += points
        ready = now
        pace = self.policy.points_a_minute.get(resource)
        if pace is not None and not budget.unmetered:
            interval = 60.0 * budget.processes / pace
            # A few may follow each other at once after a pause, so that uneven work does not fall behind its pace.
            ready = max(now, budget.next_slot)
            budget.next_slot = max(budget.next_slot, now - 10 * interval) + interval
        assert token.account is not None
        return Lease(token, token.account, resource, points), ready

    def _usable_tokens(self) -> list[Token]:
        alive = [token for token in self.tokens if not token.retired]
        if not alive:
            labels = ", ".join(token.label for token in self.tokens)
            raise AuthenticationError(
                f"GitHub refused the token{'s' if len(self.tokens) > 1 else ''} ending in {labels} (401 Bad "
                "credentials). Give valid ones in GITHUB_TOKENS."
            )
        return alive

    def _next_chance(
        self, known: Sequence[Token], alive: Sequence[Token], resource: Resource, points: int, now: float
    ) -> float:
        """When it is worth to look again, none having quota now."""
        chances = [token.identify_at for token in alive if token.account is None]
        for token in known:
            assert token.account is not None
            budget = token.account.budgets[resource]
            spent = budget.remaining is not None and budget.remaining - budget.reserved < points
            if spent and not math.isinf(budget.reset) and budget.limit is not None and budget.limit >= points:
                chances.append(budget.reset + 1.0)
            else:
                # Others hold what is left, or the first answer is awaited: soon more is known.
                chances.append(now + (0.05 if self.ledger is None else 2.0))
        return max(now + 0.01, min(chances))

    def _claim(self, account: Account, resource: Resource, points: int, now: float) -> None:
        budget = account.budgets[resource]
        assert self.ledger is not None
        if budget.available() >= points and now - budget.claimed_at < RENEWAL_SECONDS:
            return
        if budget.unmetered or (budget.granted is not None and now - budget.claimed_at < 0.2):
            return
        seen = None
        if budget.remaining is not None and budget.limit is not None and not math.isinf(budget.reset):
            seen = Observation(budget.limit, budget.remaining, budget.reset, budget.observed_at)
        # Small blocks, so that a process that waits is not starved by what another one holds unused.
        block = points + (0 if budget.remaining is None else max(10, min(500, budget.remaining // 20)))
        grant = self.ledger.claim(account.identity, resource, seen, budget.reserved, block, now)
        budget.claimed_at = now
        budget.processes = grant.processes
        # Another process may have believed an answer that asks to wait for years.
        self._paused_until = max(self._paused_until, min(grant.paused_until, now + LONGEST_WINDOW))
        if grant.observation is not None:
            budget.observe(grant.observation, now)
        else:
            budget.forget()
        budget.granted = grant.points

    def _wait_until(self, moment: float, *, pausing: bool = True) -> None:
        while True:
            with self._changed:
                self._check_cancelled()
                now = self.clock.now()
                until = max(moment, self._paused_until) if pausing else moment
            if now >= until:
                return
            # In steps: a token may be identified or retired meanwhile, and the machine's clock may be set.
            self.clock.wait(min(until - now, 60.0), self.cancelled)
            if not pausing:
                return

    def _notify_wait(self, until: float, now: float, why: str) -> None:
        """Report what is waited for, once a wait."""
        if until - now >= NOTICED_SECONDS and until > self._announced + NOTICED_SECONDS:
            self._announced = until
            at = dt.datetime.fromtimestamp(until, dt.UTC)
            self.notify(f"{why}: waiting {math.ceil(until - now)} s, until {at:%H:%M:%S} UTC.")

    def _enter(self) -> None:
        """Wait for a place among the requests in flight."""
        with self._changed:
            processes = max(b.processes for a in self.accounts.values() for b in a.budgets.values())
            places = max(1, self.policy.in_flight // processes)
            while self._in_flight >= places:
                self._check_cancelled()
                self._changed.wait(0.5)
            self._in_flight += 1

    def _release(self, lease: Lease, headers: Mapping[str, str] | None, cost: int, *, entered: bool = True) -> None:
        with self._changed:
            self._in_flight -= entered
            budget = lease.account.budgets[lease.resource]
            budget.reserved -= lease.points
            if budget.granted is not None:
                budget.granted = max(0, budget.granted - cost)
            observed = headers is not None and self._observe(lease.account, lease.resource, headers, lease.sent)
            if not observed and budget.remaining is not None:
                budget.remaining = max(0, budget.remaining - cost)
            self._changed.notify_all()

    def _observe(self, account: Account, asked: Resource, headers: Mapping[str, str], sent: float) -> bool:
        """Take in an answer's headers; False if they tell nothing of a budget."""
        now = self.clock.now()
        try:
            resource = Resource(headers.get("x-ratelimit-resource", asked.value))
        except ValueError:
            return False
        seen = observed_in(headers, sent, now)
        if seen is None:
            return False
        account.budgets[resource].unmetered = False
        account.budgets[resource].observe(seen, now)
        return resource is asked

    def has_points(self, lease: Lease) -> bool:
        """Whether a lease's account could be asked again at once, as far as is known."""
        with self._changed:
            budget = lease.account.budgets[lease.resource]
            budget.roll(self.clock.now())
            return budget.remaining is None or budget.available() >= lease.points

    # -- waiting for all -----------------------------------------------------------------------------------------

    def pause(self, seconds: float | None = None) -> None:
        """Let nobody ask for a while: a secondary limit, which other tokens must not be used to get around.

        Parameters
        ----------
        seconds : float, optional
            What GitHub asks for; else the policy's wait, longer each time until an answer comes.

        Raises
        ------
        RateLimitedError
            If there has been no answer for as long as the policy waits.
        """
        with self._changed:
            now = self.clock.now()
            if self._limited_since is None:
                self._limited_since = now
            elif now - self._limited_since > self.policy.longest_quota_wait:
                raise RateLimitedError(
                    f"GitHub has answered nothing but its secondary rate limit for "
                    f"{math.ceil((now - self._limited_since) / 60)} minutes. Run again later: what was collected is "
                    "kept."
                )
            if seconds is None:
                if now >= self._paused_until:  # of many requests in flight that meet one limit, one counts
                    self._secondary_hits += 1
                seconds = self.policy.secondary_wait_before(max(1, self._secondary_hits))
            else:
                # What asks for no wait at all, again and again, gets one that grows.
                self._secondary_hits += now >= self._paused_until
                seconds = max(seconds, self.policy.wait_before(min(8, max(1, self._secondary_hits))))
            until = now + seconds
            self._paused_until = max(self._paused_until, until)
            for account in self.accounts.values():
                for budget in account.budgets.values():
                    # No burst afterwards: everybody coming back at once would meet the limit again.
                    budget.next_slot = max(budget.next_slot, self._paused_until)
        self._notify_wait(until, now, "GitHub's secondary rate limit was reached")
        if self.ledger is not None:
            self.ledger.pause(until)

    def answered(self) -> None:
        """Handle an answer without a limit: the next secondary limit is a first one again."""
        self._secondary_hits, self._limited_since = 0, None

    def cancel(self) -> None:
        """Make every worker stop, those who wait included."""
        self.cancelled.set()
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Cancel, and leave what was claimed to other processes."""
        self.cancel()
        if self.ledger is not None and self.accounts:
            seen = {
                (account.identity, resource): budget.remaining
                for account in self.accounts.values()
                for resource, budget in account.budgets.items()
                if budget.granted is not None and budget.remaining is not None
            }
            self.ledger.give_back(seen)

    def _check_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise CancelledError("Collecting was cancelled. What was collected is kept; run again to go on.")

    @property
    def in_flight(self) -> int:
        """Requests that have been sent and not been answered yet."""
        return self._in_flight

    # -- what people want to know --------------------------------------------------------------------------------

    def remaining(self, resource: Resource = Resource.REST) -> int | None:
        """Points left over all accounts, as far as GitHub has told; None before the first answer."""
        with self._changed:
            now = self.clock.now()
            left = []
            for account in self._accounts_in_use():
                budget = account.budgets[resource]
                budget.roll(now)
                if budget.remaining is not None:
                    left.append(budget.remaining)
            return sum(left) if left else None

    def limit(self, resource: Resource = Resource.REST) -> int | None:
        """Points an hour over all accounts; None before the first answer or without limits."""
        limits = [account.budgets[resource].limit for account in self._accounts_in_use()]
        known = [limit for limit in limits if limit is not None]
        return sum(known) if known else None

    def next_reset(self, resource: Resource = Resource.REST) -> float | None:
        """When the first account gets new points, in seconds since 1970."""
        resets = [account.budgets[resource].reset for account in self._accounts_in_use()]
        known = [reset for reset in resets if reset and not math.isinf(reset)]
        return min(known) if known else None

    def _accounts_in_use(self) -> list[Account]:
        return list({id(t.account): t.account for t in self.tokens if not t.retired and t.account}.values())


def observed_in(headers: Mapping[str, str], sent: float, now: float) -> Observation | None:
    """Return the budget that an answer's headers describe; None if they cannot be used.

    The reset is by GitHub's clock, which may not be ours: see `skew_of` for `sent` and `now`.
    """
    limit, remaining, reset = (headers.get(f"x-ratelimit-{name}") for name in ("limit", "remaining", "reset"))
    return observation_of(limit, remaining, reset, now, skew_of(headers, sent, now))


def skew_of(headers: Mapping[str, str], sent: float, now: float) -> float:
    """Seconds by which the server's clock is ahead of ours; 0 where they agree as well as an answer can tell.

    Parameters
    ----------
    headers : mapping
        ``date`` was written between `sent` and `now`: an answer that took long is no sign of a wrong clock.
    sent, now : float
        When the request began and when its answer was there, by our clock.
    """
    try:
        written = parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return 0.0
    # The header has whole seconds.
    if written > now + 2.0:
        return written - now
    return written - sent if written < sent - 2.0 else 0.0
