"""Progress of a run: assets report here, and the process that runs them may show it on its terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ProgressListener = Callable[[str, int, int, str], None]
"""Called with the step's name, the units that are done, their total, and a description of the state."""


@dataclass(frozen=True)
class Progress:
    """Receiver of progress; by default, one that ignores it.

    Attributes
    ----------
    report : ProgressListener
    notify : callable
        Called with a sentence for the user.
    """

    report: ProgressListener = lambda step, done, total, text: None
    notify: Callable[[str], None] = lambda text: None


_process_progress = Progress()


def report(step: str, done: int, total: int, text: str = "") -> None:
    """Report the progress of a step to this process's receiver."""
    _process_progress.report(step, done, total, text)


def notify(text: str) -> None:
    """Show a sentence to the user of this process's terminal."""
    _process_progress.notify(text)


@contextmanager
def use_progress(progress: Progress) -> Iterator[None]:
    """Make `progress` the receiver of this process during the block."""
    # Dagster runs steps in threads of its own: a context variable would not reach them.
    global _process_progress
    before, _process_progress = _process_progress, progress
    try:
        yield
    finally:
        _process_progress = before
