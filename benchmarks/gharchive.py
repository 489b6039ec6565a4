"""Compare reading hours of GH Archive with ``gunzip -c FILE | wc -l`` on the same files, alternately and repeatedly.

    python benchmarks/gharchive.py [FILE ...] [--rounds 7]

Without FILE, synthetic hours of about 140 MB unpacked are generated. Needs gunzip and wc.
"""

import argparse
import gzip
import random
import shlex
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import orjson

from gh_assets.collector.gharchive import ArchiveHour, archive_hours, read_hour

KINDS = ("PushEvent", "PushEvent", "PushEvent", "PushEvent", "CreateEvent", "IssuesEvent", "PullRequestEvent")


def synthetic_hours(folder: Path, hours: int = 2, lines: int = 30_000) -> list[Path]:
    """Write hours like real ones: one star in twelve events, 2.3 kB per event."""
    rng = random.Random(0)
    tokens = [f"{rng.getrandbits(32):08x}" for _ in range(4000)]
    paths = []
    for hour in range(hours):
        path = folder / f"2015-01-01-{hour}.json.gz"
        with gzip.open(path, "wb", compresslevel=6) as file:
            for number in range(lines):
                kind = "WatchEvent" if rng.random() < 0.083 else rng.choice(KINDS)
                text = " ".join(rng.choices(tokens, k=0 if kind == "WatchEvent" else rng.randrange(20, 460)))
                payload = {"action": "started"} if kind == "WatchEvent" else {"commits": [{"message": text}]}
                user, repo = rng.randrange(10**6), rng.randrange(10**6)
                event = {
                    "id": str(number),
                    "type": kind,
                    "actor": {"id": user + 1, "login": f"user-{user}", "url": f"https://example.invalid/{user}"},
                    "repo": {"id": repo + 1, "name": f"owner-{repo}/repo-{repo}"},
                    "payload": payload,
                    "public": True,
                    "created_at": f"2015-01-01T{hour:02d}:{number * 60 // lines:02d}:00Z",
                }
                file.write(orjson.dumps(event) + b"\n")
        paths.append(path)
    return paths


def read_all(hours: list[ArchiveHour]) -> tuple[float, int]:
    started = time.perf_counter()
    stars = sum(read_hour(hour)[0].height for hour in hours)
    return time.perf_counter() - started, stars


def gunzip(paths: list[Path]) -> float:
    started = time.perf_counter()
    for path in paths:
        subprocess.run(f"gunzip -c {shlex.quote(str(path))} | wc -l", shell=True, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths: list[Path] = options.files or synthetic_hours(Path(folder))
        hours = archive_hours([str(path) for path in paths])
        unpacked = sum(read_hour(hour)[1].size for hour in hours)
        ratios = []
        for _ in range(options.rounds):
            baseline = gunzip(paths)
            reader, stars = read_all(hours)
            ratios.append(reader / baseline)
            print(f"gunzip | wc {baseline:.3f} s; reader {reader:.3f} s, {stars:,} stars in {unpacked / 1e6:.0f} MB")
    print(f"reader / gunzip: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
