"""Telling the terminal how far a run is. Assets report here; whoever runs them may listen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str, int, int, str], None]
"""Called with the asset's name, what is done, what there is in all, and words about it."""

_process_listener: Listener | None = None


def report(asset: str, done: int, total: int, words: str = "") -> None:
    """Tell the listener of this process, if there is one."""
    if _process_listener is not None:
        _process_listener(asset, done, total, words)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let `listener` hear all reports of this process during the block."""
    global _process_listener  # Dagster runs steps in threads of its own: a context variable would not reach them
    before, _process_listener = _process_listener, listener
    try:
        yield
    finally:
        _process_listener = before
