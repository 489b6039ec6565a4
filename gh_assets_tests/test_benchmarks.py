"""Benchmarks run with few data: a change of what they use breaks them unnoticed otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

SMALL = [
    "ticks.py --repositories 50 --rounds 1",
    "events.py --repositories 4 --days 1 --budgets 0.5",
    "dagster_events.py --partitions 20 --repeat 1",
    "partitions.py --partitions 20 --stars 500 --rounds 1",
    "registry.py --megabytes 1 --rounds 1",
    "ingest.py --messages 200 --rounds 1",
    "evaluation.py --users 400 --items 600",
    "sizes.py --sizes 200 --seeds 1 --models graph-filter",
    "large.py whole 2000 600 20000",
    "seed_scale.py --repositories 30 --users 200 --source starred --closed --epochs 1 --until user_item_matrix",
    "people.py --repositories 300 --users 5000 --pages 100 500",
    "seed_people.py --repositories 30 --users 300 --days 2 --starless 0.5 --picture picture.png",
    "serving.py --repositories 600 --users 2000 --stars 20000 --people 20 --hybrid",
]


@pytest.mark.slow
@pytest.mark.parametrize("command", SMALL, ids=lambda command: command.split()[0])
def test_a_benchmark_runs(command: str, tmp_path: Path) -> None:
    script, *options = command.split()
    done = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / script, *options],
        cwd=tmp_path,
        env={**os.environ, "GH_ASSETS_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
