"""Questions that come at the same time are scored together: the same lists, for a fraction of the time each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from gh_assets.desk import Answer, Case, Desk
from gh_assets.errors import GhAssetsError
from gh_assets.web.metrics import Metrics

Result = TypeVar("Result")

TOGETHER = 16
"""Lists scored at once at most: more would make the first wait for the last."""

MOST_WAITING = 512


class BusyError(GhAssetsError):
    """More is asked for than can be answered in time."""


@dataclass
class _Waiting:
    desk: Desk
    case: Case
    answer: asyncio.Future[Answer]


class Batcher:
    """Answers questions in a thread of its own, in batches of whatever has come meanwhile.

    Parameters
    ----------
    metrics : Metrics
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._working = False

    async def answer(self, desk: Desk, case: Case) -> Answer:
        """Answer a question by one desk: the model, the names and the reasons are of the same moment.

        Raises
        ------
        BusyError
            If too many wait already.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise BusyError("Too much is asked for at once: try again in a few seconds.")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(desk, case, loop.create_future())
        self._waiting.append(waiting)
        if not self._working:
            self._work(loop)
        return await waiting.answer

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do other work that needs the processor where answers are worked out."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take what waits for one desk, and go on when it is answered."""
        while self._waiting and self._waiting[0].answer.done():
            self._waiting.popleft()  # whoever asked has gone
        if not self._waiting:
            self._working = False
            return
        self._working = True
        batch = [self._waiting.popleft()]
        while len(batch) < TOGETHER and self._waiting and self._waiting[0].desk is batch[0].desk:
            batch.append(self._waiting.popleft())
        self._metrics.batch.observe(len(batch))
        work = loop.run_in_executor(self._thread, batch[0].desk.answers, [entry.case for entry in batch])
        work.add_done_callback(lambda done: self._tell(loop, batch, done))

    def _tell(self, loop: asyncio.AbstractEventLoop, batch: list[_Waiting], done: asyncio.Future[list[Answer]]) -> None:
        error = None if done.cancelled() else done.exception()
        for place, entry in enumerate(batch):
            if entry.answer.done():
                continue
            if done.cancelled():
                entry.answer.cancel()
            elif error is not None:
                entry.answer.set_exception(error)
            else:
                entry.answer.set_result(done.result()[place])
        self._work(loop)
