"""Feedback reaches MongoDB as messages of the ingest format, and no acknowledged entry is lost."""

import itertools
import os
import textwrap
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gh_assets.storage.consumer import Consumer
from gh_assets.storage.messages import Message
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.web.feedback import Feedback, JournalError, Verdict
from gh_assets_tests.support.commands import script
from gh_assets_tests.support.waiting import until


def stored(database: MongoDatabase) -> dict[str, str]:
    return {document["_id"]: document["said"]["verdict"] for document in database["feedback"].find()}


def lines(folder: Path) -> list[bytes]:
    paths = [path for path in folder.iterdir() if path.suffix in (".jsonl", ".shipping")]
    return [line for path in paths for line in path.read_bytes().splitlines()]


def test_feedback_is_a_message_that_any_consumer_applies(tmp_path: Path, database: MongoDatabase) -> None:
    with closing(Feedback(tmp_path, lambda: None)) as feedback:
        feedback.record("someone", 7, "o/r", "not_interested")
        feedback.record("someone", 8, "o/s", "known")
        assert feedback.verdicts_of("someone") == {7: ("not_interested", "o/r"), 8: ("known", "o/s")}
    written = lines(tmp_path)
    assert [Message.parse(line).to_json() for line in written] == written
    counts = Consumer(database).apply(written)
    assert (counts.inserted, counts.dead) == (2, 0)
    assert stored(database) == {"someone:7": "not_interested", "someone:8": "known"}


def test_feedback_waits_until_mongodb_is_reachable(tmp_path: Path, database: MongoDatabase) -> None:
    reachable: list[MongoDatabase] = []
    unshipped: list[int] = []
    feedback = Feedback(tmp_path, lambda: reachable[0] if reachable else None, unshipped.append)
    feedback.record("a", 1, "o/r", "known")
    feedback.ship()
    assert len(lines(tmp_path)) == 1
    reachable.append(database)
    feedback.start()
    feedback.record("a", 2, "o/s", "known")
    until(lambda: stored(database) == {"a:1": "known", "a:2": "known"})
    until(lambda: lines(tmp_path) == [])
    until(lambda: unshipped[-1] == 0)
    feedback.close()
    with closing(Feedback(tmp_path, lambda: database)) as another:  # which reads them from MongoDB
        assert another.verdicts_of("a") == {1: ("known", "o/r"), 2: ("known", "o/s")}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entries=st.lists(
        st.tuples(st.sampled_from(["p", "q"]), st.integers(1, 4), st.sampled_from(["known", "none", "not_interested"])),
        max_size=25,
    ),
    ships=st.sets(st.integers(0, 25)),
)
def test_last_verdicts_count_whenever_they_are_shipped_and_none_withdraws_them(
    tmp_path_factory: pytest.TempPathFactory,
    database: MongoDatabase,
    entries: list[tuple[str, int, Verdict]],
    ships: set[int],
) -> None:
    database["feedback"].delete_many({})
    feedback = Feedback(tmp_path_factory.mktemp("journal"), lambda: database)
    restarted = Feedback(tmp_path_factory.mktemp("journal"), lambda: database)
    expected: dict[str, str] = {}
    for number, (visitor_id, repo_id, verdict) in enumerate(entries):
        feedback.record(visitor_id, repo_id, "o/r", verdict)
        expected[f"{visitor_id}:{repo_id}"] = verdict
        if number in ships:
            feedback.ship()
    feedback.ship()
    assert stored(database) == expected
    for visitor_id in ("p", "q"):
        visible = {int(key.split(":")[1]): v for key, v in expected.items() if key[0] == visitor_id and v != "none"}
        for server in (feedback, restarted):
            assert {repo_id: verdict for repo_id, (verdict, _) in server.verdicts_of(visitor_id).items()} == visible
    feedback.close()
    restarted.close()


def test_acknowledged_feedback_of_a_killed_server_is_shipped_by_the_next(
    tmp_path: Path, database: MongoDatabase
) -> None:
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from gh_assets.web.feedback import Feedback
        feedback = Feedback(Path(sys.argv[1]), lambda: None)
        for number in range(10_000):
            feedback.record("killed", number, "o/r", "known")
            print(number, flush=True)
    """)
    with script(program, tmp_path) as child:
        assert child.stdout is not None
        acknowledged = set(itertools.islice(child.stdout, 50))
        child.kill()
        acknowledged |= set(child.stdout)
    with closing(Feedback(tmp_path, lambda: database)) as feedback:
        feedback.ship()
        assert {f"killed:{number.strip()}" for number in acknowledged} <= set(stored(database))
        assert database["dead_letters"].count_documents({}) == 0
        assert lines(tmp_path) == []
        suffixes = [path.suffix for path in tmp_path.iterdir()]
        assert suffixes == [".lock"], "journal and lock of the killed server are removed"


def test_journal_of_a_running_server_is_not_touched(tmp_path: Path, database: MongoDatabase) -> None:
    first, second = Feedback(tmp_path, lambda: None), Feedback(tmp_path, lambda: database)
    first.record("c", 1, "o/r", "known")
    second.ship()
    assert stored(database) == {}
    first.close()
    second.ship()
    assert stored(database) == {"c:1": "known"}
    second.close()


def test_full_disk_is_an_error_and_leaves_no_partial_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feedback = Feedback(tmp_path, lambda: None)
    feedback.record("d", 1, "o/r", "known")
    real = os.write

    def full(descriptor: int, content: bytes) -> int:
        real(descriptor, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(JournalError, match="No space left on device"):
        feedback.record("d", 2, "o/s", "known")
    monkeypatch.undo()
    assert feedback.verdicts_of("d") == {1: ("known", "o/r")}, "an entry that was not stored does not count"
    feedback.record("d", 3, "o/t", "known")
    assert [orjson.loads(line)["update"]["where"]["_id"] for line in lines(tmp_path)] == ["d:1", "d:3"]
    feedback.close()
