"""Tests of the bounded map over threads."""

import sys
import threading
from collections.abc import Iterator
from itertools import count
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.local import concurrency
from gh_assets.local.concurrency import map_bounded, map_in_order


@given(st.lists(st.integers(), max_size=40), st.integers(1, 5), st.none() | st.integers(1, 9))
def test_every_item_has_one_result(items: list[int], workers: int, window: int | None) -> None:
    results = list(map_bounded(lambda item: item * 2, items, workers, window=window))
    assert sorted(results) == sorted(item * 2 for item in items)


@given(st.lists(st.integers(), max_size=40), st.integers(1, 5))
def test_results_in_order_belong_to_the_items(items: list[int], workers: int) -> None:
    assert list(map_in_order(lambda item: item * 2, items, workers)) == [item * 2 for item in items]


def test_items_in_order_are_taken_lazily_by_initialized_threads() -> None:
    taken: list[int] = []
    initialized = threading.local()

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    def call(number: int) -> int:
        assert initialized.yes
        return number

    results = map_in_order(call, items(), 2, initializer=lambda: setattr(initialized, "yes", True))
    for done, result in enumerate(results):
        assert result == done
        assert len(taken) <= done + 3


def test_exception_of_a_call_in_order_is_raised_in_its_place() -> None:
    results = map_in_order(lambda number: 1 // (number - 2), range(5), 2)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


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


class InterruptAtLine:
    """A trace function that interrupts `map_bounded` before its nth line, as Ctrl-C can at any time."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: FrameType, event: str, _: object) -> "InterruptAtLine | None":
        if frame.f_code is not map_bounded.__code__:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def results_until_interrupt(line: int, done: list[int], results: list[int], ends: list[str]) -> None:
    def call(item: int) -> int:
        done.append(item)
        return item

    sys.settrace(InterruptAtLine(line))
    try:
        for result in map_bounded(call, range(6), 2, window=3):
            results.append(result)
        ends.append("finished")
    except KeyboardInterrupt:
        ends.append("interrupted")
    finally:
        sys.settrace(None)


def test_an_interruption_at_any_line_ends_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "GRACE", 0.05)
    for line in count(1):
        done: list[int] = []
        results: list[int] = []
        ends: list[str] = []
        caller = threading.Thread(target=results_until_interrupt, args=(line, done, results, ends), daemon=True)
        caller.start()
        caller.join(10)
        assert ends, f"it waits forever after an interruption before line event {line}"
        assert len(results) == len(set(results)), "a result is yielded twice"
        if ends == ["finished"]:
            assert line > 20, "the trace function did not see the function"
            return
