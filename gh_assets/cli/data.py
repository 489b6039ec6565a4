"""`gh-assets data`: earlier versions of stored data, backups and their restoration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gh_assets.cli.output import json_option, report
from gh_assets.settings import load_settings

if TYPE_CHECKING:
    from gh_assets.storage.backup import BackupSummary


def _past_time(_context: click.Context, _option: click.Parameter, text: str) -> datetime:
    """Parse a time in the past as ISO 8601; without an offset, it is in UTC."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a time: write 2026-11-26, 2026-11-26T14:30 or 2026-11-26T14:30:00+00:00 (UTC if no "
            "offset is given)."
        ) from None
    time = (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    if time > datetime.now(UTC):
        raise click.BadParameter(f"{text} is in the future: give a time before the bad run began.")
    return time


folder_argument = click.argument("folder", type=click.Path(path_type=Path))


@click.group()
def data() -> None:
    """Revert, back up and restore stored data."""


@data.command()
@click.argument("asset")
@click.option(
    "--before",
    callback=_past_time,
    required=True,
    help="Time to return to, before the bad run began: 2026-11-26T14:30 (UTC), or with an offset.",
)
@json_option
def undo(asset: str, before: datetime, as_json: bool) -> None:
    """Revert ASSET, with all its partitions, to an earlier time.

    The present contents are kept as a version, too.
    """
    from gh_assets.services.connections import asset_store

    changed = asset_store(load_settings()).undo(asset, before)
    text = f"{len(changed)} objects of {asset} are as they were before {before:%Y-%m-%d %H:%M:%S} UTC."
    report(changed, text, as_json)


@data.command()
@folder_argument
@json_option
def backup(folder: Path, as_json: bool) -> None:
    """Copy MongoDB and both buckets into a new FOLDER."""
    from gh_assets.storage.backup import back_up

    with _storage() as (database, stores, workers):
        summary = back_up(database, stores, folder, workers=workers)
    _print_summary(summary, f"were copied to {folder}.", as_json)


@data.command()
@folder_argument
@json_option
def restore(folder: Path, as_json: bool) -> None:
    """Restore the backup in FOLDER.

    The database and the buckets must be empty.
    """
    from gh_assets.storage.backup import restore as restore_backup

    with _storage() as (database, stores, workers):
        summary = restore_backup(folder, database, stores, workers=workers)
    _print_summary(summary, "were restored. Next: gh-assets models verify", as_json)


@contextmanager
def _storage() -> Iterator[tuple[Any, dict[str, Any], int]]:
    """Open the database and the buckets of the settings; also yield the number of workers."""
    from gh_assets.services.connections import connect_gcs, data_store, model_store, open_mongo

    settings = load_settings()
    with open_mongo(settings) as database:
        client = connect_gcs(settings)
        stores = {"data": data_store(settings, client), "models": model_store(settings, client)}
        yield database, stores, settings.workers


def _print_summary(summary: BackupSummary, outcome: str, as_json: bool) -> None:
    size = f"{summary.bytes / 1e6:,.1f} MB"
    text = f"{summary.documents:,} documents and {summary.objects:,} objects ({size}) {outcome}"
    report(asdict(summary), text, as_json)
