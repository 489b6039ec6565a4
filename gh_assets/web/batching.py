"""Batching of concurrent requests: scored together, the same lists take a fraction of the time each."""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from gh_assets.errors import GhAssetsError
from gh_assets.serving.requests import RecommendationRequest
from gh_assets.serving.snapshot import RecommendationList, ServingSnapshot
from gh_assets.web.metrics import Metrics

Result = TypeVar("Result")

MAX_BATCH_SIZE = 8
"""Maximum number of requests in a batch; in a larger one the first request would wait too long for the last."""

THREADS = 2
"""Batches that are processed at once, each on one core. More threads would wait for the interpreter lock."""

MAX_WAITING = 512
"""Maximum number of requests that wait for a batch."""


class BusyError(GhAssetsError):
    """Too many requests wait already."""


@dataclass
class _Pending:
    snapshot: ServingSnapshot
    request: RecommendationRequest
    result: asyncio.Future[RecommendationList]


class Batcher:
    """Process requests in threads, each time in one batch what has arrived in the meantime.

    A thread takes the next batch itself, because it would have to wait for the event loop to hand it one.

    Parameters
    ----------
    metrics : Metrics
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting: deque[_Pending] = deque()
        self._arrived = threading.Condition()
        self._closed = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="executor", initializer=_use_one_core)
        for number in range(min(THREADS, os.cpu_count() or 1)):
            threading.Thread(target=self._work, name=f"batches-{number}", daemon=True).start()

    async def recommend(self, snapshot: ServingSnapshot, request: RecommendationRequest) -> RecommendationList:
        """Process a request with a snapshot.

        Raises
        ------
        BusyError
            If too many requests wait already.
        """
        pending = _Pending(snapshot, request, asyncio.get_running_loop().create_future())
        with self._arrived:
            if self._closed or len(self._waiting) >= MAX_WAITING:
                raise BusyError("The server is busy. Try again in a few seconds.")
            self._waiting.append(pending)
            self._arrived.notify()
        return await pending.result

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run other work that takes processor time in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Stop the threads when the waiting requests are processed."""
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _work(self) -> None:
        _use_one_core()
        while batch := self._next_batch():
            self._metrics.batch.observe(len(batch))
            outcome: list[RecommendationList] | Exception
            try:
                outcome = batch[0].snapshot.recommend_batch([pending.request for pending in batch])
            except Exception as error:  # noqa: BLE001 - the waiting requests raise it
                outcome = error
            # One call a batch: each call wakes the event loop.
            batch[0].result.get_loop().call_soon_threadsafe(_deliver, batch, outcome)
            del batch, outcome  # while the thread waits, it must not keep a replaced snapshot in memory

    def _next_batch(self) -> list[_Pending]:
        """Wait for requests; return those at the front that use the same snapshot, or none when closed."""
        with self._arrived:
            while True:
                batch: list[_Pending] = []
                while self._waiting and len(batch) < MAX_BATCH_SIZE:
                    if self._waiting[0].result.done():
                        self._waiting.popleft()  # its client has disconnected
                    elif batch and self._waiting[0].snapshot is not batch[0].snapshot:
                        break
                    else:
                        batch.append(self._waiting.popleft())
                if batch or self._closed:
                    return batch
                self._arrived.wait()


def _deliver(batch: list[_Pending], outcome: list[RecommendationList] | Exception) -> None:
    for place, pending in enumerate(batch):
        if pending.result.done():
            continue
        if isinstance(outcome, Exception):
            pending.result.set_exception(outcome)
        else:
            pending.result.set_result(outcome[place])


def _use_one_core() -> None:
    """Run the matrix products of this thread on one core: for small ones two threads are slower."""
    torch.set_num_threads(1)  # applies to the calling thread
