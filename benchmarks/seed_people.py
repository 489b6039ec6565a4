"""How fast people and their stars are found where stargazer lists are closed, in virtual time under GitHub's limits.

Run: python benchmarks/seed_people.py [--repositories 300] [--users 5000] [--tokens 4] [--days 1] [--starless 0.5]
     [--picture FILE] [--profile FILE]

The stand-in serves `large_world` in a process of its own, with GitHub's own limits and a virtual clock. The product
collects it twice, into an empty home each time: by ``auto``, which finds people in event feeds and among owners of
forks, and by ``starred``, for which owners of forks are the only source of people. Prints for some hours what each had
spent and found, and the limits that were exceeded. With ``--days``, ``auto`` collects once more on each further day.

A sixth of the stargazers of a repository own a fork, whatever else they starred, and no other account does: that is
kind to forks. With ``--starless``, this share of the owners of forks has starred no repository of the world.
"""

import argparse
import cProfile
import multiprocessing
import os
import resource
import secrets
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import requests
from events import serving
from pydantic import SecretStr

from gh_assets.collector.collection import StarSourceFactory
from gh_assets.collector.pipeline import StarPipeline
from gh_assets.collector.star_sources.base import CollectionOptions, RepositoryRef
from gh_assets.collector.star_sources.events import EventFeeds, FeedLook
from gh_assets.collector.star_sources.starred_lists import GraphQLStarred, UserList
from gh_assets.collector.state import CollectionState
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.clock import RemoteClock, VirtualClock
from gh_assets.embedded.standin.large import large_world
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import GrowingWorld, Repository
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.services.connections import connect_gcs, open_mongo
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.objects import ObjectStore

BEGIN, HOUR, DAY = 1_795_737_600, 3600, 86_400
FIRST_HOURS = 5
SOURCES = {"auto": "event feeds and forks", "starred": "forks alone"}


class WorldWithStarlessOwners(GrowingWorld):
    """A world in which a share of the owners of forks has starred nothing; each of them has one fork."""

    first: dict[int, int]
    """The first starless owner of a fork of a repository, by its id."""
    each: float
    """Starless owners for each other one."""

    def forkers(self, repository: Repository) -> list[int]:
        others, first = super().forkers(repository), self.first[repository.repo_id]
        mixed = [*others, *range(first, first + round(self.each * len(others)))]
        order = np.random.default_rng(repository.repo_id).permutation(len(mixed))
        return [mixed[place] for place in order.tolist()]


def made_world(options: argparse.Namespace) -> GrowingWorld:
    world = large_world(options.seed, repositories=options.repositories, users=options.users)
    if options.starless:
        each = options.starless / (1 - options.starless)
        counts = [round(each * len(world.forkers(repository))) for repository in world.repositories]
        logins = [*world.logins, *(f"starless-{number}" for number in range(sum(counts)))]
        ids = range(1_000_000, 1_000_000 + len(logins))
        first = np.cumsum([options.users, *counts[:-1]]).tolist()
        mixed = WorldWithStarlessOwners(world.repositories, logins, ids, world.lists, "a benchmark")
        mixed.first = {repository.repo_id: start for repository, start in zip(world.repositories, first, strict=True)}
        mixed.each = each
        world = mixed
    world.advance(BEGIN)
    return world


@dataclass(frozen=True)
class Truth:
    """What a world has at a time.

    Attributes
    ----------
    refs : list of RepositoryRef
    stars, people : int
        Stars of all repositories, and people who gave any.
    by_feeds, by_forks : int
        People whom feeds (at most 300 events of 30 days) and all forks name.
    """

    refs: list[RepositoryRef]
    stars: int
    people: int
    by_feeds: int
    by_forks: int


def truth_of(world: GrowingWorld) -> Truth:
    made = [repository for repository in world.repositories if repository.full_name not in world.lists]
    refs = [RepositoryRef(r.repo_id, r.full_name, r.full_name, len(r.stargazers), Outcome.OK) for r in made]
    feeds, forks = np.zeros(len(world.logins), bool), np.zeros(len(world.logins), bool)
    starred = np.zeros(len(world.logins), bool)
    for repository in made:
        starred[repository.stargazers] = True
        feeds[repository.stargazers[repository.starred_at > BEGIN - 30 * DAY][-300:]] = True
        forks[world.forkers(repository)] = True
    counts = starred.sum(), (starred & feeds).sum(), (starred & forks).sum()
    return Truth(refs, sum(len(r.stargazers) for r in made), *(int(count) for count in counts))


