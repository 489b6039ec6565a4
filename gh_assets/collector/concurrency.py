"""A bounded number of workers over an iterable of any length: memory stays flat, cancellation reaches all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_bounded(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, *, window: int | None = None
) -> Iterator[Result]:
    """Yield the results as they come, in any order, with at most `window` items taken ahead.

    An exception of `function` ends the iteration and is raised; what has not begun is then not begun.
    """
    window = window or workers * 4
    source = iter(items)
    pending: set[Future[Result]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="gh-assets") as executor:
        try:
            exhausted = False
            while True:
                while not exhausted and len(pending) < window:
                    try:
                        pending.add(executor.submit(function, next(source)))
                    except StopIteration:
                        exhausted = True
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            for future in pending:
                future.cancel()
