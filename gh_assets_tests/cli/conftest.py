"""Homes with the results of a run, and commands that fail, for the tests of commands."""

import os
from collections.abc import Callable, Iterator

import pytest

from gh_assets.cli import main
from gh_assets.embedded.supervision import release_all
from gh_assets_tests.support.chain_runs import ChainRun, run_chain_once

Failure = Callable[..., str]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> ChainRun:
    """The run of the chain that all test processes share; its home is only copied."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished-run"
    folder.mkdir(exist_ok=True)
    return run_chain_once(folder)


@pytest.fixture(scope="module")
def run_of_the_module(finished_run: ChainRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainRun]:
    run = finished_run.copy(tmp_path_factory.mktemp("chain"))
    yield run
    release_all(run.home)


@pytest.fixture
def chain_run(run_of_the_module: ChainRun, monkeypatch: pytest.MonkeyPatch) -> ChainRun:
    """A home of the module's own in which the chain has run once, and which the settings name."""
    monkeypatch.setenv("GH_ASSETS_HOME", str(run_of_the_module.home))
    return run_of_the_module


@pytest.fixture
def failure(capsys: pytest.CaptureFixture[str]) -> Failure:
    """Run a command that fails in this process; return its message on stderr in one line."""

    def run(*arguments: str, code: int = 1) -> str:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == code
        captured = capsys.readouterr()
        assert captured.out == "", "a command that fails prints no result"
        assert sum(line.startswith("Error: ") for line in captured.err.splitlines()) == 1, captured.err
        assert "Traceback" not in captured.err
        return " ".join(captured.err.split())

    return run