def _serve(options: argparse.Namespace, tokens: list[str], address: Connection) -> None:
    world = made_world(options)
    truth = truth_of(world)
    limits = Limits.of_github(query_budget=options.query_budget)
    with serving(Standin(world, tokens, limits, clock=VirtualClock(BEGIN), restricted=True)) as url:
        address.send((url, truth))
        threading.Event().wait()


@contextmanager
def standin(options: argparse.Namespace, tokens: list[str]) -> Iterator[tuple[str, Truth]]:
    """Serve the world in a separate process; yield its address and what is true."""
    context = multiprocessing.get_context("spawn")
    address, process_address = context.Pipe()
    process = context.Process(target=_serve, args=(options, tokens, process_address), daemon=True)
    process.start()
    process_address.close()
    try:
        yield address.recv()
    finally:
        process.terminate()
        process.join()


@dataclass
class Record:
    """What was spent and found over time.

    Attributes
    ----------
    client : GitHubClient
    times, requests, points, people, stars : list
        Hours since the beginning, requests and GraphQL points until then, people whose lists were read, and stars that
        are known from these lists or from feeds.
    """

    client: GitHubClient
    times: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    points: list[int] = field(default_factory=list)
    people: list[int] = field(default_factory=list)
    stars: list[int] = field(default_factory=list)
    _of_lists: dict[int, int] = field(default_factory=dict)
    _of_feeds: dict[int, set[int]] = field(default_factory=dict)
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_list(self, entry: UserList) -> None:
        if entry.rows is None or entry.user_id is None:
            return
        with self._lock:
            known = len(self._of_feeds.pop(entry.user_id, ()))
            self._count += entry.rows.height - self._of_lists.get(entry.user_id, known)
            self._of_lists[entry.user_id] = entry.rows.height
            self._add()

    def add_look(self, look: FeedLook) -> None:
        with self._lock:
            for user_id in look.stars()["user_id"].to_list():
                if user_id not in self._of_lists:
                    of_user = self._of_feeds.setdefault(user_id, set())
                    self._count += look.repository.repo_id not in of_user
                    of_user.add(look.repository.repo_id)
            self._add()

    def _add(self) -> None:
        now, usage = (self.client.pool.clock.now() - BEGIN) / HOUR, self.client.usage
        # A query costs a point.
        values = now, usage.requests - usage.graphql_points, usage.graphql_points, len(self._of_lists), self._count
        for column, value in zip(
            (self.times, self.requests, self.points, self.people, self.stars), values, strict=True
        ):
            column.append(value)  # type: ignore[attr-defined]

    def at(self, hours: float) -> tuple[int, int, int, int]:
        """Return requests, points, people and stars after some hours."""
        place = bisect_right(self.times, hours) - 1
        return self.requests[place], self.points[place], self.people[place], self.stars[place]


@contextmanager
def recorded(record: Record) -> Iterator[None]:
    """Record what the product reads."""
    read, look = GraphQLStarred.read, EventFeeds.look

    def reading(reader: GraphQLStarred, tasks: Any, workers: int) -> Iterator[UserList]:
        for entry in read(reader, tasks, workers):
            record.add_list(entry)
            yield entry

    def looking(feeds: EventFeeds, task: Any, **named: Any) -> FeedLook:
        seen = look(feeds, task, **named)
        record.add_look(seen)
        return seen

    with patch.object(GraphQLStarred, "read", reading), patch.object(EventFeeds, "look", looking):
        yield


