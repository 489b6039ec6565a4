"""Messages: what they may say, and that applying them in any way gives the same collections."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gh_assets.storage.messages import COLLECTIONS, MAX_BYTES, Consumer, Message, UserInsert, versioned
from gh_assets.storage.mongo import Collections

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def at(seconds: float) -> dt.datetime:
    return START + dt.timedelta(seconds=seconds)


def state(number: int, seconds: float, **value: Any) -> Message:
    return Message(update=versioned("stargazer_state", number, "state", value, at(seconds)))


def contents(database) -> dict[str, list[dict[str, Any]]]:
    """All documents that messages can change, and the letters without the time of their death."""
    found = {name: list(database[name].find().sort("_id")) for name in COLLECTIONS}
    found[Collections.DEAD_LETTERS] = list(database[Collections.DEAD_LETTERS].find({}, {"at": 0}).sort("_id"))
    return found


# -- what a message may say ----------------------------------------------------------------------------------------


def test_the_form_of_a_message(database) -> None:
    raw = json.dumps(
        {
            "insert": {"uid": 5001, "login": "octo"},
            "update": {"collection": "repos", "where": {"_id": 7}, "change": {"$max": {"stars": 12}}},
        }
    )
    done = Consumer(database).apply([raw])
    assert (done.messages, done.inserted, done.dead) == (1, 2, 0)
    assert database["users"].find_one({"_id": 5001})["login"] == "octo"
    assert database["repos"].find_one() == {"_id": 7, "stars": 12}


@pytest.mark.parametrize("empty", [{}, {"insert": {}, "update": {}}, {"insert": None}, {"update": {}}])
def test_either_part_may_be_empty(database, empty: dict[str, Any]) -> None:
    done = Consumer(database).apply([json.dumps(empty)])
    assert (done.messages, done.inserted, done.changed, done.dead) == (1, 0, 0, 0)


def update(collection: str = "repos", where: Any = None, **change: Any) -> dict[str, Any]:
    operators = {f"${name}": value for name, value in change.items()}
    return {"update": {"collection": collection, "where": {"_id": 1} if where is None else where, "change": operators}}


FORGED = {"value": 1, "version": "2026-01-01T00:00:00.000000Z-0123456789abcdef"}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (update("system.users", max={"a": 1}), "the collection 'system.users' is none of feedback"),
        (update("models", max={"a": 1}), "the collection 'models' is none of"),
        (update(where={}, max={"a": 1}), "where must name one document by its _id"),
        (update(where={"_id": {"$gt": ""}}, max={"a": 1}), "where must name one document by its _id"),
        (update(where={"_id": True}, max={"a": 1}), "where must name one document by its _id"),
        (
            update(where={"_id": 1, "$where": "sleep(1000)"}, max={"a": 1}),
            "where of $max and $min must be the _id alone",
        ),
        (update(where={"_id": 1, "a": 1}, max={"a": 1}), "where of $max and $min must be the _id alone"),
        (update(), "change is empty"),
        (update(max={}), "an operator changes no field"),
        (update(push={"a": 1}), "the operator '$push' is none of $max, $min, $set"),
        (update(addToSet={"a": 1}), "the operator '$addToSet' is none of"),
        (update(inc={"a": 1}), "the operator '$inc' is none of"),
        (update(unset={"a": 1}), "the operator '$unset' is none of"),
        (update(rename={"a": "b"}), "the operator '$rename' is none of"),
        (update(max={"a.b": 1}), "the field 'a.b' is no plain lower-case name"),
        (update(max={"$a": 1}), "is no plain lower-case name"),
        (update(max={"_id": 1}), "the field '_id' is no plain lower-case name"),
        (update(max={"a": [1]}), "$max of 'a' needs a number, a text or a time"),
        (update(max={"a": None}), "$max of 'a' needs a number"),
        (update("users", max={"login": "x"}), "the field 'login' of users is changed by inserts only"),
        (update("users", set={"seen": FORGED}), "the field 'seen' of users is changed by inserts only"),
        (update(set={"a": 1}), "the register 'a' has no version"),
        (update(set={"a": FORGED}), "the version of the register 'a' is not that of its content"),
        (update(set={"a": FORGED, "b": FORGED}), "$set must stand alone and set one register"),
        (update(set={"a": FORGED}, max={"b": 1}), "$set must stand alone"),
        (update(set={"a": {"$where": 1}}), "which is no plain name"),
        (update(set={"a": {"b": {"c": {"d": {"e": {"f": {}}}}}}}), "nested more than four deep"),
        (update(max={"a": 2**63}), "more than 64 bits"),
        (update(max={"a": "x" * (MAX_BYTES + 1)}), f"more than {MAX_BYTES}"),
        ({"update": {"collection": "repos", "where": {"_id": 1}}}, "update.change: Field required"),
        ({"insert": {"uid": "1", "login": "a"}}, "insert.uid"),
        ({"insert": {"uid": 1, "login": "a b"}}, "insert.login"),
        ({"insert": {"uid": 1, "login": "a", "seen_at": "2026-01-01T00:00:00"}}, "seen_at has no time zone"),
        ({"insert": {"uid": 1}}, "insert.login: Field required"),
        ({"delete": {"_id": 1}}, "delete: Extra inputs are not permitted"),
        ([1, 2], "Input should be"),
        ("text", "Input should be"),
    ],
)
def test_poison_goes_to_the_dead_letters_and_the_rest_goes_on(database, message: Any, words: str) -> None:
    fine = Message(insert=UserInsert(uid=1, login="fine"))
    done = Consumer(database).apply([fine, json.dumps(message), state(9, 1, stars=3)])
    assert (done.messages, done.inserted, done.dead) == (3, 2, 1)
    (letter,) = database[Collections.DEAD_LETTERS].find()
    assert words in letter["reason"]
    assert json.dumps(message).startswith(letter["message"])
    assert letter["bytes"] == len(json.dumps(message))


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"nul\x00", b'{"insert": {"uid": 1, "login": "\xff"}}'])
def test_what_is_no_json_is_poison_too(database, raw: bytes) -> None:
    assert Consumer(database).apply([raw]).dead == 1
    assert Consumer(database).apply([raw]).dead == 1
    (letter,) = database[Collections.DEAD_LETTERS].find()
    assert letter["reason"] == "it is no JSON"
    assert letter["bytes"] == len(raw)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_message_or_one_clear_error(raw: bytes) -> None:
    try:
        parsed = Message.parse(raw)
    except ValueError:
        return
    assert Message.parse(parsed.to_json()) == parsed


@given(
    value=st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20)
        | st.binary(max_size=20) | st.datetimes(timezones=st.just(dt.UTC)) | st.lists(st.integers(0, 9), max_size=4),
        max_size=5,
    )
)  # fmt: skip
def test_a_message_is_read_back_from_its_json(value: dict[str, Any]) -> None:
    message = Message(update=versioned("feedback", "a/b", "choice", value, START))
    assert Message.parse(message.to_json()) == message


def test_a_value_that_mongo_cannot_hold_does_not_stop_the_others(database) -> None:
    """The server has the last word: what it refuses is a dead letter, not the end of the batch."""
    database.create_collection("unstars", validator={"$jsonSchema": {"properties": {"stars": {"maximum": 10}}}})
    messages = [json.dumps(update("unstars", where={"_id": n}, max={"stars": n})) for n in (1, 11, 2)]
    done = Consumer(database).apply(messages)
    assert (done.inserted, done.dead) == (2, 1)
    (letter,) = database[Collections.DEAD_LETTERS].find()
    assert "Mongo refused it" in letter["reason"]


# -- the same, however applied -------------------------------------------------------------------------------------

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
            lambda n, operator, name, value: Message.parse(
                json.dumps(update("users", where={"_id": n}, **{operator: {name: value}}))
            ),
            identities, st.sampled_from(["max", "min"]), st.sampled_from(["first", "last"]), st.integers(-3, 3),
        ).filter(lambda m: ("$max" in m.update.change) == ("last" in next(iter(m.update.change.values())))),
        st.sampled_from([b"poison", b'{"insert": {"uid": 0}}']),
    ),
    max_size=25,
)  # fmt: skip


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stream=messages, seed=st.integers(0, 99), batch=st.integers(1, 9))
def test_twice_out_of_order_and_in_any_batches_is_the_same(database, stream, seed: int, batch: int) -> None:
    def result(messages: list[Any], size: int) -> dict[str, Any]:
        for name in (*COLLECTIONS, Collections.DEAD_LETTERS):
            database[name].delete_many({})
        Consumer(database, size).apply(messages)
        return contents(database)

    expected = result(stream, 1000)
    shuffled = random.Random(seed).sample(stream, len(stream))
    assert result(stream, 1) == expected, "one by one"
    assert result([*shuffled, *stream], batch) == expected, "twice and out of order"


def a_stream(seed: int, count: int) -> list[Message]:
    rng = random.Random(seed)
    stream = []
    for _ in range(count):
        number, second = rng.randrange(60), rng.randrange(100)
        stream.append(
            rng.choice(
                [
                    Message(insert=UserInsert(uid=number, login=f"user-{second}", seen_at=at(second))),
                    state(number, second, stars=rng.randrange(5)),
                    Message.parse(json.dumps(update("unstars", where={"_id": f"7:{number}"}, max={"at": second}))),
                ]
            )
        )
    return stream


def test_two_consumers_at_once_give_what_one_gives(database, settings) -> None:
    stream = a_stream(1, 1500)
    Consumer(database).apply(stream)
    expected = contents(database)
    for name in COLLECTIONS:
        database[name].delete_many({})
    failures: list[BaseException] = []

    def consume(seed: int) -> None:
        try:
            Consumer(database, 40).apply(random.Random(seed).sample(stream, len(stream)))
        except BaseException as error:  # noqa: BLE001 - a test wants to see it
            failures.append(error)

    workers = [threading.Thread(target=consume, args=(seed,)) for seed in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert contents(database) == expected


CONSUMER = """
import sys
from gh_assets.storage.messages import Consumer, ConsumerResult
from gh_assets.storage.mongo import Collections
from gh_assets.services.connections import open_mongo
from gh_assets.settings import load_settings
with open_mongo(load_settings()) as database:
    for done in Consumer(database, 20).batches(sys.stdin.buffer, ConsumerResult()):
        print(done, flush=True)
"""


def test_a_consumer_killed_at_any_moment_has_what_it_acknowledged(database, home) -> None:
    stream = a_stream(2, 400)
    raw = b"".join(message.to_json() + b"\n" for message in stream)
    Consumer(database).apply(stream)
    expected = contents(database)
    for name in COLLECTIONS:
        database[name].delete_many({})
    environment = os.environ | {"GH_ASSETS_HOME": str(home), "MONGO_DATABASE": database.name}
    for kill_after in (1, 3):
        process = subprocess.Popen(
            [sys.executable, "-c", CONSUMER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(raw)
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
    assert Consumer(database, 100).apply(raw.splitlines()).changed == 0, "all was there"


def test_a_repository_with_very_many_stars_is_many_small_documents(database) -> None:
    stars = (
        Message.parse(json.dumps(update("unstars", where={"_id": f"7:{user}"}, min={"starred_at": user})))
        for user in range(3000)
    )
    done = Consumer(database).apply(stars)
    assert done.inserted == 3000
    assert database["unstars"].count_documents({}) == 3000
    largest = max(len(json.dumps(document)) for document in database["unstars"].find())
    assert largest < 100
