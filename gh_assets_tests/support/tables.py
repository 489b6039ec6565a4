"""Small tables for tests."""

import datetime as dt

import polars as pl

from gh_assets.schemas import STARGAZERS


def star_table(repo: int, *users: int) -> pl.DataFrame:
    """Return a table of stargazers with one star of each user, all at the same time."""
    starred_at = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    rows = [(repo, user, f"u{user}", starred_at, "t") for user in users]
    return pl.DataFrame(rows, schema=STARGAZERS.dtypes, orient="row")
