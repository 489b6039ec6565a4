"""How far a training is, within an epoch as well: with 300,000 users an epoch takes minutes."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

REPORT_SECONDS = 1.0
"""Shortest time between two reports."""


@dataclass(frozen=True)
class TrainingProgress:
    """The state of a training.

    Attributes
    ----------
    epoch, epochs : int
        The running epoch, from 1, and the maximum number of epochs.
    users, all_users : int
        Training users that are done in this epoch, and all. Where an epoch has several passes, a user counts in shares.
    seconds_left : float
        At most, as early stopping may need fewer epochs; infinite until the second batch: the first one compiles.
    """

    epoch: int
    epochs: int
    users: int
    all_users: int
    seconds_left: float

    def __str__(self) -> str:
        text = f"epoch {self.epoch}, {self.users:,} of {self.all_users:,} users"
        return text + (f", {at_most(self.seconds_left)}" if math.isfinite(self.seconds_left) else "")


def at_most(seconds: float) -> str:
    """Return a remaining time as text: ``at most 40 s left``, ``at most 12 min left``."""
    return f"at most {seconds:.0f} s left" if seconds < 120 else f"at most {seconds / 60:.0f} min left"


class ProgressMeter:
    """Counts users of a training, and reports at most once in `REPORT_SECONDS`.

    Parameters
    ----------
    report : callable
        Called with a `TrainingProgress`.
    users : int
        Training users.
    passes : int
        Passes over the users in an epoch.
    done, epochs : int
        Epochs that were trained before, and the maximum.
    clock : callable
        Returns seconds.
    """

    def __init__(
        self,
        report: Callable[[TrainingProgress], None],
        users: int,
        passes: int,
        done: int,
        epochs: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report, self._clock = report, clock
        self._users, self._passes, self._done, self._epochs = users, passes, done, epochs
        self._epoch = self._visits = 0
        self._began: tuple[float, float] | None = None  # seconds and epochs trained after the first batch
        self._reported = -math.inf

    def begin_epoch(self, epoch: int) -> None:
        """Count the users of another epoch."""
        self._epoch, self._visits = epoch, 0
        self.count(0)

    def count(self, users: int) -> None:
        """Count the users of a batch."""
        self._visits += users
        now = self._clock()
        share = self._visits / (self._users * self._passes)
        trained = self._epoch - 1 + share - self._done
        if self._began is None and users:
            self._began = now, trained
        if now - self._reported < REPORT_SECONDS:
            return
        self._reported = now
        left = math.inf
        if self._began is not None and trained > self._began[1]:
            left = (now - self._began[0]) * (self._epochs - self._done - trained) / (trained - self._began[1])
        done = int(share * self._users)
        self._report(TrainingProgress(self._epoch, self._epochs, done, self._users, left))