def collected(source: str, options: argparse.Namespace) -> tuple[Record, Truth]:
    """Collect the world into an empty home by a source; print what it took."""
    settings = load_settings()
    settings = settings.model_copy(update={"mongo_database": f"benchmark_{secrets.token_hex(4)}"})
    store = AssetStore(ObjectStore(connect_gcs(settings), f"benchmark-{secrets.token_hex(4)}", create=True))
    tokens = [f"token-{number}" for number in range(options.tokens)]
    collection = CollectionOptions(source, max_pages=400, max_users=10**9, workers=16)
    profile = cProfile.Profile(time.process_time) if options.profile is not None else nullcontext()
    with standin(options, tokens) as (url, truth), open_mongo(settings) as database:
        clock = RemoteClock(url, tokens[0])
        wall, processor = time.perf_counter(), time.process_time()
        with GitHubClient(url, [SecretStr(token) for token in tokens], clock=clock) as client, profile:
            clock.busy = lambda: client.pool.in_flight > 0
            record = Record(client)
            for day in range(options.days if source == "auto" else 1):
                clock.advance(BEGIN + day * DAY)
                factory = StarSourceFactory(collection, client, database, store, lambda report: None)
                with recorded(record):
                    pipeline = StarPipeline(
                        factory.create(truth.refs), PartitionTables(store, "stargazers"), CollectionState(database),
                        collection,
                    )  # fmt: skip
                    pipeline.collect(truth.refs)
                factory.query_sizes.save()
                factory.yields.save(database)
        if isinstance(profile, cProfile.Profile):
            profile.dump_stats(f"{options.profile}.{source}")
        own = {"authorization": f"Bearer {tokens[0]}"}
        accounted = requests.get(f"{url}/__standin__", headers=own, timeout=60).json()
    print(
        f"{SOURCES[source]}: {accounted['spent'].get('core', 0):,} requests and {accounted['spent']['graphql']:,} "
        f"points, limits exceeded {accounted['violations'] or 0}; {time.process_time() - processor:.0f} s of processor "
        f"time, {time.perf_counter() - wall:.0f} s by the clock, at most "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB",
        flush=True,
    )
    return record, truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=300)
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--days", type=int, default=1)
    parser.add_argument("--starless", type=float, default=0.0, help="share of the owners of forks without any star")
    parser.add_argument("--query-budget", type=int, help="nodes that GitHub can serve in a GraphQL query")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("GH_ASSETS_HOME", str(Path(home) / "home"))
        records = {source: collected(source, options) for source in SOURCES}
    report(records)
    if options.picture is not None:
        draw(records, options.picture)


def report(records: dict[str, tuple[Record, Truth]]) -> None:
    truth = records["auto"][1]
    print(
        f"{len(truth.refs):,} repositories, {truth.people:,} people with {truth.stars:,} stars; of these people feeds "
        f"name {truth.by_feeds:,} at the beginning, and forks {truth.by_forks:,}"
    )
    print(f"{'minutes':>8}  {'people from':<22} {'requests':>9} {'points':>7} {'people':>8} {'stars':>10} {'share':>6} "
          f"{'a point':>8}")  # fmt: skip
    ends = {source: record.times[-1] for source, (record, _) in records.items()}
    marks = [minutes / 60 for minutes in (1, 2, 3, 4, 5, 10, 20)] + [1, FIRST_HOURS, *range(24, 800, 24)]
    for hours in sorted({mark for mark in marks if mark < max(ends.values())} | {*ends.values()}):
        for source, (record, _) in records.items():
            requests, points, people, stars = record.at(hours)
            ended = " (ended)" if hours > ends[source] else ""
            print(
                f"{60 * hours:8.2f}  {SOURCES[source]:<22} {requests:9,} {points:7,} {people:8,} {stars:10,} "
                f"{stars / truth.stars:6.1%} {stars / max(1, requests + points):8.1f}{ended}"
            )
    each = {}
    for source, (record, _) in records.items():
        requests, points, _, stars = record.at(FIRST_HOURS)
        each[source] = stars / (requests + points)
    print(
        f"stars a request or point in the first {FIRST_HOURS} hours: {each['auto']:,.0f}; from forks alone "
        f"{each['starred']:,.0f}: {each['auto'] / each['starred']:.2f} x"
    )


def draw(records: dict[str, tuple[Record, Truth]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for (source, (record, truth)), color in zip(records.items(), ("tab:blue", "tab:orange"), strict=True):
        spent = np.add(record.requests, record.points)
        for axes, x, end in (
            (left, 60 * np.array(record.times), 60 * max(r.times[-1] for r, _ in records.values())),
            (right, spent, max(r.requests[-1] + r.points[-1] for r, _ in records.values())),
        ):
            for found, total, style, what in (
                (record.stars, truth.stars, "-", "stars"),
                (record.people, truth.people, ":", "people"),
            ):
                share = np.divide(found, total)
                axes.plot([*x, end], [*share, share[-1]], style, color=color, label=f"{what}: {SOURCES[source]}")
    left.set_xlabel("minutes")
    right.set_xlabel("requests and points")
    left.set_ylabel("share of all that was found")
    left.set_ylim(0, 1)
    right.legend(loc="center right", fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
