"""Homes with the results of a run, for the tests of commands."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from gh_assets.embedded.supervision import release_all
from gh_assets_tests.support.chain_runs import ChainRun, run_chain_once


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> ChainRun:
    """The run of the chain that all test processes share; its home is only copied."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished-run"
    folder.mkdir(exist_ok=True)
    return run_chain_once(folder)


@pytest.fixture(scope="module")
def chain_run(finished_run: ChainRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainRun]:
    """A home of the module's own in which the chain has run once."""
    run = finished_run.copy(tmp_path_factory.mktemp("chain"))
    yield run
    release_all(run.home)
