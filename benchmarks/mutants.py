"""Measure the share of small faults in the code that the tests find: mutation testing with mutmut's operators.

Each mutant runs only the tests that reach the changed statement, in a fork of a process that has the third-party
packages loaded, against servers that keep running between mutants. Changes of plain strings, of messages of exceptions
and logs, and of annotations are excluded. Run by: make mutants
"""

import argparse
import contextlib
import difflib
import functools
import hashlib
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string

ROOT = Path(__file__).resolve().parent.parent
TESTS = "gh_assets_tests"
TARGETS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "registry": (
        [str(path.relative_to(ROOT)) for path in sorted((ROOT / "gh_assets/registry").glob("[a-z]*.py"))],
        ["registry", "services/test_connections.py"],
    ),
    "promotion": (["gh_assets/serving/promotion.py"], ["serving/test_promotion.py"]),
    "limits": (
        ["gh_assets/github/token_pool.py"],
        ["github/test_token_pool.py", "github/test_client.py", "github/test_responses.py"],
    ),
    "objects": (
        [f"gh_assets/storage/{name}.py" for name in ("objects", "object_reader", "object_writer")],
        [
            *(f"storage/test_{name}.py" for name in ("objects", "object_reader", "object_writer")),
            "services/test_connections.py",
        ],
    ),
    "metrics": (["gh_assets/recommender/evaluation/metrics.py"], ["recommender/evaluation/test_metrics.py"]),
}
LONGEST_TEST = 15.0
"""Seconds; tests that take longer, because they start processes or train, are left to `make test`."""
HUNG = 124
TIMEOUT, MAX_COST_RATIO = 30.0, 4.0
"""Seconds, and multiple of the tests' duration without a change; a mutant that takes longer counts as killed."""


class Mutant(NamedTuple):
    """One change of one file; its key does not depend on other lines."""

    key: str
    path: str
    lines: range
    diff: str
    code: str


class Finder(cst.CSTVisitor):  # type: ignore[misc]
    """Collects the changes of mutmut's operators, with the lines of the changed statement."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[tuple[cst.CSTNode, cst.CSTNode, range]] = []
        self.spans = [range(0)]

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Raise | cst.Decorator | cst.Assert):
            return False
        if isinstance(node, cst.Call):
            called = cst.Module([]).code_for_node(node.func)
            if called in ("len", "isinstance") or called.startswith("logger."):
                return False
        if isinstance(node, cst.BaseStatement):
            place = self.get_metadata(PositionProvider, node)
            body = getattr(node, "body", None)
            last = place.end.line
            if isinstance(body, cst.BaseSuite):  # only the head of a compound statement
                last = max(place.start.line, self.get_metadata(PositionProvider, body).start.line - 1)
            self.spans.append(range(place.start.line, last + 1))
        for kind, operator in mutation_operators:
            if isinstance(node, kind) and operator is not operator_string:
                self.changes += [(node, changed, self.spans[-1]) for changed in operator(node)]
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.BaseStatement):
            self.spans.pop()


def mutants_of(paths: Sequence[str], sample: int, seed: int) -> tuple[int, list[Mutant]]:
    """Return the number of mutants of some files, and a random sample that is stable while the code stays the same."""
    every = []
    seen: Counter[str] = Counter()
    for path in paths:
        wrapper = MetadataWrapper(cst.parse_module((ROOT / path).read_text()), unsafe_skip_copy=True)
        finder = Finder()
        wrapper.visit(finder)
        for node, changed, lines in finder.changes:
            change = f"{path}\n- {wrapper.module.code_for_node(node)}\n+ {wrapper.module.code_for_node(changed)}"
            seen[change] += 1
            key = hashlib.sha256(f"{seed} {change} {seen[change]}".encode()).hexdigest()[:16]
            every.append((key, path, wrapper.module, node, changed, lines))
    chosen: list[Mutant] = []
    for key, path, module, node, changed, lines in sorted(every, key=lambda one: one[0]):
        code = module.deep_replace(node, changed).code
        try:
            compile(code, path, "exec")
        except SyntaxError:
            continue
        diff = difflib.unified_diff(module.code.splitlines(), code.splitlines(), lineterm="", n=0)
        chosen.append(Mutant(key, path, lines, "\n".join([*diff][3:]), code))
        if len(chosen) == sample:
            break
    return len(every), chosen


class Recorder:
    """Records for pytest which test ran which lines, and its duration."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.seconds: dict[str, float] = defaultdict(float)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self.measured.switch_context(item.nodeid)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration if report.when == "call" else 0.0


def pytest_arguments(tests: Sequence[str]) -> list[str]:
    return ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--hypothesis-seed=0", "--tb=line", *tests]


