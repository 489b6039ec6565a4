"""`gh-assets leaderboard`: all recommenders by the number of known stars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Column

from gh_assets.cli.output import Table, json_option, report
from gh_assets.errors import InputError
from gh_assets.settings import load_settings

if TYPE_CHECKING:
    from gh_assets.serving.leaderboard import Standing


@click.command()
@json_option
def leaderboard(as_json: bool) -> None:
    """Compare all models by the number of known stars.

    The first table has the same held-out users with their histories cut to that many stars, and their mean weighted by
    how many people have as many. The second has people as they are.
    """
    from gh_assets.services.connections import asset_store
    from gh_assets.serving.leaderboard import read_standings

    rows = read_standings(asset_store(load_settings()))
    if not rows:
        raise InputError("There is no leaderboard yet: run gh-assets run, or materialize it.")
    report([row.to_json() for row in rows], Group(*leaderboard_tables(rows)), as_json)


def leaderboard_tables(rows: Sequence[Standing]) -> Iterator[Table]:
    """Yield the tables of a leaderboard, which fit a terminal of 62 columns."""
    from gh_assets.recommender.evaluation.metrics import MAIN_METRIC
    from gh_assets.serving.leaderboard import KNOWN_STARS

    title = f"{MAIN_METRIC} by number of known stars"
    table = _table(title, *KNOWN_STARS, "mean")
    for row in rows:
        table.add_row(row.model, *(_cell(score) for score in row.cut.values()), _cell(row.as_people_have))
    yield table
    groups = rows[0].people
    if all(users is None for _, users in groups.values()):
        return  # a leaderboard of an earlier version
    table = _table(f"\n{MAIN_METRIC} of people who have as many", *groups)
    table.add_row("users", *(f"{users:,}" for _, users in groups.values()), end_section=True)
    for row in rows:
        table.add_row(row.model, *(_cell(score) for score, _ in row.people.values()))
    yield table


def _table(title: str, *columns: str) -> Table:
    numbers = [Column(name, justify="right") for name in columns]
    style: dict[str, Any] = {"box": SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
    return Table("model", *numbers, title=title, title_justify="left", **style)


def _cell(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"
