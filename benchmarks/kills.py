"""`kill -9` of the commands and of the servers beneath them: what is lost, and what does not converge.

Run: python benchmarks/kills.py [--kills 200] [--what run,serve,promote,rollback,undo,backup,restore,bucket,mongodb]

Each kind has a home of its own with small synthetic data. A command is started as people start it, in a process of its
own, and killed at a uniformly random moment of the time that it needs; then it is started again, and killed again or
left to end. After each kill the whole is checked from outside: all that was acknowledged before is there with the same
content, nothing is half. After each command that ended by itself: exit code 0, the state that was asked for, no file of
a killed process left. `bucket` and `mongodb` kill the embedded server instead, while `gh-assets run` and a program that
saves models, promotes them and writes objects are at work: these may fail with one sentence, and then do it again.

So that 200 kills take minutes, the processes are forks of one that has imported everything; with --fresh each is a new
interpreter.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import datetime as dt
import hashlib
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import requests
from pymongo.errors import PyMongoError

from gh_assets.embedded import servers as embedded
from gh_assets.embedded.supervision import read_state, release
from gh_assets.errors import GhAssetsError
from gh_assets.instance.storage import open_instance
from gh_assets.registry import CHAMPION, PURPOSE, ModelCard, ModelRegistry, Move, Promotion
from gh_assets.services.connections import asset_store, connect_gcs, connect_mongo, data_store, model_store
from gh_assets.settings import Settings, load_settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.backup import MANIFEST, back_up
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = (
    *("matplotlib.figure", "rich.progress", "pyarrow.parquet", "safetensors.torch", "gh_assets.storage.backup"),
    *(
        "gh_assets.recommender.training.training",
        "gh_assets.recommender.models.hybrid",
        "gh_assets.cli",
        "gh_assets.web.server",
    ),
    *(
        "gh_assets.serving.current_model",
        "gh_assets.definitions",
        "gh_assets.cli.chain",
        "gh_assets.cli.documents",
        "gh_assets.cli.service_checks",
    ),
)
USERS, REPOSITORIES = 40, 16
EVERY = 10
"""Kills after which a kind is left to end, and looked at as a whole."""

ALIAS = "be written", "newest"
"""Purpose and alias of the models of the program that writes."""

PATIENCE = 900.0
"""Seconds after which a command that has not ended counts as hanging."""


class WrongError(Exception):
    """Something was lost (`lost`), or did not converge."""

    def __init__(self, words: str, *, lost: bool) -> None:
        super().__init__(words)
        self.lost = lost


def lost(condition: bool, words: str) -> None:
    if condition:
        raise WrongError(words, lost=True)


def differs(condition: bool, words: str) -> None:
    if condition:
        raise WrongError(words, lost=False)


@dataclass
class Tally:
    """What came of one kind."""

    kills: int = 0
    reruns: int = 0
    in_a_row: int = 0
    worst: int = 0
    lost: int = 0
    diverged: int = 0
    seconds: float = 0.0
    notes: dict[str, int] = field(default_factory=dict)

    def killed(self) -> None:
        self.kills += 1
        self.in_a_row += 1

    def converged(self) -> None:
        """A rerun ended by itself, and all is as it was asked for."""
        self.worst = max(self.worst, self.in_a_row)
        self.in_a_row = 0

    def note(self, words: str) -> None:
        self.notes[words] = self.notes.get(words, 0) + 1

    def wrong(self, error: WrongError, kind: str) -> None:
        self.lost += error.lost
        self.diverged += not error.lost
        print(f"{kind}, after {self.kills} kills: {error}", file=sys.stderr, flush=True)

    def row(self, kind: str) -> str:
        notes = "; ".join(
            words if words.startswith("a command") else f"{words}: {count}"
            for words, count in sorted(self.notes.items())
        )
        return (
            f"| {kind} | {self.kills} | {self.reruns} | {self.lost} | {self.diverged} | {self.worst} "
            f"| {self.seconds:.0f} | {notes} |"
        )


# -- processes ---------------------------------------------------------------------------------------------------------


def enter(arguments: list[str], environment: dict[str, str], folder: str, log: str, fresh: bool) -> None:
    """Be the command: in the process that was made for it."""
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
        atexit._run_exitfuncs()  # a fork of multiprocessing ends without them


@dataclass
class Place:
    """A home, and the commands that are run on it."""

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
        """Let it end by itself; gives the seconds that it took."""
        started = time.monotonic()
        process = self.start(*arguments)
        self.end(process, arguments)
        return time.monotonic() - started

    def end(self, process: ForkServerProcess, arguments: tuple[str, ...]) -> None:
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise WrongError(f"{' '.join(arguments)} hangs: {self.said()}", lost=False)
        differs("Traceback" in self.said(), f"a traceback: {self.said()}")
        differs(process.exitcode != 0, f"{' '.join(arguments)} ended with {process.exitcode}: {self.said()}")

    def measure(self, *arguments: str) -> float:
        """Seconds that it takes."""
        return min(self.run(*arguments) for _ in range(4))

    def kill(self, seconds: float, *arguments: str) -> bool:
        """Kill it at a random moment of so many seconds; False if it had ended by then."""
        process = self.start(*arguments)
        process.join(self.random.uniform(0.0, seconds))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            return True
        self.end(process, arguments)
        return False

    def said(self) -> str:
        with contextlib.suppress(FileNotFoundError):  # it was killed before it could say a word
            return self.log.read_text(errors="replace").strip()[-3000:]
        return ""

    def check_leftovers(self) -> None:
        """No scratch file, and no draft, of a process that is no more."""
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
    """Somebody who was not there: reads what is stored, directly."""

    def __init__(self, place: Place) -> None:
        settings = place.settings
        self.place = place
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
        self.place.close()

    def save(self, number: int, name: str = "recvae", size: int = 50_000) -> int:
        path = self.place.folder / "weights.bin"
        path.write_bytes(f"model {number} ".encode() * (size // 10))
        return self.registry.save(path, ModelCard(name, float(number))).version or 0

    def moves(self) -> list[Move]:
        """All, the first one first."""
        moves = self.registry.aliases.history(PURPOSE, CHAMPION)[::-1]
        found = [move.revision for move in moves]
        lost(found != list(range(1, len(moves) + 1)), f"the history has a hole: {found}")
        return moves

    def objects(self) -> dict[str, str]:
        return {f"{kind}/{found.name}": found.crc32c for kind, store in self.stores.items() for found in store.list("")}

    def documents(self) -> dict[str, Any]:
        return {
            f"{name}/{found['_id']}": found
            for name in self.database.list_collection_names()
            for found in self.database[name].find()
        }

    def check_models(self, known: dict[tuple[str, int], str], *, whole: bool = False) -> None:
        """All that were registered are there, each with its bytes; adds those that are new to `known`."""
        found = {(model.name, model.version or 0): model for model in self.registry.list()}
        for key, sha256 in known.items():
            lost(key not in found or found[key].sha256 != sha256, f"the model {key} is not what it was")
        for key, model in found.items():
            problem = self.registry.verify(model) if whole else self.registry.problem(model)
            lost(problem is not None, f"the model {key}: {problem}")
            known[key] = str(model.sha256)


def prefix_of(before: list[Move], after: list[Move]) -> None:
    lost(after[: len(before)] != before, "a move of the champion is not what it was")


# -- the kinds ---------------------------------------------------------------------------------------------------------


def write_world(path: Path) -> dict[str, set[str]]:
    """A file of stars; gives who starred what."""
    rng = np.random.default_rng(3)
    stars: dict[str, set[str]] = {f"Owner{repo % 3}/repo-{repo}": set() for repo in range(REPOSITORIES)}
    names = list(stars)
    for user in range(USERS):
        weights = np.where(np.arange(REPOSITORIES) % 3 == user % 3, 1.0, 0.1)
        for repo in rng.choice(REPOSITORIES, size=rng.integers(4, 9), replace=False, p=weights / weights.sum()):
            stars[names[repo]].add(f"Login-{user}")
    rows = [(repo, login) for repo, logins in stars.items() for login in sorted(logins)]
    pl.DataFrame(rows, schema=["repo", "login"], orient="row").write_parquet(path)
    return {repo.lower(): logins for repo, logins in stars.items() if logins}


class Run:
    """The whole chain. Home after home: killed again and again from the first moment on, and then left to end."""

    def __init__(self, place: Place, tally: Tally) -> None:
        self.root, self.tally = place, tally
        self.world = write_world(place.folder / "stars.parquet")
        self.command = ("run", "--stars", str(place.folder / "stars.parquet"), "--epochs", "2")
        self.seconds, self.homes = 0.0, 0
        self.matrix = ""
        self.open()
        self.seconds = self.place.run(*self.command)
        self.check_whole()

    def open(self) -> None:
        self.homes += 1
        self.place = Place(self.root.folder / str(self.homes), self.root.random, self.root.fresh)
        self.watcher = Watcher(self.place)
        self.models: dict[tuple[str, int], str] = {}
        self.moves: list[Move] = []
        self.stars: dict[str, set[str]] = {}
        self.kills = 0

    def close(self) -> None:
        self.watcher.close()

    def read_stars(self) -> dict[str, set[str]]:
        partitions = self.watcher.assets.partitions("stargazers")
        tables = self.watcher.assets.read_tables("stargazers", partitions)
        return {partition: set(table["login"]) for partition, table in tables.items()}

    def step(self) -> None:
        again = ("--full", "--retrain") if self.kills > EVERY // 2 else ()
        if self.place.kill(1.02 * self.seconds, *self.command, *again):
            self.tally.killed()
            self.kills += 1
        self.tally.reruns += 1
        stars = self.read_stars()
        for partition, logins in self.stars.items():
            lost(not logins <= stars.get(partition, set()), f"stars of {partition}")
        self.stars = stars
        self.watcher.check_models(self.models)
        moves = self.watcher.moves()
        prefix_of(self.moves, moves)
        self.moves = moves
        if self.kills == EVERY:
            try:
                self.place.run(*self.command)
                self.tally.reruns += 1
                self.check_whole()
            finally:
                self.close()
                shutil.rmtree(self.place.folder, ignore_errors=True)
                self.open()

    def check_whole(self) -> None:
        assets = self.watcher.assets
        repos = assets.read_table("repos")
        names = {str(row["repo_id"]): row["full_name"].lower() for row in repos.iter_rows(named=True)}
        found = {names.get(partition, partition.lower()): logins for partition, logins in self.read_stars().items()}
        found = {name: logins for name, logins in found.items() if logins}
        lost(found != self.world, f"stars are {sum(map(len, found.values()))} of {sum(map(len, self.world.values()))}")
        everybody = set().union(*self.world.values())
        differs(set(assets.read_table("users")["login"]) != everybody, "users")
        matrix = assets.read_matrix("user_item_matrix")
        self.matrix = self.matrix or matrix.fingerprint
        differs(matrix.fingerprint != self.matrix, "the matrix is another one")
        differs(set(assets.read_table("recommendations")["login"]) != everybody, "a user has no recommendations")
        self.watcher.check_models(self.models, whole=True)
        champion = self.watcher.registry.champion()
        differs(self.watcher.moves()[-1].version != champion.version, "the champion")
        self.check_runs()
        self.place.check_leftovers()
        self.place.run("models", "sweep", "--grace", "0")
        named = {model.object for model in self.watcher.registry.list()}
        differs(set(self.watcher.stores["models"].names("")) != named, "orphans are left after a sweep")
        self.place.run("doctor")
        self.tally.converged()

    def check_runs(self) -> None:
        """No run of a killed command counts as running."""
        before = os.environ.get("GH_ASSETS_HOME")
        os.environ["GH_ASSETS_HOME"] = str(self.place.home)
        try:
            with open_instance() as instance:
                going = [run.status.value for run in instance.get_runs() if not run.is_finished]
        finally:
            os.environ.pop("GH_ASSETS_HOME")
            if before is not None:
                os.environ["GH_ASSETS_HOME"] = before
        differs(bool(going), f"Dagster has runs that no process executes: {going}")


class Moves:
    """The champion, promoted or rolled back."""

    def __init__(self, place: Place, tally: Tally, action: str) -> None:
        self.place, self.tally, self.action = place, tally, action
        self.watcher = Watcher(place)
        self.models: dict[tuple[str, int], str] = {}
        for number in range(3):
            self.watcher.save(number)
        for version in (1, 2, 3):
            self.watcher.registry.promote(Promotion("recvae", version, why="the beginning"))
        self.watcher.check_models(self.models, whole=True)
        self.number = 0
        self.seconds = place.measure("models", "promote", "recvae", "1", "--why", "to see how long it takes")

    def close(self) -> None:
        self.watcher.close()

    def step(self) -> None:
        self.number += 1
        registry = self.watcher.registry
        before = self.watcher.moves()
        current = before[-1]
        why = f"kill {self.number}"
        if self.action == "promote":
            wanted = self.place.random.choice([version for version in (1, 2, 3) if version != current.version])
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
        if self.place.kill(self.seconds, *command):
            self.tally.killed()
        between = self.watcher.moves()
        prefix_of(before, between)
        differs(len(between) > len(before) + 1, "it moved twice")
        moved = len(between) > len(before)
        if moved:
            differs((between[-1].version, between[-1].why) != (wanted, why), "a move that was not requested")
            self.tally.note("killed after it was done")
        differs(self.watcher.registry.champion().version != (wanted if moved else current), "the champion is neither")
        if not moved or self.action == "promote":  # a second rollback goes on to the one before
            self.place.run(*command)
            self.tally.reruns += 1
            prefix_of(between, self.watcher.moves())
            differs(self.watcher.registry.champion().version != wanted, "the champion is not what was asked for")
        self.tally.converged()
        self.watcher.check_models(self.models)
        self.place.check_leftovers()


class Undo:
    """An asset with partitions, some changed, some new; and an asset that was not there at all."""

    PARTITIONS = 24

    def __init__(self, place: Place, tally: Tally) -> None:
        self.place, self.tally = place, tally
        self.watcher = Watcher(place)
        self.number = 0
        self.write("parts", range(self.PARTITIONS // 2))
        self.change()
        self.seconds = place.run("data", "undo", "parts", "--before", self.before)
        place.run("data", "undo", "late", "--before", self.before)
        for _ in range(3):
            self.change()
            self.seconds = min(self.seconds, place.run("data", "undo", "parts", "--before", self.before))
            place.run("data", "undo", "late", "--before", self.before)

    def close(self) -> None:
        self.watcher.close()

    def write(self, asset: str, partitions: range) -> None:
        self.number += 1
        tables = ((f"o/{n}", pl.DataFrame({"number": [self.number] * 50})) for n in partitions)
        list(self.watcher.assets.write_tables(asset, tables))

    def read(self, asset: str) -> dict[str, int]:
        tables = self.watcher.assets.read_tables(asset, self.watcher.assets.partitions(asset))
        for partition, table in tables.items():
            differs(table.height != 50 or table["number"].n_unique() != 1, f"{partition} is half")
        return {partition: int(table["number"][0]) for partition, table in tables.items()}

    def change(self) -> None:
        """A bad run."""
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
            if self.place.kill(self.seconds, *command):
                self.tally.killed()
            for partition, number in self.read(asset).items():
                allowed = {wanted.get(partition), after.get(partition)} if asset == "parts" else {self.number}
                lost(
                    number not in allowed,
                    f"{asset} {partition} has the content {number}, that it had at neither time: {allowed}",
                )
            if asset == "parts":
                gone = set(at) - set(self.read(asset))
                lost(bool(gone), f"partitions are gone: {gone}")
            self.place.run(*command)
            self.tally.reruns += 1
            differs(self.read(asset) != wanted, f"{asset} is {self.read(asset)}, not {wanted}, before {self.before}")
            self.tally.converged()
        self.place.check_leftovers()


def fill(watcher: Watcher) -> None:
    """Documents, objects and models to be copied."""
    people = [{"_id": number, "login": f"person-{number}", "stars": [number] * 20} for number in range(3000)]
    watcher.database["users"].insert_many(people)
    for number in range(60):
        watcher.stores["data"].write(
            f"assets/parts/o%2F{number}.parquet", os.urandom(500 * number), metadata={"a": "b"}
        )
    for number in range(4):
        watcher.save(number, size=1_500_000)
    for version in (1, 2):
        watcher.registry.promote(Promotion("recvae", version, why="it is better"))


def check_backup(folder: Path, objects: Mapping[str, str], documents: Mapping[str, Any]) -> None:
    """A finished backup is whole."""
    from base64 import b64encode

    import bson
    import google_crc32c

    lost(not (folder / MANIFEST).exists(), f"{folder.name} has its name and no manifest")
    manifest = json.loads((folder / MANIFEST).read_text())
    found = {}
    for entry in manifest["objects"]:
        content = (folder / entry["bucket"] / entry["file"]).read_bytes()
        lost(hashlib.sha256(content).hexdigest() != entry["sha256"], f"{entry['name']} is damaged in {folder.name}")
        crc32c = b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()
        found[f"{entry['bucket']}/{entry['name']}"] = crc32c
    lost(found != objects, f"{folder.name} has other objects: {len(found)}, not {len(objects)}")
    options: bson.CodecOptions[dict[str, Any]] = bson.CodecOptions(tz_aware=True)
    kept = {}
    for name in manifest["collections"]:
        for document in bson.decode_all((folder / "mongo" / f"{name}.bson").read_bytes(), options):
            kept[f"{name}/{document['_id']}"] = document
    lost(kept != documents, f"{folder.name} has other documents: {len(kept)}, not {len(documents)}")


class Backup:
    def __init__(self, place: Place, tally: Tally) -> None:
        self.place, self.tally = place, tally
        self.watcher = Watcher(place)
        fill(self.watcher)
        self.objects, self.documents = self.watcher.objects(), self.watcher.documents()
        self.number = 0
        self.backups = place.folder / "backups"
        self.seconds = min(place.run("data", "backup", str(self.backups / str(-n))) for n in range(4))

    def close(self) -> None:
        self.watcher.close()

    def step(self) -> None:
        shutil.rmtree(self.backups)
        self.number += 1
        folder = self.backups / str(self.number)
        for _ in range(self.place.random.choice((1, 2, 3))):
            if self.place.kill(self.seconds, "data", "backup", str(folder)):
                self.tally.killed()
            if folder.exists():
                self.tally.note("killed after it was done, or done")
                break
            self.tally.reruns += 1
        finished = [folder] if folder.exists() else []
        again = folder.with_name(f"{folder.name}-again") if finished else folder
        self.place.run("data", "backup", str(again))
        self.tally.reruns += 1
        for one in {*finished, again}:
            check_backup(one, self.objects, self.documents)
        names = {path.name for path in self.backups.iterdir()}
        differs(names != {path.name for path in (*finished, again)}, f"files are left beside the backup: {names}")
        self.tally.converged()
        self.place.check_leftovers()


class Restore:
    def __init__(self, place: Place, tally: Tally) -> None:
        self.place, self.tally = place, tally
        source = Watcher(Place(place.folder / "source", place.random))
        fill(source)
        self.objects, self.documents = source.objects(), source.documents()
        self.backup = place.folder / "backup"
        back_up(source.database, source.stores, self.backup)
        source.close()
        self.watcher = Watcher(place)
        self.command = ("data", "restore", str(self.backup))
        self.seconds = place.run(*self.command)
        self.check()
        self.empty()
        self.seconds = min(self.seconds, place.run(*self.command))

    def close(self) -> None:
        self.watcher.close()

    def empty(self) -> None:
        for name in self.watcher.database.list_collection_names():
            if name != "meta":  # which migrations there were
                self.watcher.database[name].delete_many({})
        self.watcher.database["meta"].delete_many({"_id": {"$ne": "schema"}})
        for store in self.watcher.stores.values():
            for name in list(store.names("")):
                store.delete(name)

    def check(self) -> None:
        lost(self.watcher.objects() != self.objects, "objects are not what they were")
        found = self.watcher.documents()
        for name in ("meta/schema", "meta/restored"):
            found.pop(name, None)
        wanted = {name: document for name, document in self.documents.items() if name != "meta/schema"}
        generations = {stored.name: stored.generation for stored in self.watcher.stores["models"].list("")}
        for name, document in found.items():
            if name.startswith("models/") and "object" in document:
                lost(generations[document["object"]] != document["generation"], f"{name} has another generation")
                document["generation"] = wanted.get(name, document)["generation"]
        lost(found != wanted, f"documents are not what they were: {len(found)}, not {len(wanted)}")
        for model in self.watcher.registry.list():
            lost(self.watcher.registry.verify(model) is not None, f"{model.title} is not whole")
        differs(self.watcher.database["meta"].find_one({"_id": "restoring"}) is not None, "it counts as begun")

    def step(self) -> None:
        self.empty()
        for _ in range(self.place.random.choice((1, 2, 3, 4))):
            if self.place.kill(self.seconds, *self.command):
                self.tally.killed()
            self.tally.reruns += 1
            begun = self.watcher.database["meta"].find_one({"_id": "restoring"})
            if begun is None and self.watcher.database["users"].find_one({}) is not None:
                break  # killed in its last moment
        else:
            self.place.run(*self.command)
            self.tally.reruns += 1
        self.check()
        self.tally.converged()
        self.place.check_leftovers()


class Serve:
    """The server under load: clients say what they think of recommendations and ask for others."""

    CLIENTS = 4

    def __init__(self, place: Place, tally: Tally) -> None:
        from gh_assets_tests.support.served_home import furnish

        self.place, self.tally = place, tally
        place.environment |= {"GH_ASSETS_SERVE_RATE": "0", "GH_ASSETS_LIVE_REQUESTS": "0"}
        self.served_home = furnish(place.settings, place.folder)
        self.watcher = Watcher(place)
        self.port = free_port()
        self.said: dict[str, str] = {}
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.answers: dict[int, int] = {}
        self.threads = [threading.Thread(target=self.use, args=(number,)) for number in range(self.CLIENTS)]
        self.process = self.place.start("serve", "--port", str(self.port))
        self.wait()
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()
        self.process.terminate()
        self.process.join()
        self.tally.note(f"verdicts acknowledged: {len(self.said):,}; answers")
        self.tally.notes |= {f"answers {status}": count for status, count in self.answers.items()}
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
                    said = session.post(
                        f"{base}/feedback",
                        json={"person": person, "repo": repository, "verdict": verdict},
                        timeout=10,
                    )
                    if said.ok:
                        with self.lock:
                            self.said[f"{person} {repository}"] = verdict
                    asked = session.get(f"{base}/users/person-{count % 50}/recommendations", timeout=10)
                    if asked.ok and not asked.json()["recommendations"]:
                        asked.status_code = 299
                with self.lock:
                    for status in (said.status_code, asked.status_code):
                        self.answers[status] = self.answers.get(status, 0) + 1
            except requests.RequestException:
                continue

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).ok:
                    return
            differs(self.process.exitcode is not None, f"the server ended: {self.place.said()}")
            differs(time.monotonic() > deadline, f"the server does not come up: {self.place.said()}")
            time.sleep(0.05)

    def step(self) -> None:
        # While it comes up, and while it is at work.
        if self.place.random.random() < 0.7:
            self.wait()
        time.sleep(self.place.random.uniform(0.0, 1.0))
        differs(self.process.exitcode is not None, f"the server ended: {self.place.said()}")
        self.process.kill()
        self.process.join()
        self.tally.killed()
        self.process = self.place.start("serve", "--port", str(self.port))
        self.tally.reruns += 1
        if self.tally.kills % EVERY == 0:
            self.check()

    def check(self) -> None:
        self.wait()
        with self.lock:
            acknowledged = dict(self.said)
        deadline = time.monotonic() + 30
        while missing := acknowledged.items() - self.stored().items():
            lost(time.monotonic() > deadline, f"{len(missing)} verdicts, such as {min(missing)}")
            time.sleep(0.5)
        broken = {status: count for status, count in self.answers.items() if status in (299, 500)}
        differs(bool(broken), f"answers {broken}: {self.place.said()}")
        differs("Traceback" in self.place.said(), f"a traceback: {self.place.said()}")
        # A journal goes once all that is in it is stored: a moment after.
        while len(self.journals()) > 1:
            differs(time.monotonic() > deadline, f"journals of dead servers are left: {sorted(self.journals())}")
            time.sleep(0.1)
        self.tally.converged()
        self.place.check_leftovers()

    def journals(self) -> set[str]:
        """The servers that left a journal, the living one included."""
        found = (self.place.home / "web").rglob("*")
        names = [path.name for path in found if path.suffix in (".lock", ".shipping", ".jsonl")]
        return {"-".join(name.split(".")[0].split("-")[:2]) for name in names}

    def stored(self) -> dict[str, str]:
        found = self.watcher.database["feedback"].find()
        return {f"{one['said']['person']} {one['said']['full_name']}": one["said"]["verdict"] for one in found}


def free_port() -> int:
    from gh_assets.embedded.guardian import free_port as find

    return find(None)


class Beneath:
    """An embedded server is killed while a whole run and a program that writes are at work."""

    def __init__(self, place: Place, tally: Tally, key: str) -> None:
        self.place, self.tally, self.key = place, tally, key
        self.world = write_world(place.folder / "stars.parquet")
        self.command = ("run", "--stars", str(place.folder / "stars.parquet"), "--epochs", "2")
        self.watcher = Watcher(place)
        self.ending = threading.Event()
        self.lock = threading.Lock()
        self.objects: dict[str, bytes] = {}
        self.versions: dict[int, float] = {}
        self.promoted: dict[int, int] = {}
        self.failure: BaseException | None = None
        self.threads = [threading.Thread(target=self.guarded, args=(work,)) for work in (self.write, self.run)]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()
        self.tally.notes |= {"objects": len(self.objects), "models": len(self.versions), "moves": len(self.promoted)}
        self.watcher.close()

    def guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except WrongError as error:
            self.failure = error
        except BaseException:  # noqa: BLE001 - anything is reported
            self.failure = WrongError(traceback.format_exc(), lost=False)

    def write(self) -> None:
        """What a program does that uses the library; what raises is done again under the next number."""
        number = 0
        while not self.ending.is_set():
            number += 1
            try:
                content = f"object {number} ".encode() * 200
                self.watcher.stores["data"].write(f"kept/{number % 500}", content)
                with self.lock:
                    self.objects[f"kept/{number % 500}"] = content
                if number % 5 == 0:
                    version = self.watcher.save(number, "written", 5_000)
                    with self.lock:
                        self.versions[version] = float(number)
                    move = self.promote(version)
                    with self.lock:
                        self.promoted[move.revision] = version
            except (GhAssetsError, PyMongoError) as error:
                self.tally.note(f"a write refused: {type(error).__name__}")
                embedded.mongo_uri(self.place.home)  # a server whose guardian gave up is started by the next use
                embedded.cloud_storage(self.place.home)
            self.ending.wait(0.05)

    def promote(self, version: int) -> Move:
        """An alias of its own: these models cannot recommend."""
        aliases = self.watcher.registry.aliases
        after = aliases.current(*ALIAS)
        purpose, alias = ALIAS
        promotion = Promotion("written", version, why="it is newer", by="kills", purpose=purpose, alias=alias)
        return aliases.promote(promotion, after=after)

    def run(self) -> None:
        """`gh-assets run`, again and again."""
        number = 0
        while not self.ending.is_set():
            number += 1
            process = self.place.start(*self.command, *(("--full", "--retrain") if number % 2 == 0 else ()))
            process.join(PATIENCE)
            said = self.place.log.read_text()
            errors = [line for line in said.splitlines() if line.startswith("Error:")]
            differs(process.exitcode is None, f"run hangs: {said[-1000:]}")
            differs("Traceback" in said, f"a traceback: {said[-3000:]}")
            differs(process.exitcode not in (0, 1), f"run ended with {process.exitcode}: {said[-1000:]}")
            differs(process.exitcode == 1 and len(errors) != 1, f"run failed without a sentence: {said[-1000:]}")
            self.tally.reruns += 1
            self.tally.note("runs that failed with a sentence" if process.exitcode else "runs that survived")
            if process.exitcode:
                print(errors[0][:300], file=sys.stderr, flush=True)
            else:
                self.tally.converged()

    def step(self) -> None:
        # The guardian gives up after 5 restarts within 10 seconds, and the next use starts it again: both happen.
        time.sleep(self.place.random.uniform(0.5, 3.5))
        pid = read_state(self.place.home / "run" / self.key).get("server_pid")
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
                self.look(objects, versions, promoted)
                return
            except (GhAssetsError, PyMongoError):
                differs(attempt == 19, "the servers do not come back")
                embedded.mongo_uri(self.place.home)
                embedded.cloud_storage(self.place.home)
                time.sleep(0.2)

    def look(self, objects: dict[str, bytes], versions: dict[int, float], promoted: dict[int, int]) -> None:
        for name, content in objects.items():
            found = self.watcher.stores["data"].read(name)
            # It may be newer by now: then it says a larger number.
            newer = found != content and int(found.split()[1]) > int(content.split()[1])
            lost(found != content and not newer, f"the object {name} is not what was acknowledged")
        models = {model.version: model.score for model in self.watcher.registry.list("written")}
        for version, score in versions.items():
            lost(models.get(version) != score, f"the model {version}")
        moves = {move.revision: move.version for move in self.watcher.registry.aliases.history(*ALIAS)}
        lost(sorted(moves) != list(range(1, len(moves) + 1)), f"the history has a hole: {sorted(moves)}")
        self.watcher.moves()
        for revision, version in promoted.items():
            lost(moves.get(revision) != version, f"the move {revision}")

    def finish(self) -> None:
        """In the end it runs through, and everything is what it should be."""
        self.ending.set()
        for thread in self.threads:
            thread.join()
        if self.failure is not None:
            raise self.failure
        self.check()
        self.place.run(*self.command)
        tables = self.watcher.assets.read_tables("stargazers", self.watcher.assets.partitions("stargazers"))
        stars = sum(len(table) for table in tables.values())
        lost(stars != sum(map(len, self.world.values())), f"{stars} stars")
        self.watcher.check_models({}, whole=True)
        self.place.run("doctor")
        self.place.check_leftovers()


KINDS: dict[str, Callable[[Place, Tally], Any]] = {
    "run": Run,
    "serve": Serve,
    "promote": lambda place, tally: Moves(place, tally, "promote"),
    "rollback": lambda place, tally: Moves(place, tally, "rollback"),
    "undo": Undo,
    "backup": Backup,
    "restore": Restore,
    "bucket": lambda place, tally: Beneath(place, tally, "bucket"),
    "mongodb": lambda place, tally: Beneath(place, tally, "mongo"),
}


@contextlib.contextmanager
def work_folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def kill_many(kind: str, kills: int, minutes: float, folder: Path, seed: int, fresh: bool) -> Tally:
    """One kind, until it was killed so often, or for so many minutes."""
    tally = Tally()
    started = time.monotonic()
    place = Place(folder / kind, random.Random(f"{seed} {kind}"), fresh)
    work = KINDS[kind](place, tally)
    try:
        said = 0
        while tally.kills < kills and time.monotonic() - started < 60 * minutes:
            if tally.kills >= said + 5 * EVERY:
                said = tally.kills
                print(f"{kind}: {said} kills in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            try:
                work.step()
            except WrongError as error:
                tally.wrong(error, kind)
                if tally.lost + tally.diverged >= 20:
                    break
                if isinstance(work, Beneath):
                    break
        if isinstance(work, Beneath | Serve):
            try:
                work.finish() if isinstance(work, Beneath) else work.check()
            except WrongError as error:
                tally.wrong(error, kind)
    finally:
        work.close()
    tally.seconds = time.monotonic() - started
    if hasattr(work, "seconds"):
        tally.note(f"a command takes {work.seconds:.2f} s")
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="Of each kind.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="Of each kind, at most.")
    parser.add_argument("--what", default=",".join(KINDS), help="Kinds, with commas.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="A new interpreter for each command.")
    parser.add_argument("--keep", type=Path, help="A new folder for the homes, which stay.")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    FORKS.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()
    bad = 0
    print(
        "| kind | kills | reruns | lost | not converged | kills in a row | seconds | |\n" + "|---" * 8 + "|", flush=True
    )
    with work_folder(options.keep) as folder:
        for kind in options.what.split(","):
            tally = kill_many(kind, options.kills, options.minutes, folder, options.seed, options.fresh)
            print(tally.row(kind), flush=True)
            bad += tally.lost + tally.diverged
    if bad:
        sys.exit(f"{bad} times something was lost or did not converge.")


if __name__ == "__main__":
    main()
