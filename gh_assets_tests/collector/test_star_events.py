"""Stored events of GH Archive."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from gh_assets.collector.star_events import read_star_events
from gh_assets.schemas import STAR_EVENTS
from gh_assets_tests.support.commands import stored_file


def test_a_damaged_day_is_left_out_with_a_warning(asset_store, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    at = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
    for number, day in enumerate(("2015-01-01", "2015-01-02"), start=1):
        rows = [(number, f"a/{number}", 7, "seven", at + dt.timedelta(days=number - 1))]
        asset_store.write_table("star_events", pl.DataFrame(rows, schema=STAR_EVENTS.dtypes, orient="row"), day)
    name = "assets/star_events/2015-01-01.parquet"
    stored_file(home, asset_store.objects.name, name).write_bytes(b"garbage")
    assert read_star_events(asset_store)["repo_id"].to_list() == [2]
    assert "2015-01-01 of star_events is restored" in caplog.text
    assert asset_store.partitions("star_events") == {"2015-01-02"}, "the job read_archive reads it again"
