"""What the stand-in knows: repositories, users and who starred what when. Read from a file or made up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gh_assets.collector.stars_file import read_stars
from gh_assets.errors import InputError

NO_TIME = np.iinfo(np.int64).min
"""Stands for a time that is not known, among times in seconds since 1970."""


@dataclass
class Repository:
    """One repository.

    ``stargazers`` are indices of users, oldest star first, as GitHub lists them; ``starred_at`` their times in
    seconds since 1970 (`NO_TIME` where unknown). ``files`` are texts by their path, beside the README; ``rendered`` is
    the HTML of files, by their path, that the stand-in cannot render itself.
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
    former_names: Sequence[str] = ()
    readme: str | None = None
    readme_name: str = "README.md"
    files: Mapping[str, str] = field(default_factory=dict)
    rendered: Mapping[str, str] = field(default_factory=dict)
    stargazers: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    starred_at: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    counted: int | None = None

    @property
    def content(self) -> dict[str, str]:
        """All its files: path and text. One that nobody gave a README has a short one, as most on GitHub have."""
        about = f"# {self.full_name}\n\n{self.description or ''}\n"
        return {self.readme_name: self.readme or about, **self.files}

    @property
    def star_count(self) -> int:
        """What its metadata say: as many as are listed, unless `counted` says otherwise."""
        return len(self.stargazers) if self.counted is None else self.counted


class World:
    """Repositories and users, with the look-ups that the server needs.

    Parameters
    ----------
    repositories : iterable of Repository
    logins : sequence of str
        A user's index is its place here.
    user_ids : sequence of int
    lists : sequence of str
        Full names of the repositories that are awesome lists.
    description : str
        What messages call this world.
    skipped : str
        A sentence about rows of its file that were left out, if any were.
    """

    def __init__(
        self,
        repositories: Iterable[Repository],
        logins: Sequence[str],
        user_ids: Sequence[int],
        lists: Sequence[str],
        description: str,
        skipped: str = "",
    ) -> None:
        self.repositories = list(repositories)
        self.logins = list(logins)
        self.user_ids = [int(user_id) for user_id in user_ids]
        self.lists = list(lists)
        self.description = description
        self.skipped = skipped
        self.by_id = {repository.repo_id: repository for repository in self.repositories}
        self.by_name = {repository.full_name.lower(): repository for repository in self.repositories}
        self.moved = {name.lower(): repository for repository in self.repositories for name in repository.former_names}
        self.user_by_login = {login.lower(): index for index, login in enumerate(self.logins)}
        self.user_by_id = {user_id: index for index, user_id in enumerate(self.user_ids)}
        self._starred: list[NDArray[np.int64]] | None = None

    @property
    def star_count(self) -> int:
        return sum(len(repository.stargazers) for repository in self.repositories)

    def forkers(self, repository: Repository) -> list[int]:
        """Users who forked a repository: every sixth of those who starred it, newest first."""
        return [int(user) for user in repository.stargazers[::-1] if (int(user) + repository.repo_id) % 6 == 0]

    def starred(self, user: int) -> NDArray[np.int64]:
        """Repositories that a user starred, as an array (n, 2) of repository index and time, newest first."""
        if self._starred is None:
            sizes = [len(repository.stargazers) for repository in self.repositories]
            where = np.repeat(np.arange(len(sizes)), sizes)
            who = np.concatenate([r.stargazers for r in self.repositories] or [np.empty(0, np.int64)])
            when = np.concatenate([r.starred_at for r in self.repositories] or [np.empty(0, np.int64)])
            order = np.lexsort((-when, who))
            pairs = np.stack([where[order], when[order]], axis=1).astype(np.int64)
            bounds = np.searchsorted(who[order], np.arange(len(self.logins) + 1))
            self._starred = [pairs[start:end] for start, end in pairwise(bounds)]
        return self._starred[user]


def list_markdown(title: str, repositories: Iterable[Repository]) -> str:
    """An awesome list in Markdown that links to the repositories."""
    lines = [f"# {title}", "", "Generated by the GitHub stand-in of gh_assets.", "", "## Repositories", ""]
    lines += [
        f"- [{repository.full_name}](https://github.com/{repository.full_name})"
        + (f" - {repository.description}" if repository.description else "")
        for repository in repositories
    ]
    return "\n".join(lines) + "\n"


def list_name(path: Path) -> str:
    """The repository that a list file stands for: ``vinta-awesome-python.md`` is ``vinta/awesome-python``."""
    owner, separator, name = path.stem.partition("-")
    return f"{owner}/{name}" if separator and owner and name else f"awesome/{path.stem}"


def read_world(stars: Path, awesome: Sequence[Path] = ()) -> World:
    """A world from a file of stars, and files in any markup as its lists.

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
    # After all others, where there still are numbers of 63 bits.
    free_ids = (number for number in chain(range(max(ids) + 1, 2**63), count(1)) if number not in ids)
    lists: list[Repository] = []
    if awesome:
        for path in awesome:
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"The awesome list {path} cannot be read: {error}.") from error
            name = list_name(path)
            if any(entry.full_name == name for entry in lists):  # the same list in another markup, or of another folder
                name += f"-{len(lists) + 1}"
            lists.append(Repository(0, name, readme=text, readme_name=f"README{path.suffix or '.md'}"))
    else:
        text = list_markdown(f"All repositories of {stars.name}", repositories)
        lists.append(Repository(0, "standin/awesome-all", readme=text))
    known = {repository.full_name.lower(): repository for repository in repositories}
    for entry in lists:
        if entry.full_name.lower() in known:  # a list that people starred, too
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
    """A name of its own for each id of a file of stars.

    Who has a name last keeps it. On GitHub whoever had it before was renamed or deleted; a file does not tell to what,
    but everything here must have a name by which it can be asked for: it gets its id behind the old one.
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
