"""Tests of the consumer: it is idempotent, independent of the order, and stores invalid messages aside."""

import json
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gh_assets.storage.consumer import Consumer
from gh_assets.storage.messages import COLLECTIONS, Message, UserInsert
from gh_assets.storage.mongo import Collections, MongoDatabase
from gh_assets_tests.support.commands import script
from gh_assets_tests.support.messages import INVALID, at, state, update
from gh_assets_tests.support.mongo import the_document


def contents(database: MongoDatabase) -> dict[str, list[dict[str, Any]]]:
    """Return all documents that messages can change, and the dead letters without their time."""
    names = (*COLLECTIONS, Collections.DEAD_LETTERS)
    return {name: list(database[name].find({}, {"at": 0}).sort("_id")) for name in names}


def emptied(database: MongoDatabase) -> MongoDatabase:
    for name in (*COLLECTIONS, Collections.DEAD_LETTERS):
        database[name].delete_many({})
    return database


def test_message_inserts_a_user_and_updates_a_document(database: MongoDatabase) -> None:
    message = {"insert": {"uid": 5001, "login": "octo"}} | update("repos", where={"_id": 7}, max={"stars": 12})
    done = Consumer(database).apply([json.dumps(message)])
    assert (done.messages, done.inserted, done.dead) == (1, 2, 0)
    assert the_document(database["users"], _id=5001)["login"] == "octo"
    assert database["repos"].find_one() == {"_id": 7, "stars": 12}


@pytest.mark.parametrize("empty", [{}, {"insert": {}, "update": {}}, {"insert": None}, {"update": {}}])
def test_either_part_of_a_message_may_be_empty(database: MongoDatabase, empty: dict[str, Any]) -> None:
    done = Consumer(database).apply([json.dumps(empty)])
    assert (done.messages, done.inserted, done.changed, done.dead) == (1, 0, 0, 0)


def test_invalid_messages_become_dead_letters_and_the_others_are_applied(database: MongoDatabase) -> None:
    valid = Message(insert=UserInsert(uid=1, login="fine"))
    invalid = [json.dumps(message) for message, _ in INVALID]
    done = Consumer(database).apply([valid, *invalid, state(9, 1, stars=3)])
    assert (done.messages, done.inserted, done.dead) == (len(invalid) + 2, 2, len(invalid))
    letters = list(database[Collections.DEAD_LETTERS].find())
    for raw, (_, reason) in zip(invalid, INVALID, strict=True):
        (letter,) = (letter for letter in letters if raw.startswith(letter["message"]) and letter["bytes"] == len(raw))
        assert reason in letter["reason"]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"nul\x00", b'{"insert": {"uid": 1, "login": "\xff"}}'])
def test_bytes_that_are_not_json_are_one_dead_letter(database: MongoDatabase, raw: bytes) -> None:
    assert Consumer(database).apply([raw]).dead == 1
    assert Consumer(database).apply([raw]).dead == 1
    (letter,) = database[Collections.DEAD_LETTERS].find()
    assert letter["reason"] == "the message is not JSON"
    assert letter["bytes"] == len(raw)


def test_document_that_the_server_rejects_is_a_dead_letter_and_the_batch_continues(database: MongoDatabase) -> None:
    database.create_collection("unstars", validator={"$jsonSchema": {"properties": {"stars": {"maximum": 10}}}})
    messages = [json.dumps(update("unstars", where={"_id": n}, max={"stars": n})) for n in (1, 11, 2)]
    done = Consumer(database).apply(messages)
    assert (done.inserted, done.dead) == (2, 1)
    (letter,) = database[Collections.DEAD_LETTERS].find()
    assert "MongoDB rejected it" in letter["reason"]


identities = st.integers(1, 4)
seconds = st.integers(0, 5)
messages = st.lists(
    st.one_of(
        st.builds(
            lambda uid, login, second: Message(
                insert=UserInsert(uid=uid, login=login, seen_at=None if second is None else at(second))
            ),
            identities, st.sampled_from(["ann", "bob", "Cid"]), st.none() | seconds,
        ),
        st.builds(lambda n, second, stars: state(n, second, stars=stars), identities, seconds, st.integers(0, 3)),
        st.builds(
            lambda n, bound, value: Message.parse(json.dumps(update("users", where={"_id": n}, **bound(value)))),
            identities, st.sampled_from([lambda v: {"max": {"last": v}}, lambda v: {"min": {"first": v}}]),
            st.integers(-3, 3),
        ),
        st.sampled_from([b"poison", b'{"insert": {"uid": 0}}']),
    ),
    max_size=25,
)  # fmt: skip


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stream=messages, seed=st.integers(0, 99), batch=st.integers(1, 9))
def test_result_depends_on_neither_order_nor_repetition_nor_batch_size(
    database: MongoDatabase, stream: list[Any], seed: int, batch: int
) -> None:
    def result(messages: list[Any], size: int) -> dict[str, Any]:
        Consumer(emptied(database), size).apply(messages)
        return contents(database)

    expected = result(stream, 1000)
    shuffled = random.Random(seed).sample(stream, len(stream))
    assert result(stream, 1) == expected, "one by one"
    assert result([*shuffled, *stream], batch) == expected, "twice and in another order"


def random_messages(seed: int, count: int) -> list[Message]:
    rng = random.Random(seed)

    def message() -> Message:
        number, second = rng.randrange(60), rng.randrange(100)
        kinds = [
            Message(insert=UserInsert(uid=number, login=f"user-{second}", seen_at=at(second))),
            state(number, second, stars=rng.randrange(5)),
            Message.parse(json.dumps(update("unstars", where={"_id": f"7:{number}"}, max={"at": second}))),
        ]
        return rng.choice(kinds)

    return [message() for _ in range(count)]


def test_concurrent_consumers_have_the_result_of_one(database: MongoDatabase) -> None:
    stream = random_messages(1, 1500)
    Consumer(database).apply(stream)
    expected = contents(database)
    emptied(database)

    def consume(seed: int) -> None:
        Consumer(database, 40).apply(random.Random(seed).sample(stream, len(stream)))

    with ThreadPoolExecutor(2) as executor:
        list(executor.map(consume, range(2)))
    assert contents(database) == expected


CONSUMER = """
import sys
from gh_assets.storage.consumer import Consumer, ConsumerResult
from gh_assets.storage.mongo import Collections
from gh_assets.services.connections import open_mongo
from gh_assets.settings import load_settings
with open_mongo(load_settings()) as database:
    for done in Consumer(database, 20).batches(sys.stdin.buffer, ConsumerResult()):
        print(done, flush=True)
"""


def test_killed_consumer_has_stored_what_it_acknowledged(database: MongoDatabase, home: Path) -> None:
    stream = random_messages(2, 400)
    raw = b"".join(message.to_json() + b"\n" for message in stream)
    Consumer(database).apply(stream)
    expected = contents(database)
    emptied(database)
    for kill_after in (1, 3):
        process = script(CONSUMER, GH_ASSETS_HOME=str(home), MONGO_DATABASE=database.name)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(raw.decode())
        process.stdin.flush()
        acknowledged = 0
        for _ in range(kill_after):
            acknowledged = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        found = {document["_id"] for document in database["users"].find()}
        assert {m.insert.uid for m in stream[:acknowledged] if m.insert is not None} <= found
    done = Consumer(database, 100).apply(raw.splitlines())
    assert done.messages == 400
    assert contents(database) == expected
    assert Consumer(database, 100).apply(raw.splitlines()).changed == 0
