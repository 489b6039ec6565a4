"""A bounded number of workers over an iterable of any length: memory stays flat, cancellation reaches all."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

GRACE = 3.0
"""Seconds to wait after Ctrl-C for calls that are still running."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def workers_of(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Open a thread pool that is joined at the end of the block, or abandoned if the block raises.

    Ctrl-C and the cancellation of a Dagster run must reach the caller at once, because only the caller can cancel the
    GitHub client: a worker may be waiting an hour for new quota.
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
    with workers_of(workers, "gh-assets") as executor:
        calls = _Calls(executor, function, iter(items), window or workers * 4)
        calls.submit()
        while calls.running:
            try:
                future = calls.next_ended()
            except Empty:
                break
            except BaseException as error:  # noqa: BLE001 - raised after the remaining results
                calls.fail(error)
                continue
            if not future.cancelled():
                error_of_call = future.exception()
                if error_of_call is None:
                    yield future.result()
                else:
                    calls.fail(error_of_call)
            calls.submit()
        if calls.failure is not None:
            raise calls.failure


class _Calls(Generic[Item, Result]):
    """The calls of `map_bounded` that have not been yielded, and the first failure."""

    def __init__(
        self, executor: ThreadPoolExecutor, function: Callable[[Item], Result], source: Iterator[Item], window: int
    ) -> None:
        self.running: set[Future[Result]] = set()
        self.failure: BaseException | None = None
        self._executor, self._function, self._source, self._window = executor, function, source, window
        self._ended: SimpleQueue[Future[Result]] = SimpleQueue()
        self._exhausted = False

    def submit(self) -> None:
        """Submit calls until the window is full, unless a call has failed."""
        while self.failure is None and not self._exhausted and len(self.running) < self._window:
            try:
                future = self._executor.submit(self._function, next(self._source))
            except StopIteration:
                self._exhausted = True
            except BaseException as error:  # noqa: BLE001 - raised after the remaining results
                self.failure = error
            else:
                self.running.add(future)
                future.add_done_callback(self._ended.put)

    def next_ended(self) -> Future[Result]:
        """Wait for the end of a call; after Ctrl-C, raise `Empty` if that takes longer than `GRACE`."""
        interrupted = self.failure is not None and not isinstance(self.failure, Exception)
        future = self._ended.get(timeout=GRACE if interrupted else None)
        self.running.discard(future)
        return future

    def fail(self, error: BaseException) -> None:
        """Keep the first failure, and cancel the calls that have not started."""
        self.failure = self.failure or error
        for future in list(self.running):
            future.cancel()
