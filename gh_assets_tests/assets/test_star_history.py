"""The asset `star_history`: partitions, metadata, and a GitHub without histories."""

import datetime as dt
import time
from typing import Any

import dagster as dg
import numpy as np
import pytest

from gh_assets.assets.star_history import ARCHIVE_ONLY
from gh_assets.collector.history_reader import NO_HISTORIES
from gh_assets.services.connections import asset_store
from gh_assets_tests.automation.conftest import AutomationHome
from gh_assets_tests.automation.conftest import automation as automation


def metadata_of(home: AutomationHome, run_id: str) -> dict[str | None, dict[str, Any]]:
    """Return the metadata of the materializations of `star_history` that a run reported, by partition."""
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    records = home.instance.get_records_for_run(run_id, of_type=kind, limit=100).records
    found = [record.asset_materialization for record in records]
    return {
        one.partition: {name: entry.value for name, entry in one.metadata.items()}
        for one in found
        if one is not None and one.asset_key.to_user_string() == "star_history"
    }


def materialize(home: AutomationHome, *partitions: str) -> dict[str | None, dict[str, Any]]:
    """Materialize partitions, which are neighbours, and return their metadata."""
    job = home.definitions.resolve_implicit_global_asset_job_def()
    tags = {"dagster/asset_partition_range_start": partitions[0], "dagster/asset_partition_range_end": partitions[-1]}
    result = job.execute_in_process(
        instance=home.instance, tags=tags, asset_selection=[dg.AssetKey("star_history")], raise_on_error=True
    )
    return metadata_of(home, result.run_id)


def test_one_partition_shows_what_it_is(automation: AutomationHome) -> None:
    automation.run_job("read_lists")
    repository = automation.standin.world.by_name["o/r3"]
    repository.starred_at[-3:] = time.time() - np.array([40, 20, 10]) * 86_400
    assert len(repository.stargazers) == 13
    (entries,) = materialize(automation, "o/r3").values()
    assert (entries["outcome"], entries["sum"], entries["time_zone"]) == ("ok", 13, "America/Los_Angeles days")
    assert dt.date.fromisoformat(entries["first_week"]).isoweekday() == 7
    assert entries["stars_last_30_days"] == 2
    assert entries["complete"] == "true", "a run reads older pages, too, while the quota allows it"
    assert entries["history"].startswith("![Stars](data:image/png")
    assert "| day | stars |" in entries["preview"]
    assert asset_store(automation.settings).read_table("star_history", "o/r3")["stars"].sum() == 13


def test_a_run_over_many_partitions_has_metadata_for_each(automation: AutomationHome) -> None:
    automation.run_job("read_lists")
    found = materialize(automation, *[f"o/r{number}" for number in range(8)])
    assert {name: entries["outcome"] for name, entries in found.items()} == dict.fromkeys(
        [f"o/r{number}" for number in range(8)], "ok"
    )
    assert all(entries["run_repositories_asked"] == 8 for entries in found.values())
    assert all("recent" in entries for entries in found.values())


def test_enterprise_is_a_sentence_and_nothing_fails(automation: AutomationHome) -> None:
    automation.run_job("read_lists")
    automation.standin.enterprise = True
    found = materialize(automation, "o/r0", "o/r1")
    assert {entries["outcome"] for entries in found.values()} == {"unavailable"}
    assert {entries["notes"] for entries in found.values()} == {NO_HISTORIES}
    assert asset_store(automation.settings).partitions("star_history") == set()


def test_a_home_with_the_archive_only_has_none(automation: AutomationHome, monkeypatch: pytest.MonkeyPatch) -> None:
    automation.run_job("read_lists")
    monkeypatch.setattr("gh_assets.resources.github.GitHubResource.has_only_archive", lambda _: True)
    (entries,) = materialize(automation, "o/r0").values()
    assert (entries["outcome"], entries["notes"]) == ("unavailable", ARCHIVE_ONLY)
