"""A bounded number of workers over an iterable of any length: memory stays flat, cancellation reaches all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
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
    running: set[Future[Result]] = set()
    ended: SimpleQueue[Future[Result]] = SimpleQueue()
    failure: BaseException | None = None
    exhausted = False

    def give_up(error: BaseException) -> None:
        nonlocal failure
        failure = failure or error
        for future in list(running):
            future.cancel()

    with workers_of(workers, "gh-assets") as executor:
        while True:
            while failure is None and not exhausted and len(running) < window:
                try:
                    future = executor.submit(function, next(source))
                except StopIteration:
                    exhausted = True
                except BaseException as error:  # noqa: BLE001 - raised below, when the results are out
                    failure = error
                else:
                    running.add(future)
                    future.add_done_callback(ended.put)
            if not running:
                break
            stopped = failure is not None and not isinstance(failure, Exception)
            try:
                future = ended.get(timeout=GRACE if stopped else None)
            except Empty:
                break
            except BaseException as error:  # noqa: BLE001
                give_up(error)
                continue
            running.discard(future)
            if future.cancelled():
                continue
            fault = future.exception()
            if fault is None:
                yield future.result()
            else:
                give_up(fault)
        if failure is not None:
            raise failure
