"""`star_events`: the stars that GH Archive has recorded, one partition a day.

The job `read_archive` reads days, however scattered, in one run (`gh_assets.automation.archive_ops`). The asset itself
is not executable: *Materialize all* means the repositories, and must not read fifteen years of the archive.
"""

import dagster as dg

from gh_assets.assets.definition import COLLECTION, OWNERS
from gh_assets.assets.metadata import table_metadata
from gh_assets.schemas import STAR_EVENTS

star_events = dg.AssetSpec(
    "star_events",
    partitions_def=dg.DailyPartitionsDefinition(start_date="2011-02-12"),
    group_name=COLLECTION,
    kinds={"gharchive", "polars", "parquet"},
    owners=OWNERS,
    metadata=table_metadata(STAR_EVENTS),
    description=(
        "One row is one star that GH Archive has recorded (a `WatchEvent`): who, which repository, when; a partition "
        "is a day (UTC). Open to everyone; complete until about June 2025. The job `read_archive` reads days; "
        "`stargazers` takes their stars with the source `gharchive`."
    ),
)
