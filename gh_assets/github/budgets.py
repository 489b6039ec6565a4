"""Budgets, and the accounts and tokens that spend them.

GitHub counts per user or app installation, not per token: tokens of one user share one `Account`. Each account has a
budget of REST requests and one of GraphQL points.
"""

import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from gh_assets.errors import AuthenticationError
from gh_assets.github.rate_limits import WINDOW_SLACK, Observation, Resource

logger = logging.getLogger(__name__)


class Budget:
    """What is left of one resource of one account, by GitHub's responses and by this process's own count."""

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

    @property
    def is_unknown(self) -> bool:
        """Whether its points have to be requested before it can be used."""
        return self.remaining is None and not self.unmetered

    def observe(self, seen: Observation, now: float) -> None:
        """Update the budget from a response; responses may arrive in any order."""
        if seen.reset <= now - WINDOW_SLACK and self.remaining is not None:
            return  # of a window that is over
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

    def roll(self, now: float) -> None:
        """Begin a new window if the present one is over.

        Resets are given in whole seconds, hence the additional second. The first response tells when the new window
        ends.
        """
        if self.remaining is not None and self.limit is not None and now >= self.reset + 1.0:
            self.remaining, self.reset = self.limit, math.inf

    def available(self) -> float:
        """Return the points that this process may use now."""
        if self.unmetered:
            return math.inf
        if self.remaining is None:
            return 0
        return min(self.remaining, math.inf if self.granted is None else self.granted) - self.reserved

    def next_chance(self, points: int, now: float, poll_seconds: float) -> float:
        """Return when `points` may be available (seconds since 1970), given that they are not available now."""
        spent = self.remaining is not None and self.remaining - self.reserved < points
        if spent and not math.isinf(self.reset) and self.limit is not None and self.limit >= points:
            return self.reset + 1.0
        # Other processes hold the rest, or the first response of a window is on its way.
        return now + poll_seconds

    def pace(self, points_a_minute: int | None, now: float) -> float:
        """Reserve the next slot for a request, and return its time in seconds since 1970."""
        if points_a_minute is None or self.unmetered:
            return now
        interval = 60.0 * self.processes / points_a_minute
        slot = max(now, self.next_slot)
        # After a pause, up to ten requests may follow each other at once: uneven work keeps its average pace.
        self.next_slot = max(self.next_slot, now - 10 * interval) + interval
        return slot

    def spend(self, reserved: int, cost: int, *, observed: bool) -> None:
        """Settle a request that has ended: release its reservation, and count its cost unless that was observed."""
        self.reserved -= reserved
        if self.granted is not None:
            self.granted = max(0, self.granted - cost)
        if not observed and self.remaining is not None:
            self.remaining = max(0, self.remaining - cost)


class Account:
    """A user or app installation: GitHub's limits are per account."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.budgets = {resource: Budget() for resource in Resource}


class Credential(Protocol):
    """Source of a token's text: `PersonalToken`, or an app installation, which renews it (`apps`)."""

    @property
    def label(self) -> str:
        """Name of the token in messages."""

    @property
    def identity(self) -> str | None:
        """Identity of the account, if it is known without a request."""

    def secret(self, now: float) -> SecretStr:
        """Return the text to send, which may have to be requested."""

    def on_unauthorized(self) -> bool:
        """Handle a 401 response, and return whether the next text will be a new one."""


@dataclass(frozen=True)
class PersonalToken:
    """A token whose text never changes."""

    text: SecretStr
    identity = None

    @property
    def label(self) -> str:
        return f"…{self.text.get_secret_value()[-4:]}"

    def secret(self, now: float) -> SecretStr:
        return self.text

    def on_unauthorized(self) -> bool:
        return False


class Token:
    """A credential, its account, and whether GitHub accepts it. The text of the token is never printed."""

    def __init__(self, credential: Credential) -> None:
        self.credential = credential
        self.account: Account | None = None
        self.identify_at = 0.0
        self.retired = False
        self.refusals = 0
        """Consecutive 401 responses."""
        self.confirming = threading.Lock()

    def __repr__(self) -> str:
        return f"Token({self.label})"

    @property
    def label(self) -> str:
        """Name in messages: the last four characters."""
        return self.credential.label


class AccountDirectory:
    """Which token belongs to which account, and which tokens GitHub accepts.

    Parameters
    ----------
    credentials : sequence of Credential

    Attributes
    ----------
    tokens : list of Token
    accounts : dict of str to Account
        By identity.
    """

    def __init__(self, credentials: Sequence[Credential]) -> None:
        self.tokens = [Token(credential) for credential in credentials]
        self.accounts: dict[str, Account] = {}
        self._lock = threading.Lock()

    def identify(self, token: Token, identity: str) -> None:
        """Attach a token to its account."""
        with self._lock:
            account = self.accounts.setdefault(identity, Account(identity))
            if any(other.account is account for other in self.tokens):
                logger.warning("The token %s is of a user who has another one here: they share a quota.", token.label)
            token.account = account

    def postpone(self, token: Token, until: float) -> None:
        """Identify a token later, since its quota is spent until then (seconds since 1970)."""
        token.identify_at = until + 1.0

    def retire(self, token: Token) -> None:
        """Stop using a token that GitHub refused."""
        token.retired = True
        logger.warning("GitHub refused the token ending in %s (401): it is not used any more.", token.label)

    @property
    def retired(self) -> list[str]:
        """Labels of the tokens that GitHub refused."""
        return [token.label for token in self.tokens if token.retired]

    def usable_tokens(self) -> list[Token]:
        """Return the tokens that are not retired.

        Raises
        ------
        AuthenticationError
            If all are.
        """
        usable = [token for token in self.tokens if not token.retired]
        if not usable:
            labels = ", ".join(token.label for token in self.tokens)
            raise AuthenticationError(
                f"GitHub refused the token{'s' if len(self.tokens) > 1 else ''} ending in {labels} (401 Bad "
                "credentials). Give valid ones in GITHUB_TOKENS."
            )
        return usable

    def accounts_in_use(self) -> dict[str, tuple[Token, Account]]:
        """Return the accounts of usable tokens by identity, each with its first token, in the order of the tokens."""
        in_use: dict[str, tuple[Token, Account]] = {}
        for token in self.tokens:
            if token.account is not None and not token.retired:
                in_use.setdefault(token.account.identity, (token, token.account))
        return in_use

    def unknown(self, resource: Resource, now: float) -> list[Token]:
        """Return the tokens whose account, or whose budget of a resource, has to be requested."""
        return [
            token
            for token in self.tokens
            if not token.retired
            and (token.account.budgets[resource].is_unknown if token.account else now >= token.identify_at)
        ]
