"""The data of the stand-in: repositories, users and stars, read from a file or generated."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, count
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gh_assets.collector.stars_file import read_stars
from gh_assets.errors import InputError

NO_TIME = np.iinfo(np.int64).min
"""An unknown time, among times in seconds since 1970."""


def iso(seconds: int) -> str | None:
    """Return a time in the form of GitHub's API, or None if it is unknown."""
    return None if seconds == NO_TIME else dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Repository:
    """A repository.

    ``stargazers`` are indices of users, oldest star first, and ``starred_at`` the times of their stars in seconds since
    1970 (`NO_TIME` if unknown). ``other_events_a_day`` is the rate of events that are no stars. ``files`` are texts by
    path, without the README; ``rendered`` is the HTML, by path, of files that the stand-in does not render.
    """

    repo_id: int
    full_name: str
    description: str | None = None
    language: str | None = None
    topics: Sequence[str] = ()
    created_at: str | None = None
    pushed_at: str | None = None
    archived: bool = False
    fork_of: int | None = None
    blocked: bool = False
    restricted: bool = False
    other_events_a_day: float = 1.0
    former_names: Sequence[str] = ()
    readme: str | None = None
    readme_name: str = "README.md"
    files: Mapping[str, str] = field(default_factory=dict)
    rendered: Mapping[str, str] = field(default_factory=dict)
    stargazers: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    starred_at: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def content(self) -> dict[str, str]:
        """Texts of all files by path; the default README has the name and the description."""
        default = f"# {self.full_name}\n\n{self.description or ''}\n"
        return {self.readme_name: self.readme or default, **self.files}


