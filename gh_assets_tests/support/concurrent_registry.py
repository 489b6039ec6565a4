"""Processes that use one registry at the same moment."""

import json
from typing import Any

from gh_assets.registry import ModelRegistry
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.support.commands import script

SCRIPT = """
import json, os, sys
from pathlib import Path
from gh_assets.storage.objects import ObjectStore, StoredObject
from gh_assets.registry import ModelCard, ModelRegistry, Promotion
from gh_assets.services.connections import connect_gcs, connect_mongo
from gh_assets.settings import load_settings

def work(number):
    mongo = connect_mongo(settings.model_copy(update={"mongo_database": database}))
    registry = ModelRegistry(ObjectStore(connect_gcs(settings), bucket, create=True), mongo["models"])
    path = Path(f"{number}.bin")
    path.write_bytes(b"model %d" % (number % 5))
    os.write(1, b"ready\\n")  # at once: a line of another process cannot come between
    os.read(start, 1)  # returns when the test closes the pipe
    results = []
    for turn in range(3):
        if action == "save":
            saved = registry.save(path, ModelCard("recvae", number + turn / 10), file_name="model.bin")
            latest, best = registry.latest("recvae"), registry.best("recvae")
            results.append([saved.version, latest.version, best.score, saved.score])
        else:
            try:
                move = registry.promote(Promotion("recvae", number + 1, why=f"{number}.{turn}", by=f"process {number}"))
                results.append(move.revision)
            except Exception as error:
                results.append(type(error).__name__)
    os.write(1, json.dumps(results).encode() + b"\\n")

settings, start = load_settings(), sys.stdin.fileno()
database, bucket, count, action = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
children = []
for number in range(count):
    if not (child := os.fork()):
        code = 1
        try:
            work(number)
            code = 0
        finally:
            os._exit(code)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def run_concurrently(database: MongoDatabase, registry: ModelRegistry, count: int, action: str) -> list[list[Any]]:
    """Return the results of `count` processes that save, or promote, at the same moment.

    They are copies of one process, which has imported what they need and has connected to nothing.
    """
    with script(SCRIPT, database.name, registry.store.name, count, action) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert [parent.stdout.readline() for _ in range(count)] == ["ready\n"] * count
        parent.stdin.close()
        results = [json.loads(line) for line in parent.stdout]
        assert parent.wait(120) == 0
    return results
