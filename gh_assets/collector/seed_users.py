"""Find users whose lists may be read where lists of stargazers are closed: named, known, starring or forking users.

Source: docs.github.com/rest/repos/forks; docs.github.com/graphql/reference/objects#repository (``forks``).
"""

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from gh_assets.collector.input_tables import InputTable, is_table, naming_errors, read_table, read_text
from gh_assets.collector.star_sources.base import CollectionOptions, RepositoryRef
from gh_assets.collector.star_sources.gharchive import read_star_events
from gh_assets.collector.star_sources.graphql import node_id_of
from gh_assets.collector.star_sources.starred_state import SeedUser, StarredState
from gh_assets.collector.stars_file import LOGIN_FORM, SkippedRows, ids_of, logins, skipped_rows
from gh_assets.errors import GitHubError, InputError, ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.github.graphql import GraphQLLists, Listing, batched_query
from gh_assets.github.limits import PAGE_SIZE
from gh_assets.github.list_reading import number_of
from gh_assets.local.concurrency import map_bounded
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.consumer import Consumer
from gh_assets.storage.messages import Message, versioned
from gh_assets.storage.mongo import Collections, MongoDatabase

FORKS_TTL = dt.timedelta(days=30)
"""Time during which a repository's forks are not requested again."""

FORK_PAGES = 10
"""Maximum number of pages of a repository's newest forks."""

ForkersOf = tuple[int, dict[int, str] | None]
"""A repository's id, and the logins of the users who forked it, by id; None if the request failed."""


class SeedUsers:
    """Collects users from these sources in order: a file, known users, events of GH Archive, owners of forks.

    Parameters
    ----------
    client : GitHubClient
    database : pymongo database
        Collections ``users`` (collected), ``starred_state`` (seen) and ``stargazer_state`` (when forks were read).
    store : AssetStore
        Has the events of GH Archive.
    options : CollectionOptions
        With the file (see `read_seeds_file`), and the number of users from which on forks are not read.

    Attributes
    ----------
    unread : int
        Repositories whose forks could not be read; the next run tries again.
    """

    def __init__(
        self, client: GitHubClient, database: MongoDatabase, store: AssetStore, options: CollectionOptions
    ) -> None:
        self.client = client
        self.database = database
        self.store = store
        self.options = options
        self.state = StarredState(database)
        file = options.seed_users
        self.from_file = read_seeds_file(file) if file is not None else SeedsFile([], SkippedRows("", 0, 0))
        self.unread = 0

    def __call__(self, repositories: Sequence[RepositoryRef]) -> list[SeedUser]:
        """Return users who may have starred some of the repositories."""
        # Users from the file come before all others.
        seeds = [SeedUser(seed.login, seed.user_id, seed.weight + 1_000_000, "file") for seed in self.from_file.seeds]
        seeds += [
            SeedUser(document["login"], document["_id"], int(document["collected"]["stars"]))
            for document in self.database[Collections.USERS].find({"collected": {"$exists": True}})
        ]
        events = read_star_events(self.store, repositories)
        starred = events.group_by("user_id").agg(pl.col("login").last(), pl.len().alias("weight")).sort("user_id")
        seeds += [SeedUser(login, user_id, weight, "gharchive") for user_id, login, weight in starred.rows()]
        seeds += self.state.seeds()
        if len(seeds) < self.options.max_users:
            seeds += self._forkers(repositories, {seed.key for seed in seeds})
        return seeds

    def _forkers(self, repositories: Sequence[RepositoryRef], found: set[int | str]) -> list[SeedUser]:
        """Read and store the owners of forks of repositories whose forks were not read lately.

        `found` are the users known before, to whom their owners are added.
        """
        now = dt.datetime.now(dt.UTC)
        read_at = {
            document["_id"]: document["forks"]["asked_at"]
            for document in self.database[Collections.STARGAZER_STATE].find({"forks": {"$exists": True}}, {"forks": 1})
        }
        wanted = [r for r in repositories if r.repo_id not in read_at or now - read_at[r.repo_id] > FORKS_TTL]
        sizes = {repository.repo_id: repository.stargazer_count or 0 for repository in repositories}
        logins: dict[int, str] = {}
        weights = Counter[int]()
        smallest: dict[int, int] = {}
        done: list[Message] = []
        try:
            for repo_id, forkers in self._read_forks(wanted, found):
                if forkers is None:
                    self.unread += 1
                    continue
                logins |= forkers
                weights.update(forkers.keys())
                for user_id in forkers:
                    smallest[user_id] = min(smallest.get(user_id, sizes[repo_id]), sizes[repo_id])
                value = {"asked_at": now, "seen": len(forkers)}
                done.append(Message(update=versioned(Collections.STARGAZER_STATE, repo_id, "forks", value, now)))
        finally:
            seeds = [
                SeedUser(logins[user_id], user_id, weight, "forks", smallest[user_id])
                for user_id, weight in weights.items()
            ]
            # Users first: the forks of a repository that is marked are not read again.
            self.state.remember_seeds(seeds, now)
            Consumer(self.database).apply(done)
        return seeds

    def _read_forks(self, repositories: Sequence[RepositoryRef], found: set[int | str]) -> Iterator[ForkersOf]:
        listing = partial(_Forks, found, self.options.max_users)
        lists, workers = GraphQLLists(self.client, forks_query, listing), self.options.workers
        return lists.read(repositories, workers, lambda left: map_bounded(self._forks_by_rest, left, workers))

    def _forks_by_rest(self, repository: RepositoryRef) -> ForkersOf:
        """Read the newest page of forks."""
        try:
            response = self.client.get(
                f"/repositories/{repository.repo_id}/forks", parameters={"per_page": PAGE_SIZE, "sort": "newest"}
            )
        except (ServiceUnavailableError, GitHubError):
            return repository.repo_id, None
        if response.status in (404, 410, 451):
            return repository.repo_id, {}
        if response.status != 200 or not isinstance(response.payload, list):
            return repository.repo_id, None
        owners = [entry.get("owner") for entry in response.payload if isinstance(entry, dict)]
        return repository.repo_id, _users("id", [o for o in owners if isinstance(o, dict) and o.get("type") == "User"])


