"""Exponential backoff with jitter: how long to wait before something is tried again."""

import random
from dataclasses import dataclass

MAX_DOUBLINGS = 60
"""Larger exponents change nothing but overflow."""


@dataclass(frozen=True)
class Backoff:
    """Waits that double with each attempt.

    Parameters
    ----------
    first : float
        Seconds before the first repetition, without jitter.
    longest : float
        Upper limit of the seconds, without jitter.
    jitter : tuple of float
        Bounds of the factor that is drawn for each wait, so that many callers do not come back at the same moment.
    """

    first: float
    longest: float = float("inf")
    jitter: tuple[float, float] = (1.0, 1.0)

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait before repetition number `attempt`, which is 1 for the first."""
        seconds = min(self.longest, self.first * 2.0 ** min(attempt - 1, MAX_DOUBLINGS))
        return seconds * random.uniform(*self.jitter)  # noqa: S311 - no secret depends on it
