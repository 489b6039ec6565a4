"""A simulated month of the whole system under Dagster's daemon, in a world that changes every day.

Run: python benchmarks/month.py [--days 30] [--day-seconds 45] [--picture FILE] [--json FILE]

A stand-in GitHub serves a world whose repositories gain and lose stars each day; lists gain and drop repositories,
lists are closed, GitHub is unavailable for half a day, and a token is rejected for a day. The daemon runs with all
sensors on and with intervals scaled to the length of a day; each day, the tokens have one small quota. There is no
other intervention. Prints the runs, the failures and their alerts, the spent quota and whether it was exceeded, whether
any run was executed twice, and how many stars are not stored yet; draws the timeline.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gh_assets.collector.state import CollectionState
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import Repository, World, list_markdown
from gh_assets.instance.configuration import open_instance
from gh_assets.registry import CHAMPION, PURPOSE, ModelRegistry
from gh_assets.services.connections import connect_mongo, model_store
from gh_assets.settings import load_settings
from gh_assets_tests.support.serving import serving

ROOT = Path(__file__).parent.parent
LIST = "lists/awesome"
TOPICS, USERS, REPOSITORIES = 4, 700, 150
POINTS = 12
"""GraphQL points per day, too few to read everything at once."""


class LivingWorld:
    """A world that changes day by day; the stand-in serves its present state."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.stars: dict[int, dict[int, int]] = {}
        self.listed: list[int] = []
        self.closed: set[int] = set()
        self.events: list[tuple[float, str]] = []
        for _ in range(REPOSITORIES):
            self.add()
        for repo in list(self.stars):
            self.gain(repo, 10 + int(self.random.gamma(1.2, 25)), 0)
        self.world = self.state()

    def add(self) -> int:
        repo = len(self.stars) + 1
        self.stars[repo] = {}
        self.listed.append(repo)
        return repo

    def gain(self, repo: int, count: int, day: int) -> None:
        """Add stars, most of them by users who like the topic of the repository."""
        like = np.where(np.arange(USERS) % TOPICS == repo % TOPICS, 8.0, 1.0)
        chosen = self.random.choice(USERS, min(count, USERS), replace=False, p=like / like.sum())
        for user in chosen.tolist():
            self.stars[repo].setdefault(user, 1_700_000_000 + 86_400 * day + len(self.stars[repo]))

    def pass_a_day(self, day: int, days: int) -> str:
        """Change the world overnight; return a description."""
        for repo in self.random.choice(list(self.stars), len(self.stars) // 3, replace=False).tolist():
            self.gain(repo, int(self.random.gamma(1.0, 4)), day)
        for repo in self.random.choice(list(self.stars), 5, replace=False).tolist():
            for user in list(self.stars[repo])[:2]:
                del self.stars[repo][user]
        changes = []
        if day % 4 == 2:
            for _ in range(3):
                self.gain(self.add(), 40, day)
            changes.append("3 repositories listed")
        if day == days // 3:
            self.closed |= set(self.listed[10:16])
            changes.append("6 lists closed")
        if day == days // 2:
            self.listed = self.listed[5:]
            changes.append("5 repositories dropped")
        if day == days * 2 // 3:
            self.closed.clear()
            changes.append("lists opened again")
        self.world.__dict__.update(self.state().__dict__)
        return ", ".join(changes)

    def state(self) -> World:
        repositories = []
        for repo, stars in self.stars.items():
            users = sorted(stars, key=stars.__getitem__)
            repositories.append(
                Repository(
                    repo,
                    f"topic-{repo % TOPICS}/repo-{repo}",
                    f"Number {repo}",
                    restricted=repo in self.closed,
                    stargazers=np.array(users, np.int64),
                    starred_at=np.array([stars[user] for user in users], np.int64),
                )
            )
        listed = set(self.listed)
        named = [repository for repository in repositories if repository.repo_id in listed]
        repositories.append(Repository(900_001, LIST, readme=list_markdown("Awesome", named)))
        logins = [f"user-{user}" for user in range(USERS)]
        return World(repositories, logins, [5000 + user for user in range(USERS)], [LIST], "a living world")


@dataclass
class Record:
    """Observations with their times, in days since the start."""

    world: list[tuple[float, str]] = field(default_factory=list)
    alerts: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    quota: list[tuple[float, int]] = field(default_factory=list)
    behind: list[tuple[float, float]] = field(default_factory=list)


@contextmanager
def daemon(environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run Dagster's daemon with all sensors turned on."""
    command = [str(Path(sys.executable).parent / "dagster"), "sensor", "start", "--start-all"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"The sensors could not be turned on: {done.stderr[-800:]}")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "dagster-daemon"), "run"],
            cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(90)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def live(days: int, day_seconds: float, home: Path) -> dict[str, Any]:
    living, record = LivingWorld(), Record()
    limits = Limits.of_github(graphql_points=POINTS, window_seconds=day_seconds)
    standin = Standin(living.world, ("token",), limits)
    began = time.time()

    def today() -> float:
        return (time.time() - began) / day_seconds

    async def receive_alert(request: Request) -> PlainTextResponse:
        record.alerts.append((today(), await request.json()))
        return PlainTextResponse("")

    hook = Starlette(routes=[Route("/hook", receive_alert, methods=["POST"])])

    def span(of_days: float) -> str:
        return f"{max(1.0, of_days * day_seconds):.1f}s"

    with serving(standin.app()) as github, serving(hook) as webhook:
        chosen = {
            "GH_ASSETS_HOME": str(home),
            "GITHUB_API_URL": github,
            "GITHUB_TOKENS": "token",
            "GH_ASSETS_AWESOME": LIST,
            "GH_ASSETS_RETIRE": "true",
            "GH_ASSETS_COUNTS_AFTER": span(1),
            "GH_ASSETS_MOVED_AFTER": span(1),
            "GH_ASSETS_REFRESH_AFTER": span(10),
            "GH_ASSETS_RETRY_AFTER": span(0.25),
            "GH_ASSETS_LEAST_NEWS": "2",
            "GH_ASSETS_RETRAIN_SHARE": "0.04",
            "GH_ASSETS_SENSOR_INTERVAL": "4s",
            "GH_ASSETS_ALERT_WEBHOOK": f"{webhook}/hook",
            "GH_ASSETS_ALERT_EVERY": span(0.5),
        }
        # Unlike `dagster dev`, the daemon needs the folder of its configuration.
        configuration = home / "configuration"
        configuration.mkdir()
        shutil.copy(ROOT / "dagster.yaml", configuration)
        os.environ.update({**chosen, "DAGSTER_HOME": str(configuration)})
        with open_instance(load_settings()) as instance, daemon(dict(os.environ), home / "daemon.log") as process:
            began = time.time()
            database = connect_mongo(load_settings())
            spent_before = 0
            for day in range(1, days + 1):
                while today() < day:
                    if process.poll() is not None:
                        raise SystemExit(f"The daemon ended: {(home / 'daemon.log').read_text()[-2000:]}")
                    time.sleep(day_seconds / 20)
                    record.behind.append((today(), _behind(living, CollectionState(database))))
                spent = standin.quota.spent["graphql"]
                record.quota.append((float(day), spent - spent_before))
                spent_before = spent
                description = living.pass_a_day(day, days)
                description = trouble(standin, day, days) or description
                if description:
                    record.world.append((today(), description))
                    print(f"day {day}: {description}", flush=True)
            database.client.close()
        # The daemon has ended; runs that it started may take a moment longer.
        with open_instance(load_settings()) as instance:
            _wait_for_runs(instance)
            return summary(instance, standin, record, began, day_seconds)


