"""Stars out of a file, as a source like others. `stars_file` reads it; here its rows become those of GitHub's ids.

A file without ids of users names them by login. Numbers of its own would be other people's ids at GitHub, so logins are
looked up: among the users that are known, then at GitHub, a hundred a query, and what was found is remembered.

Source: docs.github.com/graphql/reference/queries#user; docs.github.com/rest/users/users#get-a-user.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from pymongo.database import Database

from gh_assets.collector.gharchive import id_of_name
from gh_assets.collector.identities import identified, ids_of_logins
from gh_assets.collector.star_sources.base import (
    CollectionTask,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    merge_stars,
    missing_from,
)
from gh_assets.collector.star_sources.gharchive import grouped
from gh_assets.collector.star_sources.starred import StarredState, UserState
from gh_assets.collector.stars_file import NAMED, counted, one_row_a_star, read_stars
from gh_assets.errors import BudgetSpentError, GitHubError, GraphQLUnavailableError, ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.github.graphql import GraphQLLists, Listing
from gh_assets.github.outcomes import Outcome
from gh_assets.local.concurrency import map_bounded
from gh_assets.storage.consumer import Consumer
from gh_assets.storage.messages import Message, UserInsert
from gh_assets.storage.mongo import Collections

UNKNOWN_LOGIN_TTL = dt.timedelta(days=30)
"""A login that nobody had is not asked for again within this time."""


@dataclass(frozen=True)
class LoginLookup:
    """Whose a login is.

    Attributes
    ----------
    asked : str
        The login, in lower case.
    user_id : int or None
        None: no user has it, or it could not be asked.
    login : str
        As GitHub writes it.
    problem : str or None
        Why it could not be asked.
    """

    asked: str
    user_id: int | None
    login: str
    problem: str | None = None


class UserLookup:
    """Finds the users of logins: those that are known, then by asking GitHub.

    Parameters
    ----------
    database : pymongo.database.Database
        Collections ``users`` (who was found is remembered there) and ``starred_state`` (logins that nobody has).
    client : GitHubClient or None
        None where there is only GH Archive: who is not known gets the negative id that the archive gives them.
    """

    def __init__(self, database: Database[dict[str, Any]], client: GitHubClient | None) -> None:
        self.database = database
        self.client = client
        self.unknown_logins = StarredState(database)

    def look_up(self, logins: Iterable[str], workers: int) -> tuple[dict[str, LoginLookup], Exception | None]:
        """Find users; gives what is known of each login (by lower case), and what ended the asking before its end.

        Logins of which nothing is known then are missing.
        """
        wanted = dict.fromkeys(login.lower() for login in logins)
        found = {key: user for key, user in self._known().items() if key in wanted}
        left = [key for key in wanted if key not in found]
        if self.client is None:
            return found | {key: LoginLookup(key, id_of_name(key), key) for key in left}, None
        asked: list[LoginLookup] = []
        failure: Exception | None = None
        try:
            for response in self._ask(self.client, left, workers):
                asked.append(response)
        except BudgetSpentError as error:
            failure = error
        finally:
            self._remember(asked)
        return found | {response.asked: response for response in asked}, failure

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
        # Of several users who had a login the one who was seen with it last has it.
        for document in sorted(documents, key=lambda document: str(document.get("seen", "")).partition(" ")[0]):
            key = document["login"].lower()
            known[key] = LoginLookup(key, document["_id"], document["login"])
        return known

    def _ask(self, client: GitHubClient, logins: Sequence[str], workers: int) -> Iterator[LoginLookup]:
        done: set[str] = set()
        lists: GraphQLLists[LoginLookup] = GraphQLLists(client, users_query)
        try:
            for response in lists.read((_User(number, login) for number, login in enumerate(logins)), workers):
                done.add(response.asked)
                yield response
            return
        except GraphQLUnavailableError:
            pass
        left = [login for login in logins if login not in done]
        yield from map_bounded(lambda login: _look_up_by_rest(client, login), left, workers)

    def _remember(self, answers: Sequence[LoginLookup]) -> None:
        now = dt.datetime.now(dt.UTC)
        Consumer(self.database).apply(
            Message(insert=UserInsert(uid=response.user_id, login=response.login, seen_at=now))
            for response in answers
            if response.user_id is not None
        )
        self.unknown_logins.save(
            UserState(f"login:{response.asked}", response.login, Outcome.GONE, "no user has this login", asked_at=now)
            for response in answers
            if response.user_id is None and response.problem is None
        )


class _User(Listing[LoginLookup]):
    """The user who has a login."""

    def __init__(self, key: int, login: str) -> None:
        super().__init__(key)
        self.login = login

    def pages_left(self) -> int:
        return 1

    def variables(self) -> Mapping[str, Any]:
        return {"l": self.login}

    def is_whole(self, node: Any) -> bool:
        return isinstance(node, Mapping) and "login" in node

    def parse_page(self, node: Any) -> LoginLookup:
        if not isinstance(node.get("databaseId"), int) or not isinstance(node.get("login"), str):
            return self.give_up("GitHub's answer has no id")
        return LoginLookup(self.login, node["databaseId"], node["login"])

    def parse_refusal(self, kind: str, message: str) -> LoginLookup | None:
        return LoginLookup(self.login, None, self.login) if kind == "NOT_FOUND" else None

    def give_up(self, reason: str) -> LoginLookup:
        return LoginLookup(self.login, None, self.login, reason)


def users_query(size: int) -> str:
    """The query for `size` users by login: variables ``l0…``."""
    declared = ", ".join(f"$l{n}: String!" for n in range(size))
    asked = "\n".join(f"r{n}: user(login: $l{n}) {{ databaseId login }}" for n in range(size))
    return f"query({declared}) {{\n{asked}\nrateLimit {{ cost limit remaining resetAt }}\n}}"


def _look_up_by_rest(client: GitHubClient, login: str) -> LoginLookup:
    try:
        response = client.get(f"/users/{login}")
    except (ServiceUnavailableError, GitHubError) as error:
        return LoginLookup(login, None, login, str(error))
    account = response.payload
    if response.status == 200 and isinstance(account, dict) and isinstance(account.get("id"), int):
        # Organizations have logins, too, but star nothing.
        is_user = account.get("type") == "User"
        return LoginLookup(login, account["id"] if is_user else None, str(account["login"]))
    if response.status in (404, 410):
        return LoginLookup(login, None, login)
    return LoginLookup(login, None, login, f"{response.status} {response.message}".strip())


class StarsFile:
    """A file of stars.

    Rows are a repository's by id where the file has ids, else by name without case.

    Parameters
    ----------
    path : Path
        See `gh_assets.collector.stars_file.read_stars`.
    own_world : bool
        Whether the file is the home's world: then its numbers are the world's ids, and it has all stars there are.
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
        """What a person should know of what was left out, when stars were collected."""
        said = [self.skipped.sentence()] if self.skipped.count else []
        if self._unmatched_stars:
            unknown_logins = self._unknown_logins()
            names = ", ".join(repr(login) for login in unknown_logins[:NAMED]) + (
                ", …" if len(unknown_logins) > NAMED else ""
            )
            said.append(
                f"{counted(self._unmatched_stars, 'star')} of {self.path.name} "
                f"{'was' if self._unmatched_stars == 1 else 'were'} left out: GitHub has "
                + (
                    f"no user {names}."
                    if len(unknown_logins) == 1
                    else f"none of the {len(unknown_logins):,} users {names}."
                )
            )
        return said

    def _unknown_logins(self) -> list[str]:
        return sorted(key for key, user in self._users.items() if user.user_id is None and user.problem is None)

    def may_have_changed(self, *, closed: bool) -> bool:
        """A file may be another one each time."""
        return True

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Find the users of all wanted repositories first, then take each repository's rows."""
        wanted = list(tasks)
        failure: Exception | None = None
        if self._logins is not None:
            rows = [found for work in wanted if (found := self._rows_of(work.repository)) is not None]
            logins = pl.concat([part["login"] for part in rows] or [pl.Series(dtype=pl.String)]).str.to_lowercase()
            self._users, failure = self._logins.look_up(logins.unique(maintain_order=True), workers)
            self._unmatched_stars = int(logins.is_in(self._unknown_logins()).sum())
        yield from map_bounded(self._collect, wanted, workers)
        if failure is not None:
            raise failure

    def _rows_of(self, repository: RepositoryRef) -> pl.DataFrame | None:
        # A negative id is none of GitHub's: only the repository's name is known.
        if self._has_ids and repository.repo_id > 0:
            return self._by_id.get(repository.repo_id)
        return self._by_name.get(repository.full_name.lower())

    def _collect(self, work: CollectionTask) -> StarCollection:
        repository, before = work.repository, work.load_previous()
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
        stars = rows.select(
            pl.lit(repository.repo_id, pl.Int64).alias("repo_id"),
            "user_id",
            "login",
            "starred_at",
            pl.lit(self.name).alias("source"),
        )
        rows = one_row_a_star(stars, ["user_id"])
        if self.own_world and (before is None or before.source == self.name):
            table, unstarred = rows, missing_from(rows, before)
        else:
            # The file is one voice among others here: who is not in it may have starred all the same.
            table, unstarred = _added(rows, before)
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
        """Rows with GitHub's ids, and why there are not all of them, if some logins could not be asked."""
        users = [self._users.get(login.lower()) for login in rows["login"]]
        problems = ["the run had ended" if user is None else user.problem for user in users]
        unasked = [problem for problem in problems if problem is not None]
        reason = None
        if unasked:
            reason = (
                f"{len(unasked):,} of the {rows.height:,} logins in {self.path.name} could not be looked up "
                f"({unasked[0].rstrip('.')}): the next run asks again"
            )
        ids = pl.Series([None if user is None else user.user_id for user in users], dtype=pl.Int64)
        names = pl.Series([None if user is None else user.login for user in users], dtype=pl.String)
        return rows.with_columns(ids.alias("user_id"), names.alias("login")).drop_nulls("user_id"), reason


