"""Token buckets: limits on how often something may happen, with a burst of the bucket's capacity."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class TokenBucket:
    """A thread-safe token bucket, full at first, which refills at a constant rate.

    Parameters
    ----------
    capacity : float
        Maximum number of tokens.
    per_second : float
        Tokens that are added in a second.
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, capacity: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity, self.per_second, self._clock = float(capacity), per_second, clock
        self._level, self._updated = self.capacity, clock()
        self._lock = threading.Lock()

    def take(self, tokens: float = 1) -> float:
        """Take all of `tokens`, or none of them.

        Returns
        -------
        float
            0 if the tokens were taken; otherwise the seconds until they are available, which are infinite if they
            exceed the capacity.
        """
        with self._lock:
            now = self._clock()
            self._level = min(self.capacity, self._level + (now - self._updated) * self.per_second)
            self._updated = now
            if self._level >= tokens:
                self._level -= tokens
                return 0.0
            if tokens > self.capacity or self.per_second <= 0:
                return math.inf
            return (tokens - self._level) / self.per_second

    def give_back(self, tokens: float) -> None:
        """Return tokens that were taken and not used."""
        with self._lock:
            self._level = min(self.capacity, self._level + tokens)


class KeyedTokenBuckets:
    """One token bucket for each key, of which the least recently used are dropped.

    Parameters
    ----------
    capacity, per_second, clock
        Those of every bucket: see `TokenBucket`.
    max_keys : int
        Number of buckets that are kept. A key whose bucket was dropped starts with a full one.
    """

    def __init__(
        self, capacity: float, per_second: float, max_keys: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity, self.per_second, self.max_keys, self._clock = capacity, per_second, max_keys, clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str, tokens: float = 1) -> float:
        """Take tokens from a key's bucket; see `TokenBucket.take`."""
        with self._lock:
            bucket = self._buckets.setdefault(key, TokenBucket(self.capacity, self.per_second, self._clock))
            self._buckets.move_to_end(key)
            if len(self._buckets) > self.max_keys:
                self._buckets.popitem(last=False)
        return bucket.take(tokens)
