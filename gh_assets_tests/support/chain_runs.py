"""A home in which the whole chain has run: made once for all test processes, and copied for each module of tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from gh_assets.embedded.guardian import read_state
from gh_assets.embedded.supervision import release_all
from gh_assets.local.locks import exclusive
from gh_assets_tests.support.commands import run_json, write_stars


@dataclass(frozen=True)
class ChainRun:
    """A home, and the run that filled it.

    Attributes
    ----------
    home : Path
    file : Path
        The stars file that was collected.
    stars : DataFrame
        Its content.
    first : dict
        The document that the run printed.
    """

    home: Path
    file: Path
    stars: pl.DataFrame
    first: dict[str, Any]

    def copy(self, folder: Path) -> ChainRun:
        """Copy the home, without the state of its servers."""
        home = folder / "home"
        shutil.copytree(self.home, home, ignore=lambda path, _: {"run"} if Path(path) == self.home else set())
        return ChainRun(home, self.file, self.stars, self.first)


def run_chain_once(folder: Path) -> ChainRun:
    """Run the chain in a folder that several test processes share, unless one of them has done so."""
    home, file, document = folder / "home", folder / "stars.parquet", folder / "first.json"
    with exclusive(folder / "lock"):
        stars = write_stars(file)
        if not document.exists():
            first = run_json(home, "run", "--stars", str(file), "--epochs", "4")
            stop_servers(home)
            document.write_text(json.dumps(first))
    return ChainRun(home, file, stars, json.loads(document.read_text()))


def latest_materialization(instance: dg.DagsterInstance, asset: str) -> dg.AssetMaterialization:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization


def stop_servers(home: Path) -> None:
    """Stop the embedded servers of a home and wait until they have ended."""
    release_all(home)
    for path in (home / "run").glob("*.json"):
        guardian = read_state(path.with_suffix("")).get("guardian_pid")
        if guardian is not None:
            os.kill(guardian, signal.SIGTERM)
        with exclusive(path.with_suffix(".guard")):
            pass