def trouble(standin: Standin, day: int, days: int) -> str:
    """Begin or end an outage and the rejection of the token, each of a day; return a description."""
    if day == days // 5:
        standin.faults.probabilities = {"502": 1.0}
        return "GitHub is unavailable"
    if day == days // 5 + 1:
        standin.faults.probabilities = {}
        return "GitHub is available again"
    if day == days * 4 // 5:
        standin.users.clear()
        return "the token is rejected"
    if day == days * 4 // 5 + 1:
        standin.users["token"] = 1
        return "the token is accepted again"
    return ""


def _behind(living: LivingWorld, state: CollectionState) -> float:
    """Return the share of stars of readable listed repositories that are not stored."""
    stored = {repo: known.stars or 0 for repo, known in state.load().items()}
    readable = [repo for repo in living.listed if repo not in living.closed]
    total = sum(len(living.stars[repo]) for repo in readable)
    return sum(abs(len(living.stars[repo]) - stored.get(repo, 0)) for repo in readable) / total


def _wait_for_runs(instance: DagsterInstance) -> None:
    alive = [DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.CANCELING]
    until = time.monotonic() + 120
    while instance.get_runs(RunsFilter(statuses=alive)) and time.monotonic() < until:
        time.sleep(1)


def summary(
    instance: DagsterInstance, standin: Standin, record: Record, began: float, day_seconds: float
) -> dict[str, Any]:
    """Return the results of the month."""
    runs: list[dict[str, Any]] = []
    for stored in instance.get_run_records():
        run = stored.dagster_run
        start = stored.start_time or stored.create_timestamp.timestamp()
        end = stored.end_time or time.time()
        runs.append(
            {
                "id": run.run_id,
                "job": run.job_name,
                "status": run.status.value,
                "start": (start - began) / day_seconds,
                "end": (end - began) / day_seconds,
                "about": run.tags.get("gh_assets/about"),
                "key": run.tags.get("dagster/run_key"),
                "parent": run.parent_run_id,
                "why": run.tags.get("gh_assets/why", ""),
            }
        )
    runs.sort(key=lambda run: run["start"])
    succeeded = [run for run in runs if run["status"] == "SUCCESS"]
    keys = Counter((run["job"], run["key"]) for run in runs if run["key"] is not None and run["parent"] is None)
    twice = [key for key, count in keys.items() if count > 1]
    again = Counter((run["job"], run["about"]) for run in succeeded if run["about"] is not None)
    overlapping = [
        (one["id"][:8], other["id"][:8])
        for index, one in enumerate(runs)
        for other in runs[index + 1 :]
        if one["job"] == other["job"] and other["start"] < one["end"]
    ]
    alerted = {alert.get("run_id") for _, alert in record.alerts}
    failed = [run for run in runs if run["status"] == "FAILURE"]
    with connect_mongo(load_settings()).client as client:
        database = client[load_settings().mongo_database]
        registry = ModelRegistry(model_store(load_settings()), database["models"])
        moves = registry.aliases.history(PURPOSE, CHAMPION)
        models = len(registry.list())
    return {
        "runs": dict(Counter(f"{run['job']} {run['status']}" for run in runs)),
        "not_ended": [run["id"] for run in runs if run["status"] not in ("SUCCESS", "FAILURE", "CANCELED")],
        "failed": [(run["job"], round(run["start"], 2), run["id"] in alerted) for run in failed],
        "alerts": dict(Counter(alert["kind"] for _, alert in record.alerts)),
        "alert_texts": [(round(when, 2), alert["text"]) for when, alert in record.alerts],
        "quota_overruns": dict(standin.quota.violations),
        "quota_spent_a_day": [spent for _, spent in record.quota],
        "quota_a_day": POINTS,
        "run_keys_used_twice": twice,
        "states_acted_on_twice_with_success": [key for key, count in again.items() if count > 1],
        "runs_of_a_job_at_once": overlapping,
        "models": models,
        "promotions": [(f"{move.name} {move.version}", move.why[:80]) for move in reversed(moves)],
        "behind": record.behind,
        "behind_at_the_end": record.behind[-1][1] if record.behind else None,
        "timeline": runs,
        "world": record.world,
        "alert_times": [(when, alert["kind"]) for when, alert in record.alerts],
        "quota": record.quota,
        "promoted_at": [(move.time.timestamp() - began) / day_seconds for move in moves],
    }


