"""A bounded number of workers over an iterable of any length: memory stays flat, cancellation reaches all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

GRACE = 3.0
"""Seconds that what is still running has after Ctrl-C."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def workers_of(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads for the length of a block, which ends when they have ended; after an exception it does not wait for them.

    Ctrl-C, and a run cancelled in Dagster, have to get through to whoever cancels the client: a worker may be waiting
    an hour for new quota.
    """
    executor = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


def map_bounded(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, *, window: int | None = None
) -> Iterator[Result]:
    """Yield the results as they come, in any order, with at most `window` items taken ahead.

    After an exception, of `function` or of `items`, nothing more is begun; what had begun ends, its results are still
    yielded, and then the first exception is raised: nothing that was done is lost. After Ctrl-C only what ends within
    `GRACE` seconds is waited for: the rest may be waiting for an hour.
    """
    window = window or workers * 4
    source = iter(items)
    pending: set[Future[Result]] = set()
    failure: BaseException | None = None
    exhausted = False
    with workers_of(workers, "gh-assets") as executor:
        while True:
            while failure is None and not exhausted and len(pending) < window:
                try:
                    pending.add(executor.submit(function, next(source)))
                except StopIteration:
                    exhausted = True
                except BaseException as error:  # noqa: BLE001 - raised below, when the results are out
                    failure = error
            if not pending:
                break
            stopped = failure is not None and not isinstance(failure, Exception)
            try:
                done, pending = wait(pending, timeout=GRACE if stopped else None, return_when=FIRST_COMPLETED)
            except BaseException as error:  # noqa: BLE001
                failure = failure or error
                pending = {other for other in pending if not other.cancel()}
                continue
            if not done:
                break
            for future in done:
                fault = None if future.cancelled() else future.exception()
                if fault is not None:
                    failure = failure or fault
                    pending = {other for other in pending if not other.cancel()}
                elif not future.cancelled():
                    yield future.result()
        if failure is not None:
            raise failure
