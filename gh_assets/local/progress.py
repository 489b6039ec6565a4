"""Progress of a run: assets report here, and the process that runs them may show it on its terminal."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ProgressListener = Callable[[str, int, int, str], None]
"""Called with the step's name, the units that are done, their total, and a description of the state."""

REPEAT_SECONDS = 5.0
"""After how many seconds without another report `repeated` repeats the last one."""


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


@contextmanager
def repeated(report: ProgressListener, seconds: float = REPEAT_SECONDS) -> Iterator[ProgressListener]:
    """Yield a listener whose last report is repeated, with the seconds since, until there is another one.

    This is for work that says nothing while it lasts: without it, half a minute of linear algebra looks like a hang.
    """
    changed = threading.Condition()
    last: tuple[str, int, int, str] | None = None
    ended = False

    def heard(step: str, done: int, total: int, text: str = "") -> None:
        nonlocal last
        with changed:
            last = step, done, total, text
            report(*last)
            changed.notify()

    def repeat() -> None:
        with changed:
            reported, since = last, time.monotonic()
            while not ended:
                if changed.wait(seconds) or last is None:
                    if last is not reported:
                        reported, since = last, time.monotonic()
                    continue
                step, done, total, text = last
                report(step, done, total, f"{text}, {time.monotonic() - since:.0f} s")

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        with changed:
            ended = True
            changed.notify()
        thread.join()
