"""Requests that arrive together are processed together, and each gets its own result or error."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from gh_assets.serving.requests import RecommendationRequest
from gh_assets.web import batching
from gh_assets.web.batching import MAX_BATCH_SIZE, Batcher, BusyError
from gh_assets.web.metrics import Metrics


class SlowSnapshot:
    """Returns the title of each request, once it is released."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered, self.release = threading.Event(), threading.Event()

    def recommend_batch(self, requests: Sequence[RecommendationRequest]) -> list[str]:
        self.batches.append([request.title for request in requests])
        self.entered.set()
        assert self.release.wait(30)
        if any(request.title == "wrong" for request in requests):
            raise ValueError("a wrong request")
        return [request.title for request in requests]


@pytest.fixture
def batcher(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A batcher with one thread, so that requests wait while it is busy."""
    monkeypatch.setattr(batching, "THREADS", 1)
    batcher: Any = Batcher(Metrics())
    yield batcher
    batcher.close()


def request(title: object) -> RecommendationRequest:
    return RecommendationRequest(title=str(title))


async def begin(batcher: Any, snapshot: SlowSnapshot) -> asyncio.Task[str]:
    """Keep the thread of a batcher busy with a request."""
    first = asyncio.create_task(batcher.recommend(snapshot, request("first")))
    await asyncio.to_thread(snapshot.entered.wait, 30)
    return first


def test_waiting_requests_are_processed_in_batches(batcher: Any) -> None:
    snapshot, other = SlowSnapshot(), SlowSnapshot()
    other.release.set()

    async def run() -> None:
        tasks = [await begin(batcher, snapshot)]
        tasks += [asyncio.create_task(batcher.recommend(snapshot, request(number))) for number in range(10)]
        tasks += [asyncio.create_task(batcher.recommend(other, request("other")))]
        await asyncio.sleep(0)
        snapshot.release.set()
        assert await asyncio.gather(*tasks) == ["first", *map(str, range(10)), "other"]

    asyncio.run(run())
    assert [len(batch) for batch in snapshot.batches] == [1, MAX_BATCH_SIZE, 10 - MAX_BATCH_SIZE]
    assert other.batches == [["other"]], "a batch is of one snapshot"


def test_error_reaches_every_request_of_its_batch(batcher: Any) -> None:
    snapshot = SlowSnapshot()

    async def run() -> None:
        first = await begin(batcher, snapshot)
        tasks = [asyncio.create_task(batcher.recommend(snapshot, request(title))) for title in ("right", "wrong")]
        await asyncio.sleep(0)
        snapshot.release.set()
        assert await first == "first"
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(result) for result in results] == ["a wrong request"] * 2
        assert await batcher.recommend(snapshot, request("next")) == "next", "the thread continues"

    asyncio.run(run())


def test_cancelled_request_is_not_processed(batcher: Any) -> None:
    snapshot = SlowSnapshot()

    async def run() -> None:
        first = await begin(batcher, snapshot)
        gone = asyncio.create_task(batcher.recommend(snapshot, request("gone")))
        last = asyncio.create_task(batcher.recommend(snapshot, request("last")))
        await asyncio.sleep(0)
        gone.cancel()
        first.cancel()
        await asyncio.sleep(0)
        snapshot.release.set()
        assert await last == "last"

    asyncio.run(run())
    assert snapshot.batches == [["first"], ["last"]]


def test_full_queue_and_closed_batcher_are_busy(batcher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_WAITING", 1)
    snapshot = SlowSnapshot()

    async def run() -> None:
        first = await begin(batcher, snapshot)
        waiting = asyncio.create_task(batcher.recommend(snapshot, request("waiting")))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await batcher.recommend(snapshot, request("too many"))
        batcher.close()
        snapshot.release.set()
        assert [await first, await waiting] == ["first", "waiting"], "requests that wait are still processed"
        with pytest.raises(BusyError):
            await batcher.recommend(snapshot, request("too late"))

    asyncio.run(run())
