"""Compare the messages per second of the consumer with one ``update_one`` per message, alternately and repeatedly.

    python benchmarks/ingest.py [--messages 2000] [--rounds 3]

Uses the MongoDB of the settings (by default the embedded one), in a new database that is dropped afterwards.
"""

import argparse
import datetime as dt
import random
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from pymongo.database import Database

from gh_assets.services.connections import open_mongo
from gh_assets.settings import load_settings
from gh_assets.storage.consumer import Consumer
from gh_assets.storage.messages import Message, UserInsert, versioned

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def stream(count: int) -> list[bytes]:
    """Return stars as a collector sends them, each with its user; some are repeated."""
    rng = random.Random(0)
    messages = []
    for number in range(count):
        user, repo = rng.randrange(count // 4), rng.randrange(count // 40)
        at = START + dt.timedelta(seconds=number)
        star = versioned("unstars", f"{repo}:{user}", "star", {"repo": repo, "user": user}, at)
        messages.append(Message(insert=UserInsert(uid=user, login=f"user-{user}", seen_at=at), update=star).to_json())
    return messages


def consumed(database: Database[dict[str, Any]], messages: Sequence[bytes]) -> None:
    Consumer(database).apply(messages)


def one_by_one(database: Database[dict[str, Any]], messages: Sequence[bytes]) -> None:
    """Apply each message in the simplest way, by two updates with upsert, each a round trip."""
    for raw in messages:
        message = Message.parse(raw)
        assert message.insert is not None and message.update is not None  # noqa: PT018
        database["users"].update_one(
            {"_id": message.insert.uid}, {"$set": {"login": message.insert.login}}, upsert=True
        )
        database["unstars"].update_one({"_id": message.update.where["_id"]}, message.update.change, upsert=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settings = load_settings().model_copy(update={"mongo_database": f"benchmark_{secrets.token_hex(4)}"})
    messages = stream(options.messages)
    ratios, again = [], []
    with open_mongo(settings) as database:

        def seconds(work: Callable[[Database[dict[str, Any]], Sequence[bytes]], None], *, clear: bool = True) -> float:
            if clear:
                for name in ("users", "unstars"):
                    database[name].drop()
            started = time.perf_counter()
            work(database, messages)
            return time.perf_counter() - started

        try:
            for _ in range(options.rounds):
                slow = seconds(one_by_one)
                fast = seconds(consumed)
                twice = seconds(consumed, clear=False)
                ratios.append(slow / fast)
                again.append(slow / twice)
                print(
                    f"one update_one per part {len(messages) / slow:,.0f} messages/s; consumer "
                    f"{len(messages) / fast:,.0f}; the same stream again {len(messages) / twice:,.0f}"
                )
        finally:
            database.client.drop_database(database.name)
    print(f"consumer {statistics.median(ratios):.1f}x as fast, {statistics.median(again):.1f}x on a repeated stream")


if __name__ == "__main__":
    main()