@dataclass(eq=False)
class World:
    """Repositories and users, with the indexes that the server needs.

    Parameters
    ----------
    repositories : sequence of Repository
    logins, user_ids : sequence
        Logins and ids of the users, by index.
    lists : sequence of str
        Full names of the repositories that are awesome lists.
    description : str
        Name in messages.
    skipped : str
        Sentence about the rows of its file that were skipped, if any.
    """

    repositories: list[Repository]
    logins: list[str]
    user_ids: Sequence[int]
    lists: list[str]
    description: str
    skipped: str = ""

    def __post_init__(self) -> None:
        self.by_id = {repository.repo_id: repository for repository in self.repositories}
        self.by_name = {repository.full_name.lower(): repository for repository in self.repositories}
        self.moved = {name.lower(): repository for repository in self.repositories for name in repository.former_names}
        # A login that is lower-case already is stored once: a world may have hundreds of thousands.
        lower = (login if login.islower() else login.lower() for login in self.logins)
        self.user_by_login = {login: index for index, login in enumerate(lower)}
        self.user_by_id = {user_id: index for index, user_id in enumerate(self.user_ids)}

    @property
    def star_count(self) -> int:
        return sum(len(repository.stargazers) for repository in self.repositories)

    def advance(self, now: float) -> None:
        """Set the time up to which stars are shown; no star of this world is given later."""

    def forkers(self, repository: Repository) -> list[int]:
        """Return the users who forked a repository: about a sixth of its stargazers, newest first."""
        newest_first = repository.stargazers[::-1]
        forkers: list[int] = newest_first[(newest_first + repository.repo_id) % 6 == 0].tolist()
        return forkers

    def starred(self, user: int) -> NDArray[np.int64]:
        """Return the repositories that a user starred, as an array (n, 2) of index and time, newest first."""
        pairs, bounds = self._starred
        return pairs[bounds[user] : bounds[user + 1]]

    @cached_property
    def _starred(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pairs of all users, and where each user's begin."""
        sizes = [len(repository.stargazers) for repository in self.repositories]
        where = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        who = np.concatenate([r.stargazers for r in self.repositories] or [np.empty(0, np.int64)]).astype(np.int32)
        when = np.concatenate([r.starred_at for r in self.repositories] or [np.empty(0, np.int64)])
        order = np.lexsort((-when, who))
        pairs = np.empty((len(order), 2), np.int64)
        pairs[:, 0], pairs[:, 1] = where[order], when[order]
        return pairs, np.concatenate([[0], np.cumsum(np.bincount(who, minlength=len(self.logins)))])


@dataclass(eq=False)
class GrowingWorld(World):
    """A world whose stars are shown when their time has come, hour by hour."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._all_stars = [(repository.stargazers, repository.starred_at) for repository in self.repositories]
        self._now = np.iinfo(np.int64).max

    def advance(self, now: float) -> None:
        """Set the time up to which stars are shown, rounded down to the hour."""
        hour = int(now) // 3600 * 3600
        if hour == self._now:
            return
        self._starred  # noqa: B018 - of all stars, before some are hidden
        self._now = hour
        for repository, (users, times) in zip(self.repositories, self._all_stars, strict=True):
            shown = int(np.searchsorted(times, hour, "right"))
            repository.stargazers, repository.starred_at = users[:shown], times[:shown]

    def starred(self, user: int) -> NDArray[np.int64]:
        pairs = super().starred(user)
        return pairs[np.searchsorted(-pairs[:, 1], -self._now) :]


def list_markdown(title: str, repositories: Iterable[Repository]) -> str:
    """Return an awesome list in Markdown with links to repositories."""
    lines = [f"# {title}", "", "Generated by the GitHub stand-in of gh_assets.", "", "## Repositories", ""]
    lines += [
        f"- [{repository.full_name}](https://github.com/{repository.full_name})"
        + (f" - {repository.description}" if repository.description else "")
        for repository in repositories
    ]
    return "\n".join(lines) + "\n"


def list_name(path: Path) -> str:
    """Return the repository of a list file: ``vinta/awesome-python`` for ``vinta-awesome-python.md``."""
    owner, separator, name = path.stem.partition("-")
    return f"{owner}/{name}" if separator and owner and name else f"awesome/{path.stem}"


def read_world(stars: Path, awesome: Sequence[Path] = ()) -> World:
    """Read a world from a file of stars, with files in any markup as its lists.

    Raises
    ------
    InputError
        If a file cannot be read; see `gh_assets.collector.stars_file.read_stars`.
    """
    contents = read_stars(stars)
    table = contents.table
    names, logins = _distinct(table, "repo_id", "repo"), _distinct(table, "user_id", "login")
    users = table.unique("user_id", keep="first", maintain_order=True).select("user_id")
    index = users.with_row_index("user").select("user_id", pl.col("user").cast(pl.Int64))
    table = table.join(index, on="user_id", how="left", maintain_order="left")
    seconds = table["starred_at"].dt.epoch("s").fill_null(NO_TIME)
    table = table.with_columns(seconds.alias("when")).sort("when", maintain_order=True)
    repositories = [
        Repository(
            int(group["repo_id"][0]),
            names[group["repo_id"][0]],
            former_names=contents.former_names.get(group["repo_id"][0], ()),
            stargazers=group["user"].to_numpy(),
            starred_at=group["when"].to_numpy(),
        )
        for group in table.partition_by("repo_id", maintain_order=True)
    ]
    repositories.sort(key=lambda repository: repository.repo_id)
    ids = {repository.repo_id for repository in repositories}
    # After the largest id, unless that exceeds 63 bits.
    free_ids = (number for number in chain(range(max(ids) + 1, 2**63), count(1)) if number not in ids)
    lists: list[Repository] = []
    if awesome:
        for path in awesome:
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"The awesome list {path} cannot be read: {error}.") from error
            name = list_name(path)
            if any(entry.full_name == name for entry in lists):  # a list in another markup or folder
                name += f"-{len(lists) + 1}"
            lists.append(Repository(0, name, readme=text, readme_name=f"README{path.suffix or '.md'}"))
    else:
        text = list_markdown(f"All repositories of {stars.name}", repositories)
        lists.append(Repository(0, "standin/awesome-all", readme=text))
    known = {repository.full_name.lower(): repository for repository in repositories}
    for entry in lists:
        if entry.full_name.lower() in known:  # a list that has stars
            known[entry.full_name.lower()].readme = entry.readme
            known[entry.full_name.lower()].readme_name = entry.readme_name
        else:
            entry.repo_id = next(free_ids)
            repositories.append(entry)
    return World(
        repositories,
        [logins[user_id] for user_id in users["user_id"]],
        users["user_id"].to_list(),
        [entry.full_name for entry in lists],
        f"the stars of {stars.name}",
        contents.skipped.sentence(),
    )


def _distinct(stars: pl.DataFrame, identity: str, name: str) -> dict[int, str]:
    """Return a unique name for each id of a file of stars.

    The latest owner of a name keeps it. An earlier owner was renamed or deleted on GitHub, to a name that the file does
    not have, and gets the old name with its id as a suffix.
    """
    newest = (
        stars.with_row_index("place")
        .group_by(identity)
        .agg(pl.col(name).last(), pl.col("starred_at").max(), pl.col("place").max())
        .sort("starred_at", "place", descending=True, nulls_last=True)
    )
    named: dict[int, str] = {}
    taken = set(newest[name].str.to_lowercase())
    kept: set[str] = set()
    for key, text in newest.select(identity, name).rows():
        if text.lower() in kept:
            text = f"{text}-{key}"
            while text.lower() in taken:
                text += "-"
        kept.add(text.lower())
        taken.add(text.lower())
        named[key] = text
    return named
