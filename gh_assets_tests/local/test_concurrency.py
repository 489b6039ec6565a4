"""Tests of the bounded map over threads."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gh_assets.local import concurrency
from gh_assets.local.concurrency import map_bounded


@settings(deadline=None)
@given(st.lists(st.integers(), max_size=40), st.integers(1, 5), st.none() | st.integers(1, 9))
def test_every_item_has_one_result(items: list[int], workers: int, window: int | None) -> None:
    results = list(map_bounded(lambda item: item * 2, items, workers, window=window))
    assert sorted(results) == sorted(item * 2 for item in items)


def test_items_are_taken_lazily() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = map_bounded(lambda number: number, items(), 2, window=5)
    for done, _ in enumerate(results, start=1):
        assert len(taken) <= done + 5


def test_results_of_running_calls_precede_the_first_exception_and_no_call_is_started_after_it() -> None:
    failed, started = threading.Event(), []

    def call(number: int) -> int:
        started.append(number)
        if number == 1:
            failed.set()
            raise ValueError("one")
        failed.wait(10)
        return number

    results = map_bounded(call, range(100), 2, window=4)
    yielded: list[int] = []
    with pytest.raises(ValueError, match="one"):
        yielded.extend(results)
    assert sorted([*yielded, 1]) == sorted(started)
    assert len(started) <= 4


def test_exception_of_the_items_is_raised_after_the_results() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("no more")

    results: list[int] = []
    with pytest.raises(ValueError, match="no more"):
        results.extend(map_bounded(lambda number: number, items(), 2))
    assert sorted(results) == [1, 2]


def test_interruption_abandons_calls_that_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "GRACE", 0.05)
    begun, released, finished = threading.Event(), threading.Event(), []

    def call(number: int) -> int:
        if number == 0:
            begun.set()
            released.wait(30)
            finished.append(number)
            return number
        begun.wait(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(map_bounded(call, range(2), 2))
    assert finished == [], "the call is still running"
    released.set()
