"""Measure which share of the stars event feeds show to looks as planned, and what the looks cost, in virtual time.

Run: python benchmarks/events.py [--repositories 40] [--days 14] [--budgets 0.5 0.25]

The stand-in serves repositories of 10 to 1,000 stars a month (log-uniform), beside 1 to 300 other events a day; half of
them get their stars steadily, half in surges that fade within a day. Events come 30 s to 6 h late. The real source
looks at feeds when `feeds_due` says so, every ten minutes. Prints the share of the stars that were seen, also of the
repository with the lowest share, and requests a day and repository; then the same with a part of the requests, when the
quota does not allow more: by rank, and for comparison the feed first that was not looked at for longest.
"""

import argparse
import datetime as dt
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import uvicorn
from pydantic import SecretStr

from gh_assets.collector.feeds import MAX_DELAY, FeedState
from gh_assets.collector.plan import affordable_prefix, feeds_due
from gh_assets.collector.star_sources.base import CollectionTask, RepositoryRef
from gh_assets.collector.star_sources.events import EventFeeds
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.world import Repository, World
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.github.retries import RetryPolicy
from gh_assets.schemas import COLLECTION_PLAN

BEGIN, HOUR, DAY = 1_800_000_000, 3600, 86_400

TICK = 600
"""Seconds between two looks for due feeds."""

SURGE_HOURS = 12
"""Time in which a surge fades to a third."""


def made_world(count: int, days: int, seed: int) -> World:
    rng = np.random.default_rng(seed)
    repositories, users = [], 0
    for number in range(count):
        stars = rng.poisson(10 * 100 ** rng.random() * (days + 30) / 30)
        when = rng.uniform(-30 * DAY, days * DAY, stars)
        if number % 2:
            begins = rng.uniform(-5 * DAY, days * DAY, 1 + rng.poisson(days / 15))
            surge = rng.random(stars) < 0.7
            when[surge] = rng.choice(begins, surge.sum()) + rng.exponential(SURGE_HOURS * HOUR, surge.sum())
        times = np.sort(when).astype(np.int64) + BEGIN
        repository = Repository(number + 1, f"o/{number}", restricted=True, starred_at=times)
        repository.stargazers = np.arange(users, users + stars)
        repository.other_events_a_day = float(300 ** rng.random())
        users += stars
        repositories.append(repository)
    return World(repositories, [f"u{n}" for n in range(users)], range(10**6, 10**6 + users), [], "benchmark")


@dataclass
class Looks:
    """What was seen, and what it cost.

    Attributes
    ----------
    seen : dict
        Users whose stars were seen, by repository.
    requests, counted, gaps : int
        Requests, those that cost quota, and gaps that were found.
    """

    seen: dict[int, set[int]] = field(default_factory=dict)
    requests: int = 0
    counted: int = 0
    gaps: int = 0


