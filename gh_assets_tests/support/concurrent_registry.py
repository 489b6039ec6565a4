"""Processes that use one registry at the same moment."""

import json
from typing import Any

from gh_assets.registry import ModelRegistry
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.support.commands import script

SCRIPT = """
import json, sys
from pathlib import Path
from gh_assets.storage.objects import ObjectStore, StoredObject
from gh_assets.registry import ModelCard, ModelRegistry, Promotion
from gh_assets.services.connections import connect_gcs, connect_mongo
from gh_assets.settings import load_settings
settings = load_settings()
database, bucket, number, action = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
mongo = connect_mongo(settings.model_copy(update={"mongo_database": database}))
registry = ModelRegistry(ObjectStore(connect_gcs(settings), bucket, create=True), mongo["models"])
path = Path(f"{number}.bin")
path.write_bytes(b"model %d" % (number % 5))
print("ready", flush=True)
sys.stdin.readline()
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
print(json.dumps(results))
"""


def run_concurrently(database: MongoDatabase, registry: ModelRegistry, count: int, action: str) -> list[list[Any]]:
    """Return the results of `count` processes that save, or promote, at the same moment."""
    processes = [script(SCRIPT, database.name, registry.store.name, number, action) for number in range(count)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate(timeout=120)[0]) for process in processes]
