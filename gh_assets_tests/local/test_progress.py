"""Tests of the progress of a process."""

import threading
from contextlib import suppress

from gh_assets.local import progress
from gh_assets.local.progress import Progress, use_progress


def test_reports_reach_the_receiver_from_every_thread_until_the_block_ends() -> None:
    reports: list[tuple[str, int, int, str]] = []
    sentences: list[str] = []

    def work() -> None:
        progress.report("repos", 1, 2, "half")
        progress.notify("Half of it is done.")

    with use_progress(Progress(lambda *report: reports.append(report), sentences.append)):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    work()
    assert reports == [("repos", 1, 2, "half")]
    assert sentences == ["Half of it is done."]


def test_receiver_of_the_outer_block_returns_after_an_inner_one_failed() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with use_progress(Progress(notify=outer.append)):
        with suppress(ValueError), use_progress(Progress(notify=inner.append)):
            progress.notify("one")
            raise ValueError
        progress.notify("two")
    assert (outer, inner) == (["two"], ["one"])