@contextmanager
def serving(standin: Standin) -> Iterator[str]:
    config = uvicorn.Config(standin.app(), port=0, log_level="error", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


@contextmanager
def connected(world: World) -> Iterator[tuple[Standin, GitHubClient, VirtualClock]]:
    clock = VirtualClock(BEGIN)
    standin = Standin(world, ("token",), clock=clock)
    standin.quota.limits.requests = 10**9
    policy = RetryPolicy(points_a_minute={})
    with serving(standin) as url, GitHubClient(url, [SecretStr("token")], clock=clock, policy=policy) as client:
        client.refresh_budgets()
        yield standin, client, clock


def looked(world: World, days: int, *, hourly: float | None = None, in_turn: bool = False) -> Looks:
    """Look at all feeds for some days, with at most `hourly` requests an hour."""
    feeds: dict[int, FeedState] = {}
    refs = [RepositoryRef(r.repo_id, r.full_name, r.full_name, None, Outcome.OK) for r in world.repositories]
    result = Looks({ref.repo_id: set() for ref in refs})
    with connected(world) as (standin, client, clock):
        begun = standin.requests, standin.quota.spent.total()
        end, allowed = BEGIN + days * DAY + int(MAX_DELAY.total_seconds()), 0.0
        for moment in range(BEGIN, end + TICK, TICK):
            clock.advance(moment)
            if moment >= end:
                due = [ref.repo_id for ref in refs]
            else:
                wanted = feeds_due(plan_of(refs, feeds), dt.datetime.fromtimestamp(moment, dt.UTC))
                if in_turn:
                    wanted = wanted.sort(pl.Series([_looked_at(feeds, number) for number in wanted["repo_id"]]))
                # The first looks, at what was before, are not what is measured.
                if hourly is not None and moment > BEGIN:
                    allowed = min(allowed + hourly * TICK / HOUR, max(3.0, hourly))
                    wanted = affordable_prefix(wanted, int(allowed))
                due = wanted["repo_id"].to_list()
            before = standin.quota.spent.total()
            source = EventFeeds(client, feeds)
            tasks = [CollectionTask(refs[number - 1]) for number in due]
            for collected in source.collect(tasks, 4):
                repo_id = collected.repository.repo_id
                assert collected.feed is not None
                # The tables stay here: what is stored after each look is measured elsewhere.
                feeds[repo_id] = collected.feed.model_copy(update={"stars": 0})
                result.gaps += collected.gap is not None
                if collected.table is not None:
                    result.seen[repo_id].update(collected.table["user_id"].to_list())
            allowed -= standin.quota.spent.total() - before
        result.requests, result.counted = standin.requests - begun[0], standin.quota.spent.total() - begun[1]
    return result


def _looked_at(feeds: dict[int, FeedState], repo_id: int) -> dt.datetime:
    feed = feeds.get(repo_id)
    known = None if feed is None else feed.looked_at
    return known or dt.datetime.fromtimestamp(0, dt.UTC)


def plan_of(refs: list[RepositoryRef], feeds: dict[int, FeedState]) -> pl.DataFrame:
    columns: dict[str, list[object]] = {name: [None] * len(refs) for name in COLLECTION_PLAN.dtypes}
    columns |= {"repo_id": [r.repo_id for r in refs], "partition": [r.full_name for r in refs]}
    columns |= {"full_name": columns["partition"], "closed_at": [dt.datetime.fromtimestamp(BEGIN, dt.UTC)] * len(refs)}
    for name in ("looked_at", "next_look_at", "events_a_day", "stars_a_day"):
        columns[name] = [getattr(feeds.get(r.repo_id), name, None) for r in refs]
    return pl.DataFrame(columns, schema=COLLECTION_PLAN.dtypes)


def summary(world: World, days: int, looks: Looks) -> str:
    """Return share and cost."""
    shares, given, seen = [], 0, 0
    for repository in world.repositories:
        lately = (repository.starred_at >= BEGIN) & (repository.starred_at < BEGIN + days * DAY)
        users = {world.user_ids[user] for user in repository.stargazers[lately].tolist()}
        found = len(users & looks.seen[repository.repo_id])
        given, seen = given + len(users), seen + found
        shares += [found / len(users)] if users else []
    each = len(world.repositories) * days
    return (
        f"{seen / given:.2%} of {given:,} stars seen (lowest {min(shares):.1%} of a repository), {looks.gaps} gaps; "
        f"{looks.counted / each:.2f} requests a day and repository, {looks.requests / each:.2f} with free ones"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=40)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--budgets", type=float, nargs="*", default=[0.5, 0.25])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    world = made_world(options.repositories, options.days, options.seed)
    planned = looked(world, options.days)
    print(f"as planned: {summary(world, options.days, planned)}", flush=True)
    for share in options.budgets:
        hourly = share * planned.counted / options.days / 24
        for name, in_turn in (("by rank", False), ("in turn", True)):
            result = looked(world, options.days, hourly=hourly, in_turn=in_turn)
            print(f"with {share:.0%} of the requests, {name}: {summary(world, options.days, result)}", flush=True)


if __name__ == "__main__":
    main()
