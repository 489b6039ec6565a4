"""The jobs, and how a run is told which partitions it is about."""

from collections.abc import Collection, Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from gh_assets.assets import CHAIN_ASSETS, repos
from gh_assets.assets.star_events import read_days_of_the_archive

repos_job = dg.define_asset_job(
    "read_lists",
    selection=dg.AssetSelection.assets(repos),
    description="Read the awesome lists and GitHub's metadata; adds partitions for new repositories.",
)

refresh_job = dg.define_asset_job(
    "collect_and_recommend",
    selection=dg.AssetSelection.assets(*CHAIN_ASSETS) - dg.AssetSelection.assets(repos),
    description="Collect the stars of a range of repositories, then rebuild matrix, model and recommendations.",
)

chain_job = dg.define_asset_job(
    "whole_chain",
    selection=dg.AssetSelection.assets(*CHAIN_ASSETS),
    description="From the awesome lists to the recommendations, for all repositories that have a partition.",
)


@dg.job(
    name="read_archive",
    description="Read days of GH Archive, however scattered, into the asset star_events: stars that everyone may see.",
)
def archive_job() -> None:
    """One op for all days: a run a contiguous range, as assets have it, would be a process start for each gap."""
    read_days_of_the_archive()


ALL_JOBS: list[dg.JobDefinition | UnresolvedAssetJobDefinition] = [repos_job, refresh_job, chain_job, archive_job]


def range_tags(first: str, last: str) -> dict[str, str]:
    """Tags of one run over all partitions from `first` to `last`, in the order in which they were added."""
    return {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}


def contiguous_ranges(partitions: Sequence[str], wanted: Collection[str], *, bridge: int = 0) -> list[tuple[str, str]]:
    """The fewest ranges that cover the wanted partitions.

    Parameters
    ----------
    partitions : sequence of str
        All, in the order in which they were added.
    wanted : collection of str
    bridge : int
        Join ranges with at most this many unwanted partitions between them.
    """
    places = [place for place, key in enumerate(partitions) if key in wanted]
    ranges: list[list[int]] = []
    for place in places:
        if ranges and place - ranges[-1][1] - 1 <= bridge:
            ranges[-1][1] = place
        else:
            ranges.append([place, place])
    return [(partitions[first], partitions[last]) for first, last in ranges]