def _users(key: str, owners: Sequence[Any]) -> dict[int, str]:
    """Return the users among owners of forks. Organizations, which give no stars, have no database id by GraphQL."""
    users = [(number_of(owner.get(key)), owner.get("login")) for owner in owners if isinstance(owner, dict)]
    return {user_id: login for user_id, login in users if user_id is not None and isinstance(login, str)}


class _Forks(Listing[RepositoryRef, ForkersOf]):
    """The newest forks of one repository: one page, and further ones as long as too few users are found.

    Parameters
    ----------
    found : set
        Users that were found in all repositories; those of this one are added.
    enough : int
        Number of users from which on no further page is read.
    """

    def __init__(self, found: set[int | str], enough: int, key: int, task: RepositoryRef) -> None:
        super().__init__(key, task)
        self.found, self.enough = found, enough
        self.forkers: dict[int, str] = {}
        self.cursors: list[str] = []

    def pages_left(self) -> int:
        # The first page of each repository before the second one of any.
        return FORK_PAGES - len(self.cursors)

    def variables(self) -> Mapping[str, Any]:
        return {"i": node_id_of(self.task), "c": self.cursors[-1] if self.cursors else None}

    def is_whole(self, node: Any) -> bool:
        forks = node.get("forks") if isinstance(node, Mapping) else None
        if not isinstance(forks, Mapping):
            return False
        return isinstance(forks.get("nodes"), list) and isinstance(forks.get("pageInfo"), Mapping)

    def parse_page(self, node: Any) -> ForkersOf | None:
        forks = node["forks"]
        forkers = _users("databaseId", [(fork or {}).get("owner") for fork in forks["nodes"]])
        self.forkers |= forkers
        self.found.update(forkers)
        cursor = forks["pageInfo"].get("endCursor") if forks["pageInfo"].get("hasNextPage") else None
        if isinstance(cursor, str) and cursor not in self.cursors and self.pages_left() > 1:
            self.cursors.append(cursor)
            if len(self.found) < self.enough:
                return None
        return self.task.repo_id, self.forkers

    def parse_refusal(self, kind: str, message: str) -> ForkersOf | None:
        return (self.task.repo_id, self.forkers) if kind in ("NOT_FOUND", "FORBIDDEN") else None

    def give_up(self, reason: str) -> ForkersOf:
        return self.task.repo_id, self.forkers or None


def forks_query(size: int) -> str:
    """Return the query for a page of the newest forks of each of `size` repositories."""
    forks = (
        f"forks(first: {PAGE_SIZE}, after: $c, orderBy: {{field: CREATED_AT, direction: DESC}}) "
        "{ pageInfo { hasNextPage endCursor } nodes { owner { login ... on User { databaseId } } } }"
    )
    return batched_query(size, {"i": "ID!", "c": "String"}, f"node(id: $i) {{ ... on Repository {{ {forks} }} }}")


@dataclass(frozen=True)
class SeedsFile:
    """Users from a file.

    Attributes
    ----------
    seeds : list of SeedUser
        The weight is the number of rows of the user.
    skipped : SkippedRows
    """

    seeds: list[SeedUser]
    skipped: SkippedRows


def read_seeds_file(path: Path) -> SeedsFile:
    """Read a file of users: Parquet or CSV with `login` (and `user_id`, if known), or a text with a login a line.

    Logins may be written ``@login`` or as addresses; in a text ``#`` begins a comment. Rows without a login are left
    out and reported. A file of stars is accepted, too.

    Raises
    ------
    InputError
        If the file cannot be read, has no login, or has an invalid id.
    """
    title = f"file of users {path}"
    file = read_table(path, ("login", "user_id"), {"login"}, "file of users") if is_table(path) else _login_a_line(path)
    table = file.frame.with_columns(logins(pl.col("login")).alias("login_name"))
    users = table.drop_nulls("login_name")
    skipped = skipped_rows(path, table.filter(pl.col("login_name").is_null()), file, {"login": LOGIN_FORM})
    if users.is_empty():
        raise InputError(f"The {title} has no login. {skipped.sentence()}".rstrip())
    ids = ids_of(users, "user_id", title, partly=True)
    # Users without an id are told apart by login, regardless of case.
    nameless = pl.when(pl.col("user_id").is_null()).then(pl.col("login").str.to_lowercase())
    merged = (
        users.select(pl.col("login_name").alias("login"), pl.lit(ids, pl.Int64).alias("user_id"))
        .group_by("user_id", nameless.alias("key"), maintain_order=True)
        .agg(pl.col("login").last(), pl.len().alias("weight"))
    )
    return SeedsFile([SeedUser(*row) for row in merged.select("login", "user_id", "weight").rows()], skipped)


def _login_a_line(path: Path) -> InputTable:
    """Return the lines that have a login, without comments, in columns ``row`` and ``login``."""
    with naming_errors(f"The file of users {path}"):
        lines = read_text(path).decode("utf-8", "replace").splitlines()
    texts = pl.DataFrame({"login": [line.partition("#")[0].strip() for line in lines]}, schema={"login": pl.String})
    return InputTable(texts.with_row_index("row", offset=1).filter(pl.col("login") != ""), ["login"])
