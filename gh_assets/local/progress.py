"""Telling the terminal how far a run is. Assets report here; whoever runs them may listen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

ProgressListener = Callable[[str, int, int, str], None]
"""Called with the asset's name, what is done, what there is in all, and words about it."""

_process_listener: ProgressListener | None = None
_process_sayer: Callable[[str], None] | None = None


def report(asset: str, done: int, total: int, words: str = "") -> None:
    """Tell the listener of this process, if there is one."""
    if _process_listener is not None:
        _process_listener(asset, done, total, words)


def say(words: str) -> None:
    """Tell the person at this process's terminal, if there is one, a whole sentence."""
    if _process_sayer is not None:
        _process_sayer(words)


@contextmanager
def use_progress(listener: ProgressListener, notify: Callable[[str], None]) -> Iterator[None]:
    """Let `listener` hear all reports of this process during the block, and `notify` all sentences."""
    # Dagster runs steps in threads of its own: a context variable would not reach them.
    global _process_listener, _process_sayer
    before = _process_listener, _process_sayer
    _process_listener, _process_sayer = listener, notify
    try:
        yield
    finally:
        _process_listener, _process_sayer = before