def record(folder: Path, sources: Sequence[str], tests: Sequence[str]) -> int:
    """Run the tests on the unchanged code; store the lines that each test runs, and the loaded packages."""
    sys.dont_write_bytecode = False
    measured = coverage.Coverage(data_file=None, config_file=False, include=[str(folder / path) for path in sources])
    recorder = Recorder(measured)
    measured.start()
    code = pytest.main(pytest_arguments(tests), plugins=[recorder])
    measured.stop()
    data = measured.get_data()
    lines = {path: data.contexts_by_lineno(str(folder / path)) for path in sources}
    own = ("gh_assets", "_pytest", "__main__")
    packages = [module for module in list(sys.modules) if not module.startswith(own)]
    (folder / "recorded.json").write_text(
        json.dumps({"seconds": recorder.seconds, "lines": lines, "packages": packages})
    )
    return int(code)


def in_fork(work: Callable[[], int], timeout: float, log: Path) -> int:
    """Run work in a fork; return its exit code, or `HUNG` if it takes too long."""

    def begin() -> None:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.exit(int(work()))

    process = multiprocessing.get_context("fork").Process(target=begin)
    process.start()
    process.join(timeout)
    code = HUNG if process.exitcode is None else process.exitcode
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    return code


def run(name: str, sample: int, seed: int, folder: Path, skip: set[str], results: Path) -> None:
    """Test a sample of the mutants of one target; write one line of JSON for each."""
    sources, files = TARGETS[name]
    tests = [f"{TESTS}/{file}" for file in files]
    log = folder / "log"
    if code := in_fork(functools.partial(record, folder, sources, tests), 1800, log):
        sys.exit(f"The tests fail without any change (exit code {code}):\n{log.read_text()[-3000:]}")
    recorded = json.loads((folder / "recorded.json").read_text())
    for package in recorded["packages"]:
        with contextlib.suppress(Exception):
            importlib.import_module(package)
    seconds: dict[str, float] = recorded["seconds"]
    quick = [test for test in sorted(seconds, key=lambda test: seconds[test]) if seconds[test] <= LONGEST_TEST]
    count, chosen = mutants_of(sources, sample, seed)
    outcomes: Counter[str] = Counter()
    for mutant in chosen:
        if mutant.key in skip:
            outcomes["killed"] += 1
            continue
        by_line = recorded["lines"][mutant.path]
        reached = {test for line in mutant.lines for test in by_line.get(str(line), [])}
        wanted = quick if "" in reached else [test for test in quick if test in reached]
        target, began = folder / mutant.path, time.monotonic()
        target.write_text(mutant.code)
        timeout = TIMEOUT + MAX_COST_RATIO * sum(seconds[test] for test in wanted)
        work = functools.partial(pytest.main, pytest_arguments(wanted))
        code = in_fork(work, timeout, log) if wanted else 0
        shutil.copy2(ROOT / mutant.path, target)
        took = round(time.monotonic() - began, 1)
        outcome = "killed" if code else "lived" if wanted else "not reached"
        outcomes[outcome] += 1
        tried = {"target": name, "key": mutant.key, "path": mutant.path, "line": mutant.lines.start}
        tried |= {"diff": mutant.diff, "outcome": outcome, "exit": code, "seconds": took}
        with results.open("a") as file:
            file.write(json.dumps(tried) + "\n")
    share = outcomes["killed"] / len(chosen)
    print(f"{name}: {outcomes['killed']} of {len(chosen)} killed ({share:.0%}), of {count} mutants", flush=True)


def main() -> None:
    """Print the share for each target; write the mutants to the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--sample", type=int, default=120, help="number of mutants per target, chosen at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=ROOT / "mutants.jsonl")
    parser.add_argument("--again", type=Path, help="results of an earlier run, whose killed mutants are skipped")
    options = parser.parse_args()
    skip = set()
    if options.again:
        tried = [json.loads(line) for line in options.again.read_text().splitlines()]
        skip = {one["key"] for one in tried if one["outcome"] == "killed" and one["exit"] != HUNG}
    results = options.results.resolve()
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        folder = Path(place, "checkout")
        for part in ("gh_assets", TESTS):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("pyproject.toml", "README.md", "docs"):
            (folder / part).symlink_to(ROOT / part)
        os.chdir(folder)
        # Python would reuse the byte code of a mutant for another one of equal size within the same second.
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        os.environ["GH_ASSETS_TEST_HOME"] = home = f"{place}/home"
        sys.path[:0] = [str(folder)]
        imports = "from gh_assets.settings import *; from gh_assets.services.connections import *"
        start = f"import sys; {imports}; s = load_settings()"
        hold = f"{start}; connect_gcs(s), connect_mongo(s); print(flush=True); sys.stdin.read()"
        holder = subprocess.Popen(
            [sys.executable, "-c", hold],
            env=os.environ | {"GH_ASSETS_HOME": home},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            for name in options.targets:
                run(name, options.sample, options.seed, folder, skip, results)
        finally:
            holder.kill()


if __name__ == "__main__":
    main()
