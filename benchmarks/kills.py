"""Kill commands and their embedded servers with `kill -9`; count what is lost and what does not converge.

Run: python benchmarks/kills.py [--kills 200] [--what run,serve,promote,rollback,undo,backup,restore,bucket,mongodb]

Each kind has its own home with small synthetic data. A command is started in a new process, as a user starts it, and
killed at a uniformly random time within its usual duration; then it is started again, and killed again or left to
finish. After each kill, the stored data are checked from outside: everything that was acknowledged is still there with
the same content, and nothing is incomplete. After each command that finishes: exit code 0, the requested state, and no
files of a killed process. `bucket` and `mongodb` kill the embedded server instead, while `gh-assets run` and a program
that saves models, promotes them and writes objects are running: these may fail with one sentence and are repeated.

To make 200 kills in minutes, the processes are forks of one process that has imported everything; with --fresh, each is
a new interpreter.
"""

import argparse
import atexit
import contextlib
import datetime as dt
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import polars as pl
import requests
from pymongo.errors import PyMongoError

from gh_assets.embedded import servers as embedded
from gh_assets.embedded.guardian import free_port, read_state
from gh_assets.embedded.supervision import release
from gh_assets.errors import GhAssetsError
from gh_assets.instance.configuration import open_instance
from gh_assets.registry import CHAMPION, PURPOSE, ModelCard, ModelRegistry, Move, Promotion
from gh_assets.services.connections import asset_store, connect_gcs, connect_mongo, data_store, model_store
from gh_assets.settings import Settings, load_settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.backup import MANIFEST, back_up
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.commands import write_stars

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = ["matplotlib.figure", "rich.progress", "pyarrow.parquet", "safetensors.torch", "gh_assets.definitions"]
PRELOADED += ["gh_assets.cli", "gh_assets.cli.chain", "gh_assets.cli.documents", "gh_assets.cli.service_checks"]
PRELOADED += ["gh_assets.recommender.training.training", "gh_assets.recommender.models.hybrid"]
PRELOADED += ["gh_assets.serving.current_model", "gh_assets.storage.backup", "gh_assets.web.server"]
EVERY = 10
"""Kills after which a command is left to finish and everything is checked."""

ALIAS = "be written", "newest"
"""Purpose and alias of the models that the writing program saves."""

TIMEOUT = 900.0
"""Seconds after which a command counts as hanging."""


K = TypeVar("K")
V = TypeVar("V")


class WrongError(Exception):
    """Data were lost (`lost`), or the state did not converge."""

    def __init__(self, message: str, *, lost: bool) -> None:
        super().__init__(message)
        self.lost = lost


def lost(condition: bool, message: str) -> None:
    if condition:
        raise WrongError(message, lost=True)


def differs(condition: bool, message: str) -> None:
    if condition:
        raise WrongError(message, lost=False)


@dataclass
class Tally:
    """Results of one kind."""

    kills: int = 0
    reruns: int = 0
    in_a_row: int = 0
    worst: int = 0
    lost: int = 0
    diverged: int = 0
    seconds: float = 0.0
    notes: Counter[str] = field(default_factory=Counter)

    def killed(self) -> None:
        self.kills += 1
        self.in_a_row += 1

    def converged(self) -> None:
        """Record that a rerun finished in the requested state."""
        self.worst = max(self.worst, self.in_a_row)
        self.in_a_row = 0

    def wrong(self, error: WrongError, kind: str) -> None:
        self.lost += error.lost
        self.diverged += not error.lost
        print(f"{kind}, after {self.kills} kills: {error}", file=sys.stderr, flush=True)

    def row(self, kind: str) -> str:
        notes = "; ".join(
            message if message.startswith("a command") else f"{message}: {count}"
            for message, count in sorted(self.notes.items())
        )
        return (
            f"| {kind} | {self.kills} | {self.reruns} | {self.lost} | {self.diverged} | {self.worst} "
            f"| {self.seconds:.0f} | {notes} |"
        )


# -- processes ---------------------------------------------------------------------------------------------------------


def enter(arguments: list[str], environment: dict[str, str], folder: str, log: str, fresh: bool) -> None:
    """Run the command in the process that was started for it."""
    os.chdir(folder)
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if fresh:
        os.execv(sys.executable, [sys.executable, "-m", "gh_assets", *arguments])
    tempfile.tempdir = None
    from gh_assets.cli import main

    try:
        main(arguments)
    finally:
        atexit._run_exitfuncs()  # a fork of multiprocessing exits without them


