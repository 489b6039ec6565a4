"""Messages for the tests of messages and their consumer: updates, registers and invalid ones."""

import datetime as dt
from typing import Any

from gh_assets.storage.messages import MAX_BYTES, Message, versioned

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def at(seconds: float) -> dt.datetime:
    return START + dt.timedelta(seconds=seconds)


def state(number: int, seconds: float, **value: Any) -> Message:
    """Return a message that sets the state of a repository."""
    return Message(update=versioned("stargazer_state", number, "state", value, at(seconds)))


def update(collection: str = "repos", where: Any = None, **change: Any) -> dict[str, Any]:
    operators = {f"${name}": value for name, value in change.items()}
    return {"update": {"collection": collection, "where": {"_id": 1} if where is None else where, "change": operators}}


FORGED = {"value": 1, "version": "2026-01-01T00:00:00.000000Z-0123456789abcdef"}

INVALID: list[tuple[Any, str]] = [
    (update("system.users", max={"a": 1}), "the collection 'system.users' is not one of feedback"),
    (update("models", max={"a": 1}), "the collection 'models' is not one of"),
    (update(where={}, max={"a": 1}), "where must name one document by its _id"),
    (update(where={"_id": {"$gt": ""}}, max={"a": 1}), "where must name one document by its _id"),
    (update(where={"_id": True}, max={"a": 1}), "where must name one document by its _id"),
    (update(where={"_id": 1, "$where": "sleep(1000)"}, max={"a": 1}), "where of $max and $min must be the _id alone"),
    (update(where={"_id": 1, "a": 1}, max={"a": 1}), "where of $max and $min must be the _id alone"),
    (update(), "change is empty"),
    (update(max={}), "$max changes no field"),
    (update(push={"a": 1}), "the operator '$push' is not one of $max, $min, $set"),
    (update(addToSet={"a": 1}), "the operator '$addToSet' is not one of"),
    (update(inc={"a": 1}), "the operator '$inc' is not one of"),
    (update(unset={"a": 1}), "the operator '$unset' is not one of"),
    (update(rename={"a": "b"}), "the operator '$rename' is not one of"),
    (update(max={"a.b": 1}), "the field 'a.b' is not a plain lower-case name"),
    (update(max={"$a": 1}), "is not a plain lower-case name"),
    (update(max={"_id": 1}), "the field '_id' is not a plain lower-case name"),
    (update(max={"a": [1]}), "$max of 'a' needs a number, a string or a time"),
    (update(max={"a": None}), "$max of 'a' needs a number"),
    (update("users", max={"login": "x"}), "the field 'login' of users is changed by inserts only"),
    (update("users", set={"seen": FORGED}), "the field 'seen' of users is changed by inserts only"),
    (update(set={"a": 1}), "the register 'a' has no version"),
    (update(set={"a": FORGED}), "the version of the register 'a' does not match its content"),
    (update(set={"a": FORGED, "b": FORGED}), "$set must be the only operator and set one register"),
    (update(set={"a": FORGED}, max={"b": 1}), "$set must be the only operator"),
    (update(set={"a": {"$where": 1}}), "which is not a plain name"),
    (update(set={"a": {"b": {"c": {"d": {"e": {"f": {}}}}}}}), "nested more than four levels deep"),
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
]
"""Messages, and what the error says about them."""
