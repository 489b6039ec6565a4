"""Questions that come at the same time are scored together: the same lists, for a fraction of the time each."""

from __future__ import annotations

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
"""Lists scored at once at most: more would make the first wait for the last."""

THREADS = 2
"""Batches that are worked on at once, each on a processor of its own. More would wait for the interpreter."""

MAX_WAITING = 512


class BusyError(GhAssetsError):
    """More is asked for than can be answered in time."""


@dataclass
class _Pending:
    snapshot: ServingSnapshot
    wanted: RecommendationRequest
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[RecommendationList]


class Batcher:
    """Answers questions in threads of its own, in batches of whatever has come meanwhile.

    A thread that is done takes the next batch by itself: going by way of the event loop it would wait for whatever that
    is at.

    Parameters
    ----------
    metrics : Metrics
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting: deque[_Pending] = deque()
        self._some = threading.Condition()
        self._closed = False
        self._others = ThreadPoolExecutor(1, thread_name_prefix="other", initializer=_on_one_processor)
        for number in range(min(THREADS, os.cpu_count() or 1)):
            threading.Thread(target=self._work, name=f"answers-{number}", daemon=True).start()

    async def answer(self, snapshot: ServingSnapshot, wanted: RecommendationRequest) -> RecommendationList:
        """Answer a question by one desk: the model, the names and the reasons are of the same moment.

        Raises
        ------
        BusyError
            If too many wait already.
        """
        loop = asyncio.get_running_loop()
        waiting = _Pending(snapshot, wanted, loop, loop.create_future())
        with self._some:
            if self._closed or len(self._waiting) >= MAX_WAITING:
                raise BusyError("Too much is asked for at once: try again in a few seconds.")
            self._waiting.append(waiting)
            self._some.notify()
        return await waiting.answer

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do other work that takes a processor for a while, beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._others, work)

    def close(self) -> None:
        """Take no more."""
        with self._some:
            self._closed = True
            self._some.notify_all()
        self._others.shutdown(wait=False, cancel_futures=True)

    def _work(self) -> None:
        _on_one_processor()
        while batch := self._next():
            self._metrics.batch.observe(len(batch))
            try:
                found: list[RecommendationList] | BaseException = batch[0].snapshot.recommend_batch(
                    [entry.wanted for entry in batch]
                )
            except Exception as error:  # noqa: BLE001 - whatever it is: whoever asked is told, and the thread goes on
                found = error
            batch[0].loop.call_soon_threadsafe(_tell, batch, found)
            del batch, found  # a desk that was replaced is not held on to while nobody asks

    def _next(self) -> list[_Pending]:
        """What waits for one desk; empty at the end."""
        with self._some:
            while True:
                while self._waiting and self._waiting[0].answer.done():
                    self._waiting.popleft()  # whoever asked has gone
                if self._waiting or self._closed:
                    break
                self._some.wait()
            batch: list[_Pending] = []
            while self._waiting and len(batch) < MAX_BATCH_SIZE:
                if batch and self._waiting[0].snapshot is not batch[0].snapshot:
                    break
                batch.append(self._waiting.popleft())
            return batch


def _tell(batch: list[_Pending], found: list[RecommendationList] | BaseException) -> None:
    for place, entry in enumerate(batch):
        if entry.answer.done():
            continue
        if isinstance(found, BaseException):
            entry.answer.set_exception(found)
        else:
            entry.answer.set_result(found[place])


def _on_one_processor() -> None:
    """Small products are not worth sharing: two threads of one batch would wait for each other, spinning."""
    torch.set_num_threads(1)  # counts for the thread that calls it