@dataclass
class Workspace:
    """A home, and the commands that are run in it."""

    folder: Path
    random: random.Random
    fresh: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        self.environment |= {"GH_ASSETS_HOME": str(self.home), "TMPDIR": str(self.folder / "tmp")}

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def settings(self) -> Settings:
        return load_settings().model_copy(update={"home": self.home})

    def start(self, *arguments: str) -> ForkServerProcess:
        given = list(arguments), self.environment, str(self.folder), str(self.log), self.fresh
        process = FORKS.Process(target=enter, args=given)
        process.start()
        return process

    def run(self, *arguments: str) -> float:
        """Run a command to its end; return its duration in seconds."""
        started = time.monotonic()
        process = self.start(*arguments)
        self.end(process, arguments)
        return time.monotonic() - started

    def end(self, process: ForkServerProcess, arguments: tuple[str, ...]) -> None:
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise WrongError(f"{' '.join(arguments)} hangs: {self.output()}", lost=False)
        differs("Traceback" in self.output(), f"a traceback: {self.output()}")
        differs(process.exitcode != 0, f"{' '.join(arguments)} ended with {process.exitcode}: {self.output()}")

    def measure(self, *arguments: str) -> float:
        """Return the shortest duration of a command in seconds."""
        return min(self.run(*arguments) for _ in range(4))

    def kill(self, seconds: float, *arguments: str) -> bool:
        """Kill a command at a random time within `seconds`; return False if it finished before that."""
        process = self.start(*arguments)
        process.join(self.random.uniform(0.0, seconds))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            return True
        self.end(process, arguments)
        return False

    def output(self) -> str:
        with contextlib.suppress(FileNotFoundError):  # it was killed before it could write anything
            return self.log.read_text(errors="replace").strip()[-3000:]
        return ""

    def check_leftovers(self) -> None:
        """Check that killed processes left no scratch files and no drafts."""
        left = [path.name for path in (self.folder / "tmp").iterdir() if path.name.startswith("gh-assets")]
        left += [str(path) for path in self.home.rglob("*") if is_draft(path)]
        differs(bool(left), f"files are left: {', '.join(sorted(left)[:8])}")

    def close(self) -> None:
        for path in (self.home / "run").glob("*.users"):
            release(path.stem, self.home)


def is_draft(path: Path) -> bool:
    name = path.name
    return name.endswith((".draft", ".new", ".part")) or (
        path.parent.parent.name == "cache" and name.startswith(".") and name != ".checksums.json"
    )


