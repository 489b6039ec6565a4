"""A bounded number of workers over an iterable of any length: memory stays flat, cancellation reaches all."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue
from typing import TypeVar

GRACE = 3.0
"""Seconds to wait after Ctrl-C for calls that are still running."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def workers_of(count: int, name: str, initializer: Callable[[], object] | None = None) -> Iterator[ThreadPoolExecutor]:
    """Open a thread pool that is joined at the end of the block, or abandoned if the block raises.

    Ctrl-C and the cancellation of a Dagster run must reach the caller at once, because only the caller can cancel the
    GitHub client: a worker may be waiting an hour for new quota.
    """
    executor = ThreadPoolExecutor(count, name, initializer)
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


def map_bounded(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, *, window: int | None = None
) -> Iterator[Result]:
    """Apply a function to items in threads, and yield the results in order of completion.

    After an exception in `function` or `items` no further call is started. The results of running calls are still
    yielded before the first exception is raised, so that no finished work is lost. After Ctrl-C, calls that take
    longer than `GRACE` seconds are abandoned.

    Parameters
    ----------
    function : callable
    items : iterable
        Consumed lazily.
    workers : int
        Number of threads.
    window : int, optional
        Maximum number of items taken from `items` and not yet yielded; by default four times `workers`.
    """
    source, limit = iter(items), window or workers * 4
    running: set[Future[Result]] = set()
    ended: SimpleQueue[Future[Result]] = SimpleQueue()
    failure: Exception | None = None
    with workers_of(workers, "gh-assets") as executor:
        while True:
            try:
                try:
                    for item in islice(source, limit - len(running) if failure is None else 0):
                        call = executor.submit(function, item)
                        running.add(call)
                        call.add_done_callback(ended.put)
                except Exception as error:  # noqa: BLE001 - of `items`; raised after the remaining results
                    failure = error
                if not running:
                    break
                call = ended.get()
                running.discard(call)
                result = call.result()
            except Exception as error:  # noqa: BLE001 - raised after the remaining results
                failure = failure or error
                _cancel(running)
            except BaseException:
                # It came between any two lines, so a call that is in `running` need not come into `ended`.
                _cancel(running)
                for call in wait(running, GRACE).done:
                    if not call.cancelled() and call.exception() is None:
                        yield call.result()
                raise
            else:
                yield result
        if failure is not None:
            raise failure


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    *,
    initializer: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """Apply a function to items in threads, and yield the results in the order of the items.

    Parameters
    ----------
    function : callable
    items : iterable
        Consumed lazily: at most one more than `workers` is ahead of what was yielded.
    workers : int
        Number of threads.
    initializer : callable, optional
        Called in each thread before its first item.
    """
    with workers_of(workers, "gh-assets", initializer) as executor:
        ahead: deque[Future[Result]] = deque()
        for item in items:
            ahead.append(executor.submit(function, item))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _cancel(calls: Iterable[Future[Result]]) -> None:
    for call in calls:
        call.cancel()
