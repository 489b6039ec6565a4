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

    After an exception, of `function` or of `items`, nothing more is begun; what had begun ends, its results are still
    yielded, and then the first exception is raised: nothing that was done is lost.
    """
    window = window or workers * 4
    source = iter(items)
    pending: set[Future[Result]] = set()
    failure: BaseException | None = None
    with ThreadPoolExecutor(workers, thread_name_prefix="gh-assets") as executor:
        try:
            exhausted = False
            while True:
                while failure is None and not exhausted and len(pending) < window:
                    try:
                        pending.add(executor.submit(function, next(source)))
                    except StopIteration:
                        exhausted = True
                    except Exception as error:  # noqa: BLE001 - raised below, when the results are out
                        failure = error
                if not pending:
                    break
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    fault = None if future.cancelled() else future.exception()
                    if fault is not None:
                        failure = failure or fault
                        pending = {other for other in pending if not other.cancel()}
                    elif not future.cancelled():
                        yield future.result()
            if failure is not None:
                raise failure
        finally:
            for future in pending:
                future.cancel()