class Watcher:
    """Reads the stored data directly, independently of the commands."""

    def __init__(self, workspace: Workspace) -> None:
        settings = workspace.settings
        self.workspace = workspace
        self.database: MongoDatabase = connect_mongo(settings)
        client = connect_gcs(settings)
        self.stores: dict[str, ObjectStore] = {
            "data": data_store(settings, client),
            "models": model_store(settings, client),
        }
        self.assets: AssetStore = asset_store(settings, client)
        self.registry = ModelRegistry(self.stores["models"], self.database["models"])

    def close(self) -> None:
        self.database.client.close()
        self.workspace.close()

    def save(self, number: int, name: str = "recvae", size: int = 50_000) -> int:
        path = self.workspace.folder / "weights.bin"
        path.write_bytes(f"model {number} ".encode() * (size // 10))
        return self.registry.save(path, ModelCard(name, float(number))).version or 0

    def moves(self) -> list[Move]:
        """Return all moves, oldest first."""
        moves = self.registry.aliases.history(PURPOSE, CHAMPION)[::-1]
        actual = [move.revision for move in moves]
        lost(actual != list(range(1, len(moves) + 1)), f"the history has a hole: {actual}")
        return moves

    def objects(self) -> dict[str, str]:
        return {
            f"{kind}/{stored.name}": stored.crc32c for kind, store in self.stores.items() for stored in store.list("")
        }

    def documents(self) -> dict[str, Any]:
        return {
            f"{name}/{document['_id']}": document
            for name in self.database.list_collection_names()
            for document in self.database[name].find()
        }

    def check_models(self, known: dict[tuple[str, int], str], *, whole: bool = False) -> None:
        """Check that all known models are there with the same bytes; add new models to `known`."""
        actual = {(model.name, model.version or 0): model for model in self.registry.list()}
        for key, sha256 in known.items():
            lost(key not in actual or actual[key].sha256 != sha256, f"the model {key} has changed")
        for key, model in actual.items():
            problem = self.registry.verify(model) if whole else self.registry.problem(model)
            lost(problem is not None, f"the model {key}: {problem}")
            known[key] = str(model.sha256)


def prefix_of(before: list[Move], after: list[Move]) -> None:
    lost(after[: len(before)] != before, "a move of the champion has changed")


# -- the kinds ---------------------------------------------------------------------------------------------------------


def write_world(path: Path) -> dict[str, set[str]]:
    """Write a file of stars; return the logins by repository."""
    stars = write_stars(path, users=40, repositories=16, stars=(4, 9)).group_by("repo").agg("login")
    return {repo.lower(): set(logins) for repo, logins in stars.iter_rows()}


class Kind:
    """Work in a home that is killed repeatedly.

    Attributes
    ----------
    seconds : float
        Duration of a command, within which it is killed.
    """

    seconds = 0.0
    ends_at_an_error = False

    def __init__(self, workspace: Workspace, tally: Tally) -> None:
        self.workspace, self.tally = workspace, tally
        self.watcher = Watcher(workspace)
        self.number = 0
        self.ending, self.lock = threading.Event(), threading.Lock()
        self.threads: list[threading.Thread] = []

    def step(self) -> None:
        """Kill once or several times, and check what must hold."""
        raise NotImplementedError

    def finish(self) -> None:
        """Check what can be checked only at the end."""

    def close(self) -> None:
        self.watcher.close()

    def start_threads(self, *works: Callable[[], None]) -> None:
        self.threads = [threading.Thread(target=work) for work in works]
        for thread in self.threads:
            thread.start()

    def stop_threads(self) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def kill(self, *command: str) -> None:
        """Kill a command at a random time."""
        if self.workspace.kill(self.seconds, *command):
            self.tally.killed()

    def rerun(self, *command: str) -> None:
        self.workspace.run(*command)
        self.tally.reruns += 1

    def converged(self) -> None:
        """Record the requested state, and check that no files are left."""
        self.converged()


def run_command(workspace: Workspace) -> tuple[str, ...]:
    return "run", "--stars", str(workspace.folder / "stars.parquet"), "--epochs", "2"


class Run(Kind):
    """The whole chain: in each home, it is killed repeatedly from the start, and then left to finish."""

    def __init__(self, workspace: Workspace, tally: Tally) -> None:
        self.root, self.tally = workspace, tally
        self.world = write_world(workspace.folder / "stars.parquet")
        self.command = run_command(workspace)
        self.number, self.matrix = 0, ""
        self.open()
        self.seconds = 1.02 * self.workspace.run(*self.command)
        self.check_whole()

    def open(self) -> None:
        self.number += 1
        self.workspace = Workspace(self.root.folder / str(self.number), self.root.random, self.root.fresh)
        self.watcher = Watcher(self.workspace)
        self.models: dict[tuple[str, int], str] = {}
        self.moves: list[Move] = []
        self.stars: dict[str, set[str]] = {}
        self.first_kill = self.tally.kills

    def read_stars(self) -> dict[str, set[str]]:
        partitions = self.watcher.assets.partitions("stargazers")
        tables = self.watcher.assets.read_tables("stargazers", partitions)
        return {partition: set(table["login"]) for partition, table in tables.items()}

    def step(self) -> None:
        again = ("--full", "--retrain") if self.tally.kills - self.first_kill > EVERY // 2 else ()
        self.kill(*self.command, *again)
        self.tally.reruns += 1
        stars = self.read_stars()
        for partition, logins in self.stars.items():
            lost(not logins <= stars.get(partition, set()), f"stars of {partition}")
        self.stars = stars
        self.watcher.check_models(self.models)
        moves = self.watcher.moves()
        prefix_of(self.moves, moves)
        self.moves = moves
        if self.tally.kills - self.first_kill == EVERY:
            try:
                self.rerun(*self.command)
                self.check_whole()
            finally:
                self.close()
                shutil.rmtree(self.workspace.folder, ignore_errors=True)
                self.open()

    def check_whole(self) -> None:
        assets = self.watcher.assets
        repos = assets.read_table("repos")
        names = {str(row["repo_id"]): row["full_name"].lower() for row in repos.iter_rows(named=True)}
        actual = {names.get(partition, partition.lower()): logins for partition, logins in self.read_stars().items()}
        actual = {name: logins for name, logins in actual.items() if logins}
        lost(
            actual != self.world, f"stars are {sum(map(len, actual.values()))} of {sum(map(len, self.world.values()))}"
        )
        all_logins = set().union(*self.world.values())
        differs(set(assets.read_table("users")["login"]) != all_logins, "users")
        matrix = assets.read_matrix("user_item_matrix")
        self.matrix = self.matrix or matrix.fingerprint
        differs(matrix.fingerprint != self.matrix, "the matrix has changed")
        differs(set(assets.read_table("recommendations")["login"]) != all_logins, "a user has no recommendations")
        self.watcher.check_models(self.models, whole=True)
        champion = self.watcher.registry.champion()
        differs(self.watcher.moves()[-1].version != champion.version, "the champion")
        self.check_runs()
        self.workspace.check_leftovers()
        self.workspace.run("models", "sweep", "--grace", "0")
        named = {model.object for model in self.watcher.registry.list()}
        differs(set(self.watcher.stores["models"].names("")) != named, "orphans are left after a sweep")
        self.workspace.run("doctor")
        self.tally.converged()

    def check_runs(self) -> None:
        """Check that Dagster lists no run of a killed command as running."""
        with (
            patch.dict(os.environ, GH_ASSETS_HOME=str(self.workspace.home)),
            open_instance(load_settings()) as instance,
        ):
            unfinished = [run.status.value for run in instance.get_runs() if not run.is_finished]
        differs(bool(unfinished), f"Dagster has runs that no process executes: {unfinished}")


class Moves(Kind):
    """Promotions or rollbacks of the champion."""

    def __init__(self, workspace: Workspace, tally: Tally, action: str) -> None:
        super().__init__(workspace, tally)
        self.action = action
        self.models: dict[tuple[str, int], str] = {}
        for number in range(3):
            self.watcher.save(number)
        for version in (1, 2, 3):
            self.watcher.registry.promote(Promotion("recvae", version, why="the initial state"))
        self.watcher.check_models(self.models, whole=True)
        self.seconds = workspace.measure("models", "promote", "recvae", "1", "--why", "to measure the duration")

    def step(self) -> None:
        self.number += 1
        registry = self.watcher.registry
        before = self.watcher.moves()
        current = before[-1]
        why = f"kill {self.number}"
        if self.action == "promote":
            wanted = self.workspace.random.choice([version for version in (1, 2, 3) if version != current.version])
            command: tuple[str, ...] = ("models", "promote", "recvae", str(wanted), "--why", why)
        else:
            other = 1 + current.version % 3
            for version in (other, 1 + other % 3):
                registry.promote(Promotion("recvae", version, why="to be rolled back"))
            before = self.watcher.moves()
            current, wanted = before[-1], other
            command = ("models", "rollback", "--why", why)
        self.check(command, before, current.version, wanted, why)

    def check(self, command: tuple[str, ...], before: list[Move], current: int, wanted: int, why: str) -> None:
        self.kill(*command)
        between = self.watcher.moves()
        prefix_of(before, between)
        differs(len(between) > len(before) + 1, "it moved twice")
        moved = len(between) > len(before)
        if moved:
            differs((between[-1].version, between[-1].why) != (wanted, why), "a move that was not requested")
            self.tally.notes["killed after it was done"] += 1
        differs(
            self.watcher.registry.champion().version != (wanted if moved else current),
            "the champion is neither the old nor the new model",
        )
        if not moved or self.action == "promote":  # a second rollback would return to an earlier model
            self.rerun(*command)
            prefix_of(between, self.watcher.moves())
            differs(self.watcher.registry.champion().version != wanted, "the champion is not the requested model")
        self.converged()
        self.watcher.check_models(self.models)


class Undo(Kind):
    """An asset with changed and new partitions, and an asset that did not exist before."""

    PARTITIONS = 24

    def __init__(self, workspace: Workspace, tally: Tally) -> None:
        super().__init__(workspace, tally)
        self.write("parts", range(self.PARTITIONS // 2))
        self.seconds = TIMEOUT
        for _ in range(4):
            self.change()
            self.seconds = min(self.seconds, workspace.run("data", "undo", "parts", "--before", self.before))
            workspace.run("data", "undo", "late", "--before", self.before)

    def write(self, asset: str, partitions: range) -> None:
        self.number += 1
        tables = ((f"o/{n}", pl.DataFrame({"number": [self.number] * 50})) for n in partitions)
        list(self.watcher.assets.write_tables(asset, tables))

    def read(self, asset: str) -> dict[str, int]:
        tables = self.watcher.assets.read_tables(asset, self.watcher.assets.partitions(asset))
        for partition, table in tables.items():
            differs(table.height != 50 or table["number"].n_unique() != 1, f"{partition} is incomplete")
        return {partition: int(table["number"][0]) for partition, table in tables.items()}

    def change(self) -> None:
        """Overwrite data, as a bad run does."""
        self.before = dt.datetime.now(dt.UTC).isoformat()
        first = self.number % 6
        self.write("parts", range(first, self.PARTITIONS, 2))
        self.write("late", range(3))

    def step(self) -> None:
        at = self.read("parts")
        self.change()
        after = self.read("parts")
        for asset, wanted in (("parts", at), ("late", {})) if self.number % 4 else (("late", {}), ("parts", at)):
            command = ("data", "undo", asset, "--before", self.before)
            self.kill(*command)
            for partition, number in self.read(asset).items():
                allowed = {wanted.get(partition), after.get(partition)} if asset == "parts" else {self.number}
                lost(
                    number not in allowed,
                    f"{asset} {partition} has the content {number}, which it had at neither time: {allowed}",
                )
            if asset == "parts":
                missing = set(at) - set(self.read(asset))
                lost(bool(missing), f"partitions are missing: {missing}")
            self.rerun(*command)
            differs(self.read(asset) != wanted, f"{asset} is {self.read(asset)}, not {wanted}, before {self.before}")
            self.converged()


def fill(watcher: Watcher) -> None:
    """Write documents, objects and models to be copied."""
    users = [{"_id": number, "login": f"person-{number}", "stars": [number] * 20} for number in range(3000)]
    watcher.database["users"].insert_many(users)
    for number in range(60):
        watcher.stores["data"].write(
            f"assets/parts/o%2F{number}.parquet", os.urandom(500 * number), metadata={"a": "b"}
        )
    for number in range(4):
        watcher.save(number, size=1_500_000)
    for version in (1, 2):
        watcher.registry.promote(Promotion("recvae", version, why="it is better"))


def check_backup(folder: Path, objects: Mapping[str, str], documents: Mapping[str, Any]) -> None:
    """Check that a finished backup is complete."""
    from base64 import b64encode

    import bson
    import google_crc32c

    lost(not (folder / MANIFEST).exists(), f"{folder.name} has no manifest")
    manifest = json.loads((folder / MANIFEST).read_text())
    actual = {}
    for entry in manifest["objects"]:
        content = (folder / entry["bucket"] / entry["file"]).read_bytes()
        lost(hashlib.sha256(content).hexdigest() != entry["sha256"], f"{entry['name']} is damaged in {folder.name}")
        crc32c = b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()
        actual[f"{entry['bucket']}/{entry['name']}"] = crc32c
    lost(actual != objects, f"{folder.name} has {len(actual)} objects instead of {len(objects)}")
    options: bson.CodecOptions[dict[str, Any]] = bson.CodecOptions(tz_aware=True)
    kept = {}
    for name in manifest["collections"]:
        for document in bson.decode_all((folder / "mongo" / f"{name}.bson").read_bytes(), options):
            kept[f"{name}/{document['_id']}"] = document
    lost(kept != documents, f"{folder.name} has different documents: {len(kept)}, not {len(documents)}")


class Backup(Kind):
    def __init__(self, workspace: Workspace, tally: Tally) -> None:
        super().__init__(workspace, tally)
        fill(self.watcher)
        self.objects, self.documents = self.watcher.objects(), self.watcher.documents()
        self.backups = workspace.folder / "backups"
        self.seconds = min(workspace.run("data", "backup", str(self.backups / str(-n))) for n in range(4))

    def step(self) -> None:
        shutil.rmtree(self.backups)
        self.number += 1
        folder = self.backups / str(self.number)
        for _ in range(self.workspace.random.choice((1, 2, 3))):
            self.kill("data", "backup", str(folder))
            if folder.exists():
                self.tally.notes["killed after it was done, or finished"] += 1
                break
            self.tally.reruns += 1
        finished = [folder] if folder.exists() else []
        again = folder.with_name(f"{folder.name}-again") if finished else folder
        self.rerun("data", "backup", str(again))
        for one in {*finished, again}:
            check_backup(one, self.objects, self.documents)
        names = {path.name for path in self.backups.iterdir()}
        differs(names != {path.name for path in (*finished, again)}, f"files are left beside the backup: {names}")
        self.converged()


class Restore(Kind):
    def __init__(self, workspace: Workspace, tally: Tally) -> None:
        super().__init__(workspace, tally)
        source = Watcher(Workspace(workspace.folder / "source", workspace.random))
        fill(source)
        self.objects, self.documents = source.objects(), source.documents()
        self.backup = workspace.folder / "backup"
        back_up(source.database, source.stores, self.backup)
        source.close()
        self.command = ("data", "restore", str(self.backup))
        self.seconds = workspace.run(*self.command)
        self.check()
        self.empty()
        self.seconds = min(self.seconds, workspace.run(*self.command))

    def empty(self) -> None:
        for name in self.watcher.database.list_collection_names():
            if name != "meta":  # it records the migrations
                self.watcher.database[name].delete_many({})
        self.watcher.database["meta"].delete_many({"_id": {"$ne": "schema"}})
        for store in self.watcher.stores.values():
            for name in list(store.names("")):
                store.delete(name)

    def check(self) -> None:
        lost(self.watcher.objects() != self.objects, "objects have changed")
        actual = self.watcher.documents()
        for name in ("meta/schema", "meta/restored"):
            actual.pop(name, None)
        wanted = {name: document for name, document in self.documents.items() if name != "meta/schema"}
        generations = {stored.name: stored.generation for stored in self.watcher.stores["models"].list("")}
        for name, document in actual.items():
            if name.startswith("models/") and "object" in document:
                lost(generations[document["object"]] != document["generation"], f"{name} has another generation")
                document["generation"] = wanted.get(name, document)["generation"]
        lost(actual != wanted, f"documents have changed: {len(actual)}, not {len(wanted)}")
        for model in self.watcher.registry.list():
            lost(self.watcher.registry.verify(model) is not None, f"{model.title} is damaged")
        differs(
            self.watcher.database["meta"].find_one({"_id": "restoring"}) is not None,
            "the restoration still counts as begun",
        )

    def step(self) -> None:
        self.empty()
        for _ in range(self.workspace.random.choice((1, 2, 3, 4))):
            self.kill(*self.command)
            self.tally.reruns += 1
            begun = self.watcher.database["meta"].find_one({"_id": "restoring"})
            if begun is None and self.watcher.database["users"].find_one({}) is not None:
                break  # killed at its very end
        else:
            self.rerun(*self.command)
        self.check()
        self.converged()


class Serve(Kind):
    """The server under load: clients send feedback and request recommendations."""

    CLIENTS = 4

    def __init__(self, workspace: Workspace, tally: Tally) -> None:
        from gh_assets_tests.support.served_home import furnish

        super().__init__(workspace, tally)
        workspace.environment |= {"GH_ASSETS_SERVE_RATE": "0", "GH_ASSETS_LIVE_REQUESTS": "0"}
        self.served_home = furnish(workspace.settings, workspace.folder)
        self.port = free_port()
        self.verdicts: dict[str, str] = {}
        self.responses: Counter[int] = Counter()
        self.process = self.workspace.start("serve", "--port", str(self.port))
        self.wait()
        self.start_threads(*(partial(self.use, number) for number in range(self.CLIENTS)))

    def close(self) -> None:
        self.stop_threads()
        self.process.terminate()
        self.process.join()
        self.tally.notes[f"verdicts acknowledged: {len(self.verdicts):,}; responses"] += 1
        self.tally.notes |= {f"responses {status}": count for status, count in self.responses.items()}
        self.watcher.close()

    def use(self, number: int) -> None:
        base = f"http://127.0.0.1:{self.port}/api/v1"
        names = [row["full_name"] for row in self.served_home.rows[:60]]
        count = 0
        while not self.ending.wait(0.01):
            count += 1
            person = f"person-of-client-{number}-{count}"
            repository, verdict = names[count % len(names)], ("known", "not_interested")[count % 2]
            try:
                with requests.Session() as session:
                    response = session.post(
                        f"{base}/feedback", json={"person": person, "repo": repository, "verdict": verdict}, timeout=10
                    )
                    if response.ok:
                        with self.lock:
                            self.verdicts[f"{person} {repository}"] = verdict
                    recommended = session.get(f"{base}/users/person-{count % 50}/recommendations", timeout=10)
                    if recommended.ok and not recommended.json()["recommendations"]:
                        recommended.status_code = 299
                with self.lock:
                    self.responses.update((response.status_code, recommended.status_code))
            except requests.RequestException:
                continue

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).ok:
                    return
            differs(self.process.exitcode is not None, f"the server ended: {self.workspace.output()}")
            differs(time.monotonic() > deadline, f"the server does not start: {self.workspace.output()}")
            time.sleep(0.05)

    def step(self) -> None:
        # Kill it both while it starts and while it serves.
        if self.workspace.random.random() < 0.7:
            self.wait()
        time.sleep(self.workspace.random.uniform(0.0, 1.0))
        differs(self.process.exitcode is not None, f"the server ended: {self.workspace.output()}")
        self.process.kill()
        self.process.join()
        self.tally.killed()
        self.process = self.workspace.start("serve", "--port", str(self.port))
        self.tally.reruns += 1
        if self.tally.kills % EVERY == 0:
            self.check()

    def finish(self) -> None:
        self.check()

    def check(self) -> None:
        self.wait()
        with self.lock:
            acknowledged = dict(self.verdicts)
        deadline = time.monotonic() + 30
        while missing := acknowledged.items() - self.stored().items():
            lost(time.monotonic() > deadline, f"{len(missing)} verdicts, such as {min(missing)}")
            time.sleep(0.5)
        broken = {status: count for status, count in self.responses.items() if status in (299, 500)}
        differs(bool(broken), f"responses {broken}: {self.workspace.output()}")
        differs("Traceback" in self.workspace.output(), f"a traceback: {self.workspace.output()}")
        # A journal is removed shortly after all its entries are stored.
        while len(self.journals()) > 1:
            differs(time.monotonic() > deadline, f"journals of dead servers are left: {sorted(self.journals())}")
            time.sleep(0.1)
        self.tally.converged()
        self.workspace.check_leftovers()

    def journals(self) -> set[str]:
        """Return the servers that have a journal, including the running one."""
        paths = (self.workspace.home / "web").rglob("*")
        names = [path.name for path in paths if path.suffix in (".lock", ".shipping", ".jsonl")]
        return {"-".join(name.split(".")[0].split("-")[:2]) for name in names}

    def stored(self) -> dict[str, str]:
        documents = self.watcher.database["feedback"].find()
        return {
            f"{entry['said']['person']} {entry['said']['full_name']}": entry["said"]["verdict"] for entry in documents
        }


class ServerKills(Kind):
    """An embedded server is killed while a whole run and a writing program are running."""

    ends_at_an_error = True

    def __init__(self, workspace: Workspace, tally: Tally, key: str) -> None:
        super().__init__(workspace, tally)
        self.key = key
        self.world = write_world(workspace.folder / "stars.parquet")
        self.command = run_command(workspace)
        self.objects: dict[str, bytes] = {}
        self.versions: dict[int, float] = {}
        self.promoted: dict[int, int] = {}
        self.failure: BaseException | None = None
        self.start_threads(partial(self.guarded, self.write), partial(self.guarded, self.run))

    def close(self) -> None:
        self.stop_threads()
        self.tally.notes |= {"objects": len(self.objects), "models": len(self.versions), "moves": len(self.promoted)}
        super().close()

    def guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except WrongError as error:
            self.failure = error
        except BaseException:  # noqa: BLE001 - every failure is reported
            self.failure = WrongError(traceback.format_exc(), lost=False)

    def write(self) -> None:
        """Write, save and promote as a program that uses the library; repeat what raises under the next number."""
        for number in itertools.count(1):
            if self.ending.wait(0.05):
                return
            try:
                content = f"object {number} ".encode() * 200
                self.watcher.stores["data"].write(f"kept/{number % 500}", content)
                self.acknowledge(self.objects, f"kept/{number % 500}", content)
                if number % 5 == 0:
                    version = self.watcher.save(number, "written", 5_000)
                    self.acknowledge(self.versions, version, float(number))
                    self.acknowledge(self.promoted, self.promote(version).revision, version)
            except (GhAssetsError, PyMongoError) as error:
                self.tally.notes[f"a failed write: {type(error).__name__}"] += 1
                self.start_servers()

    def acknowledge(self, known: dict[K, V], key: K, value: V) -> None:
        with self.lock:
            known[key] = value

    def start_servers(self) -> None:
        """Start the servers whose guardians gave up, as the next use does."""
        embedded.mongo_uri(self.workspace.home)
        embedded.cloud_storage(self.workspace.home)

    def promote(self, version: int) -> Move:
        """Promote a model under its own alias, because these models cannot recommend."""
        aliases, (purpose, alias) = self.watcher.registry.aliases, ALIAS
        promotion = Promotion("written", version, why="it is newer", by="kills", purpose=purpose, alias=alias)
        return aliases.promote(promotion, after=aliases.current(purpose, alias))

    def run(self) -> None:
        """Repeat `gh-assets run`."""
        for number in itertools.count(1):
            if self.ending.is_set():
                return
            process = self.workspace.start(*self.command, *(("--full", "--retrain") if number % 2 == 0 else ()))
            process.join(TIMEOUT)
            output = self.workspace.log.read_text()
            errors = [line for line in output.splitlines() if line.startswith("Error:")]
            differs(process.exitcode is None, f"run hangs: {output[-1000:]}")
            differs("Traceback" in output, f"a traceback: {output[-3000:]}")
            differs(process.exitcode not in (0, 1), f"run ended with {process.exitcode}: {output[-1000:]}")
            differs(process.exitcode == 1 and len(errors) != 1, f"run failed without a sentence: {output[-1000:]}")
            self.tally.reruns += 1
            self.tally.notes["runs that failed with a sentence" if process.exitcode else "runs that survived"] += 1
            if process.exitcode:
                print(errors[0][:300], file=sys.stderr, flush=True)
            else:
                self.tally.converged()

    def step(self) -> None:
        # Both cases occur: the guardian restarts the server, or gives up after 5 restarts within 10 seconds.
        time.sleep(self.workspace.random.uniform(0.5, 3.5))
        pid = read_state(self.workspace.home / "run" / self.key).get("server_pid")
        if pid is not None and Path(f"/proc/{pid}").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.tally.killed()
        if self.failure is not None:
            raise self.failure
        if self.tally.kills % EVERY == 0:
            self.check()

    def check(self) -> None:
        with self.lock:
            objects, versions, promoted = dict(self.objects), dict(self.versions), dict(self.promoted)
        for attempt in range(20):
            try:
                self.check_writes(objects, versions, promoted)
                return
            except (GhAssetsError, PyMongoError):
                differs(attempt == 19, "the servers do not restart")
                self.start_servers()
                time.sleep(0.2)

    def check_writes(self, objects: dict[str, bytes], versions: dict[int, float], promoted: dict[int, int]) -> None:
        for name, content in objects.items():
            actual = self.watcher.stores["data"].read(name)
            # A newer write has a larger number.
            newer = actual != content and int(actual.split()[1]) > int(content.split()[1])
            lost(actual != content and not newer, f"the object {name} differs from the acknowledged content")
        models = {model.version: model.score for model in self.watcher.registry.list("written")}
        for version, score in versions.items():
            lost(models.get(version) != score, f"the model {version}")
        moves = {move.revision: move.version for move in self.watcher.registry.aliases.history(*ALIAS)}
        lost(sorted(moves) != list(range(1, len(moves) + 1)), f"the history has a hole: {sorted(moves)}")
        self.watcher.moves()
        for revision, version in promoted.items():
            lost(moves.get(revision) != version, f"the move {revision}")

    def finish(self) -> None:
        """Check that a last run finishes and that everything is correct."""
        self.stop_threads()
        if self.failure is not None:
            raise self.failure
        self.check()
        self.workspace.run(*self.command)
        tables = self.watcher.assets.read_tables("stargazers", self.watcher.assets.partitions("stargazers"))
        stars = sum(len(table) for table in tables.values())
        lost(stars != sum(map(len, self.world.values())), f"{stars} stars")
        self.watcher.check_models({}, whole=True)
        self.workspace.run("doctor")
        self.workspace.check_leftovers()


KINDS: dict[str, Callable[[Workspace, Tally], Kind]] = {
    "run": Run,
    "serve": Serve,
    "promote": lambda workspace, tally: Moves(workspace, tally, "promote"),
    "rollback": lambda workspace, tally: Moves(workspace, tally, "rollback"),
    "undo": Undo,
    "backup": Backup,
    "restore": Restore,
    "bucket": lambda workspace, tally: ServerKills(workspace, tally, "bucket"),
    "mongodb": lambda workspace, tally: ServerKills(workspace, tally, "mongo"),
}


def kill_many(kind: str, kills: int, minutes: float, folder: Path, seed: int, fresh: bool) -> Tally:
    """Run one kind until it has `kills` kills, or `minutes` are over."""
    tally = Tally()
    started = time.monotonic()
    workspace = Workspace(folder / kind, random.Random(f"{seed} {kind}"), fresh)
    work = KINDS[kind](workspace, tally)
    try:
        reported = 0
        while tally.kills < kills and time.monotonic() - started < 60 * minutes:
            if tally.kills >= reported + 5 * EVERY:
                reported = tally.kills
                print(f"{kind}: {reported} kills in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            try:
                work.step()
            except WrongError as error:
                tally.wrong(error, kind)
                if work.ends_at_an_error or tally.lost + tally.diverged >= 20:
                    break
        try:
            work.finish()
        except WrongError as error:
            tally.wrong(error, kind)
    finally:
        work.close()
    tally.seconds = time.monotonic() - started
    if work.seconds:
        tally.notes[f"a command takes {work.seconds:.2f} s"] += 1
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="Number of kills of each kind.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="Maximum duration of each kind.")
    parser.add_argument("--what", default=",".join(KINDS), help="Kinds, separated by commas.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="Start a new interpreter for each command.")
    parser.add_argument("--keep", type=Path, help="New folder for the homes, which are kept.")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    FORKS.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
    bad = 0
    print(
        "| kind | kills | reruns | lost | not converged | kills in a row | seconds | |\n" + "|---" * 8 + "|", flush=True
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=options.keep is None)
        for kind in options.what.split(","):
            tally = kill_many(kind, options.kills, options.minutes, folder, options.seed, options.fresh)
            print(tally.row(kind), flush=True)
            bad += tally.lost + tally.diverged
    if bad:
        sys.exit(f"{bad} cases in which data were lost or the state did not converge.")


if __name__ == "__main__":
    main()