def _added(rows: pl.DataFrame, before: PreviousStars | None) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Rows of a file beside the stars that are known.

    What another source told of a star stays as it is, since a file and its logins may be old: it adds a time only where
    none is known. Of stars that the file itself told, its newest rows count; a known time stays where they have none.
    """
    if before is None:
        return merge_stars(rows, None)
    known = identified(before.table, ids_of_logins(rows)).unique("user_id", keep="first", maintain_order=True)
    told = known.select(
        "user_id",
        pl.col("starred_at").alias("known_time"),
        pl.col("login").alias("known_login"),
        pl.col("source").alias("known_source"),
    )
    elsewhere = (pl.col("known_source") != StarsFile.name).fill_null(value=False)
    rows = (
        rows.join(told, on="user_id", how="left", maintain_order="left")
        .with_columns(
            pl.when(elsewhere)
            .then(pl.coalesce("known_time", "starred_at"))
            .otherwise(pl.coalesce("starred_at", "known_time"))
            .alias("starred_at"),
            pl.when(elsewhere).then("known_login").otherwise("login").alias("login"),
            # With the source of the star, so that the next reading of the file leaves the login alone, too.
            pl.when(elsewhere).then("known_source").otherwise("source").alias("source"),
        )
        .select(rows.columns)
    )
    return merge_stars(rows, replace(before, table=known))
