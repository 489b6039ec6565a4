"""`gh-assets plan`: what a collection would cost by each source of stars."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import BaseModel, ConfigDict, Field

from gh_assets.cli.options import options_of
from gh_assets.cli.output import Table, json_option, print_json, stdout, wrapping
from gh_assets.errors import InputError
from gh_assets.settings import MAX_PAGES, Settings, load_settings

if TYPE_CHECKING:
    from gh_assets.collector.estimate import Assumptions


class PlanOptions(BaseModel):
    """Options of `gh-assets plan`. Unset ones have the values of the settings."""

    model_config = ConfigDict(frozen=True, defer_build=True, use_attribute_docstrings=True)

    awesome: tuple[Path, ...] = ()
    """Awesome list that is a file or folder on this machine. Repeatable. Without one: the repositories that the home
    has collected."""

    repositories: int | None = Field(None, ge=1)
    """Assume this number of repositories instead."""

    max_users: int | None = Field(None, ge=1)
    """Maximum number of users whose starred lists are read."""

    max_pages: int | None = Field(None, ge=1, le=MAX_PAGES)
    """Maximum number of pages of 100 stars per repository or user."""


@click.command()
@options_of(PlanOptions)
@json_option
def plan(options: PlanOptions, as_json: bool) -> None:
    """Estimate what a collection costs by each source of stars. Sends no request.

    Points are GraphQL's. Hours are those of tokens of different users whose quota is unspent.
    """
    from gh_assets.collector.estimate import ways_to_collect

    assumed, sentences = _assumptions(load_settings(), options)
    ways = list(ways_to_collect(assumed))
    if as_json:
        print_json(
            {
                "repositories": len(assumed.counts),
                "stars": sum(assumed.known_counts),
                "ways": [way.to_json() for way in ways],
                "assumed": sentences,
            }
        )
        return
    columns = ("source", "requests", "points", "1 token", "4 tokens", "users", "stars")
    table = Table(*columns, title=f"{len(assumed.counts):,} repositories", title_justify="left")
    for way in ways:
        numbers = (way.requests, way.points)
        hours = (_hours(way.hours(tokens)) for tokens in (1, 4))
        name = f"{way.source}, a day" if way.a_day else way.source
        table.add_row(name, *(f"{number:,}" for number in numbers), *hours, f"{way.users:,}", f"{way.stars:,}")
    about = Table(wrapping("source"), wrapping("may be read by"), show_header=False)
    for way in ways:
        about.add_row(way.source, way.open_to)
    stdout().print(table, about, "Assumed:", *(f"  {sentence}" for sentence in sentences), sep="\n")


def _hours(hours: float) -> str:
    from gh_assets.collector.forecast import duration

    return duration(3600 * hours)


def _assumptions(settings: Settings, options: PlanOptions) -> "tuple[Assumptions, list[str]]":
    """Return what is known or assumed, and sentences about it."""
    from gh_assets.collector import estimate

    known = _known_counts(settings)
    sentences = []
    counts: list[int | None]
    if options.repositories is not None:
        counts = [None] * options.repositories
    elif options.awesome:
        counts = [known.get(name) for name in _named(options.awesome)]
    elif known:
        counts = list(known.values())
    else:
        raise InputError(
            "This home has no repositories yet, and reading lists on GitHub would spend a token's quota: name a list "
            "on this machine (--awesome FILE), or a number of repositories (--repositories)."
        )
    unknown = sum(count is None for count in counts)
    if unknown:
        sentences.append(f"{unknown:,} repositories have {estimate.STARS_A_REPOSITORY:,} stars each.")
    pages, stars, answers = _yields(settings)
    if answers:
        sentences.append(
            f"A user's list has {pages:.1f} pages and {stars:.1f} stars on these repositories, as the last {answers:,} "
            "lists of this home had."
        )
    else:
        pages, stars = estimate.PAGES_A_USER, estimate.STARS_A_USER
        sentences.append(f"A user's list has {pages:.0f} pages and {stars:.0f} stars on these repositories.")
    sentences.append(f"A look at an event feed costs {estimate.LOOKS_A_DAY:.0f} requests a day and repository.")
    sentences.append(f"Repositories get {100 * estimate.GROWTH_A_DAY:.2f} % new stars a day.")
    sentences.append(f"A GraphQL query that costs a point takes GitHub {estimate.SECONDS_A_POINT:.0f} s of computing.")
    sentences.append("No request fails, and no other program spends the tokens' quota.")
    max_pages, max_users = options.max_pages or settings.max_pages, options.max_users or settings.max_users
    sentences.append(f"At most {max_pages:,} pages of a list, and the lists of {max_users:,} users, are read.")
    return estimate.Assumptions(counts, max_pages, max_users, pages, stars), sentences


def _named(lists: tuple[Path, ...]) -> list[str]:
    """Return the repositories that lists name, in lower case."""
    from gh_assets.collector.lists.sources import read_local_list

    names: dict[str, None] = {}
    for place in lists:
        if not place.exists():
            raise InputError(f"The awesome list {place} does not exist on this machine.")
        names |= dict.fromkeys(name.lower() for name in read_local_list(str(place), place).repositories)
    return list(names)


def _known_counts(settings: Settings) -> dict[str, int | None]:
    """Return GitHub's counts of the stars of the home's repositories, by name in lower case."""
    from gh_assets.github.outcomes import REACHABLE
    from gh_assets.services.connections import asset_store

    store = asset_store(settings)
    if store.describe("repos", "parquet") is None:
        return {}
    rows = store.read_table("repos").select("full_name", "stargazer_count", "outcome").rows()
    return {name.lower(): count for name, count, outcome in rows if outcome in REACHABLE}


def _yields(settings: Settings) -> tuple[float, float, int]:
    """Return the pages and the stars of a user's list, and the number of lists that say so."""
    from gh_assets.collector.star_sources.frontier import AGAIN, Yields
    from gh_assets.services.connections import open_mongo

    with open_mongo(settings) as database:
        known = [one for group, one in Yields.load(database).of_groups.items() if group.source != AGAIN]
    answers = sum(one.answers for one in known)
    if answers < 1:
        return 0.0, 0.0, 0
    return sum(one.pages for one in known) / answers, sum(one.stars for one in known) / answers, round(answers)
