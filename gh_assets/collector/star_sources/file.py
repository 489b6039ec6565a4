"""The source of stars in a file, which `gh_assets.collector.stars_file` reads. Here its users get GitHub's ids.

A file without user ids names users by login. Numbers of its own would clash with ids of other users of GitHub, so
logins are looked up among the known users, then at GitHub, a hundred per query, and the results are stored.

Source: docs.github.com/graphql/reference/queries#user; docs.github.com/rest/users/users#get-a-user.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from pymongo.database import Database

from gh_assets.collector.gharchive import id_of_name
from gh_assets.collector.star_sources.base import CollectionTask, PreviousStars, RepositoryRef, StarCollection
from gh_assets.collector.star_sources.gharchive import grouped
from gh_assets.collector.star_sources.merging import merge_stars, stars_missing_from
from gh_assets.collector.star_sources.starred_state import StarredState, UserState
from gh_assets.collector.stars_file import NAMED, counted, one_row_a_star, read_stars
from gh_assets.collector.users import identified, ids_of_logins
from gh_assets.errors import BudgetSpentError, GitHubError, ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.github.graphql import GraphQLLists, Listing, batched_query
from gh_assets.github.outcomes import Outcome
from gh_assets.local.concurrency import map_bounded
from gh_assets.schemas import STARGAZERS
from gh_assets.storage.consumer import Consumer
from gh_assets.storage.messages import Message, UserInsert
from gh_assets.storage.mongo import Collections

UNKNOWN_LOGIN_TTL = dt.timedelta(days=30)
"""Time during which a login that no user had is not looked up again."""


@dataclass(frozen=True)
class LoginLookup:
    """The user who has a login.

    Attributes
    ----------
    key : str
        The login in lower case.
    user_id : int or None
        None if no user has it, or if the lookup failed.
    login : str
        The login as GitHub writes it.
    problem : str or None
        Why the lookup failed.
    """

    key: str
    user_id: int | None
    login: str
    problem: str | None = None


class UserLookup:
    """Finds the users of logins among the known users, then at GitHub.

    Parameters
    ----------
    database : pymongo.database.Database
        Collections ``users``, which also stores the users that are found, and ``starred_state``, which stores logins
        without a user.
    client : GitHubClient or None
        None if there is only GH Archive: then other users get the negative id of an event without an id.
    """

    def __init__(self, database: Database[dict[str, Any]], client: GitHubClient | None) -> None:
        self.database = database
        self.client = client
        self.unknown_logins = StarredState(database)

    def look_up(self, logins: Iterable[str], workers: int) -> tuple[dict[str, LoginLookup], Exception | None]:
        """Find the users of logins.

        Returns
        -------
        dict
            Lookups by login in lower case. Logins that were not looked up before the failure are missing.
        Exception or None
            Why the lookups ended early.
        """
        wanted = dict.fromkeys(login.lower() for login in logins)
        known = {key: user for key, user in self._known().items() if key in wanted}
        unknown = [key for key in wanted if key not in known]
        if self.client is None:
            return known | {key: LoginLookup(key, id_of_name(key), key) for key in unknown}, None
        lookups: list[LoginLookup] = []
        failure: Exception | None = None
        try:
            for lookup in self._request(self.client, unknown, workers):
                lookups.append(lookup)
        except BudgetSpentError as error:
            failure = error
        finally:
            self._remember(lookups)
        return known | {lookup.key: lookup for lookup in lookups}, failure

    def _known(self) -> dict[str, LoginLookup]:
        documents = self.database[Collections.USERS].find(
            {"_id": {"$gt": 0}, "login": {"$exists": True}}, {"login": 1, "seen": 1}
        )
        since = dt.datetime.now(dt.UTC) - UNKNOWN_LOGIN_TTL
        known = {
            state.login.lower(): LoginLookup(state.login.lower(), None, state.login)
            for state in self.unknown_logins.load().values()
            if isinstance(state.user_id, str)
            and state.outcome is Outcome.GONE
            and state.asked_at is not None
            and state.asked_at > since
        }
        # A login of several users belongs to the one who was last seen with it.
        for document in sorted(documents, key=lambda document: str(document.get("seen", "")).partition(" ")[0]):
            key = document["login"].lower()
            known[key] = LoginLookup(key, document["_id"], document["login"])
        return known

    def _request(self, client: GitHubClient, logins: Sequence[str], workers: int) -> Iterator[LoginLookup]:
        lists, by_rest = GraphQLLists(client, users_query, _User), partial(_look_up_by_rest, client)
        return lists.read(logins, workers, lambda left: map_bounded(by_rest, left, workers))

    def _remember(self, lookups: Sequence[LoginLookup]) -> None:
        now = dt.datetime.now(dt.UTC)
        Consumer(self.database).apply(
            Message(insert=UserInsert(uid=lookup.user_id, login=lookup.login, seen_at=now))
            for lookup in lookups
            if lookup.user_id is not None
        )
        self.unknown_logins.save(
            UserState(
                user_id=f"login:{lookup.key}",
                login=lookup.login,
                outcome=Outcome.GONE,
                reason="no user has this login",
                asked_at=now,
            )
            for lookup in lookups
            if lookup.user_id is None and lookup.problem is None
        )


class _User(Listing[str, LoginLookup]):
    """The user who has a login."""

    def variables(self) -> Mapping[str, Any]:
        return {"l": self.task}

    def is_whole(self, node: Any) -> bool:
        return isinstance(node, Mapping) and "login" in node

    def parse_page(self, node: Any) -> LoginLookup:
        if not isinstance(node.get("databaseId"), int) or not isinstance(node.get("login"), str):
            return self.give_up("GitHub's response has no id")
        return LoginLookup(self.task, node["databaseId"], node["login"])

    def parse_refusal(self, kind: str, message: str) -> LoginLookup | None:
        return LoginLookup(self.task, None, self.task) if kind == "NOT_FOUND" else None

    def give_up(self, reason: str) -> LoginLookup:
        return LoginLookup(self.task, None, self.task, reason)


def users_query(size: int) -> str:
    """Return the query for `size` users by login."""
    return batched_query(size, {"l": "String!"}, "user(login: $l) { databaseId login }")


def _look_up_by_rest(client: GitHubClient, login: str) -> LoginLookup:
    try:
        response = client.get(f"/users/{login}")
    except (ServiceUnavailableError, GitHubError) as error:
        return LoginLookup(login, None, login, str(error))
    account = response.document
    if response.status == 200 and isinstance(account.get("id"), int):
        # Organizations have logins, too, but give no stars.
        is_user = account.get("type") == "User"
        return LoginLookup(login, account["id"] if is_user else None, str(account["login"]))
    if response.status in (404, 410):
        return LoginLookup(login, None, login)
    return LoginLookup(login, None, login, f"{response.status} {response.message}".strip())


class StarsFile:
    """Source of the stars in a file.

    Rows are matched with repositories by id where the file has ids, else by case-insensitive name.

    Parameters
    ----------
    path : Path
        See `gh_assets.collector.stars_file.read_stars`.
    own_world : bool
        Whether the file is the home's world: then its numbers are the world's ids, and it has all of its stars.
    logins : UserLookup, optional
        Finds the users of a file without ids, unless it is the home's world.
    """

    name = "file"

    def __init__(self, path: Path, *, own_world: bool = False, logins: UserLookup | None = None) -> None:
        self.path = path
        self.own_world = own_world
        contents = read_stars(path)
        self.skipped = contents.skipped
        self._logins = None if own_world or contents.has_user_ids else logins
        self._has_ids = contents.has_repo_ids or own_world
        self._by_id = grouped(contents.table, pl.col("repo_id"))
        self._by_name = grouped(contents.table, pl.col("repo").str.to_lowercase())
        self._users: dict[str, LoginLookup] = {}
        self._unmatched_stars = 0

    def summary_lines(self) -> list[str]:
        """Return sentences about the rows and stars that were left out, after a collection."""
        lines = [self.skipped.sentence()] if self.skipped.count else []
        if self._unmatched_stars:
            logins = self._unknown_logins()
            names = ", ".join(repr(login) for login in logins[:NAMED]) + (", …" if len(logins) > NAMED else "")
            were = "was" if self._unmatched_stars == 1 else "were"
            missing = f"no user {names}" if len(logins) == 1 else f"none of the {len(logins):,} users {names}"
            lines.append(
                f"{counted(self._unmatched_stars, 'star')} of {self.path.name} {were} left out: GitHub has {missing}."
            )
        return lines

    def _unknown_logins(self) -> list[str]:
        return sorted(key for key, user in self._users.items() if user.user_id is None and user.problem is None)

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Find the users of all wanted repositories first, then return each repository's rows."""
        wanted = list(tasks)
        failure: Exception | None = None
        if self._logins is not None:
            rows = (self._rows_of(task.repository) for task in wanted)
            columns = [part["login"] for part in rows if part is not None]
            logins = pl.concat(columns or [pl.Series(dtype=pl.String)]).str.to_lowercase()
            self._users, failure = self._logins.look_up(logins.unique(maintain_order=True), workers)
            self._unmatched_stars = int(logins.is_in(self._unknown_logins()).sum())
        yield from map_bounded(self._collect, wanted, workers)
        if failure is not None:
            raise failure

    def _rows_of(self, repository: RepositoryRef) -> pl.DataFrame | None:
        # A negative id is made from the name of a repository whose id is unknown.
        if self._has_ids and repository.repo_id > 0:
            return self._by_id.get(repository.repo_id)
        return self._by_name.get(repository.full_name.lower())

    def _collect(self, task: CollectionTask) -> StarCollection:
        repository, before = task.repository, task.load_previous()
        rows = self._rows_of(repository)
        if rows is None:
            nothing = f"{self.path.name} has no stars of {repository.full_name}"
            return StarCollection(repository, Outcome.UNKNOWN, nothing)
        reason: str | None = None
        if self._logins is not None:
            rows, reason = self._identified(rows)
            if rows.is_empty():
                reason = reason or f"GitHub has none of the users who starred it in {self.path.name}"
                return StarCollection(repository, Outcome.UNKNOWN, reason)
        rows = rows.with_columns(repo_id=pl.lit(repository.repo_id, pl.Int64), source=pl.lit(self.name))
        rows = one_row_a_star(rows.select(*STARGAZERS.columns), ["user_id"])
        if self.own_world and (before is None or before.source == self.name):
            table, unstarred = rows, stars_missing_from(rows, before)
        else:
            # The file is one source among several: users who are not in it may have starred as well.
            table, unstarred = _add_rows(rows, before)
        unchanged = before is not None and table.equals(before.table)
        return StarCollection(
            repository,
            Outcome.OK,
            reason,
            table,
            complete=self.own_world,
            unchanged=unchanged,
            unstarred=unstarred,
            proven=reason is None,
        )

    def _identified(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, str | None]:
        """Return rows with GitHub's ids, and the reason why some are missing if some lookups failed."""
        users = [self._users.get(login.lower()) for login in rows["login"]]
        problems = ["the run had ended" if user is None else user.problem for user in users]
        failures = [problem for problem in problems if problem is not None]
        reason = None
        if failures:
            reason = (
                f"{len(failures):,} of the {rows.height:,} logins in {self.path.name} could not be looked up "
                f"({failures[0].rstrip('.')}): the next run tries again"
            )
        ids = pl.Series([None if user is None else user.user_id for user in users], dtype=pl.Int64)
        names = pl.Series([None if user is None else user.login for user in users], dtype=pl.String)
        return rows.with_columns(ids.alias("user_id"), names.alias("login")).drop_nulls("user_id"), reason


def _add_rows(rows: pl.DataFrame, before: PreviousStars | None) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Add the rows of a file to the known stars.

    Stars from other sources are kept, since a file and its logins may be old: it only adds times that are unknown. For
    stars from the file itself its newest rows count, and a known time is kept where these have none.
    """
    if before is None:
        return merge_stars(rows, None)
    known = identified(before.table, ids_of_logins(rows)).unique("user_id", keep="first", maintain_order=True)
    columns = known.select("user_id", pl.col("starred_at", "login", "source").name.prefix("known_"))
    elsewhere = (pl.col("known_source") != StarsFile.name).fill_null(value=False)
    rows = (
        rows.join(columns, on="user_id", how="left", maintain_order="left")
        .with_columns(
            pl.when(elsewhere)
            .then(pl.coalesce("known_starred_at", "starred_at"))
            .otherwise(pl.coalesce("starred_at", "known_starred_at"))
            .alias("starred_at"),
            pl.when(elsewhere).then("known_login").otherwise("login").alias("login"),
            # The source is kept as well, so that the next reading of the file does not change the login.
            pl.when(elsewhere).then("known_source").otherwise("source").alias("source"),
        )
        .select(rows.columns)
    )
    return merge_stars(rows, replace(before, table=known))