def draw(results: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 1])
    jobs = sorted({run["job"] for run in results["timeline"]})
    for run in results["timeline"]:
        color = {"SUCCESS": "tab:green", "FAILURE": "tab:red"}.get(run["status"], "tab:orange")
        above.barh(jobs.index(run["job"]), max(0.05, run["end"] - run["start"]), left=run["start"], color=color)
    above.set_ylim(-2.6, len(jobs) - 0.1)
    above.set_yticks(range(len(jobs)), [job.replace("__ASSET_JOB", "by conditions") for job in jobs])
    for when, kind in results["alert_times"]:
        marker = ("v", "tab:red") if kind == "failure" else ("^", "tab:green")
        above.plot(when, len(jobs) - 0.4, marker[0], color=marker[1])
    for when in results["promoted_at"]:
        above.plot(when, len(jobs) - 0.4, "*", color="tab:orange", markersize=12)
    above.set_title("runs (green: success), alerts (red: a failure, green: recovered), promotions (stars)", fontsize=10)
    for when, description in results["world"]:
        for axes in (above, middle, below):
            axes.axvline(when, color="0.8", zorder=0, linewidth=0.8)
        above.text(when, -2.5, description, rotation=90, fontsize=7, va="bottom", ha="right", color="0.3")
    middle.plot(*zip(*results["behind"], strict=True), color="tab:blue")
    middle.set_ylabel("stars behind")
    middle.set_ylim(0, min(1.0, max(0.1, 1.1 * max(value for when, value in results["behind"] if when > 2))))
    days = [when - 0.5 for when, _ in results["quota"]]
    below.bar(days, results["quota_spent_a_day"], color="tab:purple")
    below.axhline(results["quota_a_day"], color="0.3", linestyle="--")
    below.set_ylabel("points spent")
    below.set_xlabel("days")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--day-seconds", type=float, default=45.0)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--home", type=Path, help="folder that is kept; by default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        home = options.home or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        results = live(options.days, options.day_seconds, home)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))
    if options.picture is not None:
        draw(results, options.picture)
    for name in ("runs", "not_ended", "failed", "alerts", "alert_texts", "quota_overruns", "quota_spent_a_day",
                 "quota_a_day", "run_keys_used_twice", "states_acted_on_twice_with_success", "runs_of_a_job_at_once",
                 "models", "promotions", "behind_at_the_end"):  # fmt: skip
        print(f"{name}: {results[name]}")


if __name__ == "__main__":
    main()
