"""Tests of the progress of a process."""

import threading
from contextlib import suppress

from gh_assets.local import progress
from gh_assets.local.progress import Progress, repeated, use_progress


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


def test_a_state_is_repeated_with_its_age_until_another_one_comes() -> None:
    reports: list[tuple[str, int, int, str]] = []
    heard = threading.Semaphore(0)

    def report(step: str, done: int, total: int, text: str) -> None:
        reports.append((step, done, total, text))
        heard.release()

    with repeated(report, seconds=0.001) as say:
        say("leaderboard", 0, 2, "ease")
        for _ in range(3):
            assert heard.acquire(timeout=30)
        say("leaderboard", 1, 2, "ials")
        assert heard.acquire(timeout=30)
    count = len(reports)
    assert reports[0] == ("leaderboard", 0, 2, "ease")
    assert reports[1:3] == [("leaderboard", 0, 2, "ease, 0 s")] * 2
    second = reports.index(("leaderboard", 1, 2, "ials"))
    assert all(text.startswith("ials") for _, _, _, text in reports[second:])
    assert not any(thread.name == "progress" for thread in threading.enumerate())
    assert len(reports) == count
