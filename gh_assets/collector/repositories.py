"""Metadata of the repositories that lists name: asked in batches, merged by database id, with an outcome each.

By GraphQL a hundred names cost a point, and a refresh of those that are known, by their ids, a point in all. Where
there is no GraphQL each is asked by REST, conditionally: unchanged ones answer 304, which costs nothing.

Source: docs.github.com/graphql/reference/objects#repository; docs.github.com/rest/repos/repos.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from gh_assets.collector.lists.sources import FORMS, find_source, note_of_other_files, read_list
from gh_assets.errors import (
    BudgetSpentError,
    GitHubError,
    GraphQLUnavailableError,
    InputError,
    ServiceUnavailableError,
)
from gh_assets.github.client import GitHubClient
from gh_assets.github.graphql import GraphQLLists, Listing, QuerySize, batched_query
from gh_assets.github.list_reading import number_of
from gh_assets.github.outcomes import REACHABLE, Outcome
from gh_assets.github.responses import GitHubResponse
from gh_assets.github.times import parse_time
from gh_assets.local.concurrency import map_bounded
from gh_assets.schemas import REPOS
from gh_assets.storage.documents import as_stored

MAX_REDIRECTS = 5

IDS_A_FIELD = 100
"""GitHub takes so many ids in one ``nodes``; a query may have many of these, and still costs one point."""

TOPICS_TTL = dt.timedelta(days=30)
"""Topics cost a connection each: those of known repositories are asked for again when they are older than this."""

Document = dict[str, Any]


@dataclass
class KnownRepositories:
    """What earlier runs found out: documents of the collection ``repos``.

    A document is a row of the table `gh_assets.schemas.REPOS` with ``_id`` (the database id, or
    ``name:owner/name`` in lower case for a repository that never answered), ``etag`` of its metadata (by REST),
    ``topics_at`` (by GraphQL), and ``names``: the lower-case names under which it was asked for.
    """

    documents: Mapping[int | str, Document] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_name = {name: document for document in self.documents.values() for name in document["names"]}
        self.partitions = {
            document["partition"]: document["repo_id"]
            for document in self.documents.values()
            if document["partition"] is not None
        }


@dataclass(frozen=True)
class CollectedRepositories:
    """The result of `collect_repositories`.

    Attributes
    ----------
    table : polars.DataFrame
        Of schema `REPOS`: one row a repository that a list names, ordered by partition, then name.
    documents : list of dict
        The same with ETags and names: what the next run wants to know.
    new_partitions : list of str
        Partition keys that no earlier run knew.
    """

    table: pl.DataFrame
    documents: list[Document]
    new_partitions: list[str]


@dataclass
class _Metadata:
    """What GitHub said about one name."""

    name: str
    outcome: Outcome
    reason: str | None = None
    document: Document | None = None
    unchanged: Document | None = None


def read_lists(
    sources: Sequence[str], client: GitHubClient, notify: Callable[[str], None] | None = None
) -> dict[str, list[str]]:
    """Read awesome lists.

    Parameters
    ----------
    sources : sequence of str
        See `gh_assets.collector.lists.sources.find_source`.
    client : GitHubClient
    notify : callable, optional
        Called with a sentence for each thing that a person should know, such as that a list only links to others.

    Returns
    -------
    dict
        For each repository name, in lower case: its spelling, then the lists that link to it.

    Raises
    ------
    InputError
        If no list is given, or one cannot be read or links to no repository on GitHub.
    """
    if not sources:
        raise InputError(f"No awesome list is given: name one or more, each {FORMS}.")
    named: dict[str, list[str]] = {}
    # The same list may be named by its name and by its address.
    lists = {found.name: found for found in (find_source(source, client.api_url) for source in sources)}
    for source in lists.values():
        content = read_list(source, client)
        note = note_of_other_files(content, lists)
        if not content.repositories:
            raise InputError(note or f"The awesome list {source.name} links to no repository on GitHub: name another.")
        if notify is not None:
            for words in [*content.notes, *([note] if note else [])]:
                notify(words)
        for name in content.repositories:
            named.setdefault(name.lower(), [name]).append(source.name)
    return named


def collect_repositories(
    client: GitHubClient,
    sources: Sequence[str],
    known: KnownRepositories,
    *,
    workers: int = 8,
    by_rest: bool = False,
    progress: Callable[[int, int], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> CollectedRepositories:
    """Ask GitHub for every repository that the lists name.

    Parameters
    ----------
    client : GitHubClient
    sources : sequence of str
        Awesome lists; see `gh_assets.collector.lists.sources.find_source`.
    known : KnownRepositories
        What earlier runs found: unchanged metadata answer 304, partition keys stay.
    workers : int
        Requests in flight at once.
    by_rest : bool
        Ask each by REST, also where there is GraphQL.
    progress : callable, optional
        Called with (done, total) after each answer.
    notify : callable, optional
        Called with a sentence for each thing that a person should know of the lists.

    Returns
    -------
    CollectedRepositories
        If the cap on requests was reached, those not asked any more have the outcome unknown.

    Raises
    ------
    InputError
        If a list cannot be read or is empty, or GitHub has none of the repositories.
    AuthenticationError, RateLimitedError
        If GitHub takes none of the tokens, or the quota is spent.
    """
    named = read_lists(sources, client, notify)
    answers: list[_Metadata] = []
    spellings = [entry[0] for entry in named.values()]
    try:
        for response in _fetch_metadata(client, spellings, known, workers, by_rest):
            answers.append(response)
            if progress is not None:
                progress(len(answers), len(spellings))
    except BudgetSpentError as error:
        told = {response.name for response in answers}
        left = [name for name in spellings if name not in told]
        answers += [
            _Metadata(name, Outcome.UNKNOWN, str(error), unchanged=known.by_name.get(name.lower())) for name in left
        ]
    # Answers come in any order; the result must not depend on it.
    answers.sort(key=lambda response: response.name.lower())
    documents = _merge(answers, named, known)
    if not any(document["outcome"] in REACHABLE for document in documents):
        reasons = sorted({str(document["reason"]) for document in documents})
        raise InputError(
            f"None of the {len(documents)} repositories in {', '.join(sources)} can be reached on {client.api_url} "
            f"({'; '.join(reasons[:3])})."
        )
    return tabulated(documents, known)


def tabulated(documents: list[Document], known: KnownRepositories) -> CollectedRepositories:
    """Documents as a table, each repository that can be reached with its partition."""
    _assign_partitions(documents, known)
    table = pl.DataFrame(documents, schema=REPOS.dtypes, strict=False).sort("partition", "full_name", nulls_last=True)
    new = [key for key in table["partition"].drop_nulls() if key not in known.partitions]
    return CollectedRepositories(table, documents, new)


def _fetch_metadata(
    client: GitHubClient, names: Sequence[str], known: KnownRepositories, workers: int, by_rest: bool
) -> Iterator[_Metadata]:
    """Those that nobody knows first; then a look whether the others changed."""
    done: set[str] = set()
    if not by_rest:
        try:
            for response in _fetch_by_graphql(client, names, known, workers):
                done.add(response.name)
                yield response
            return
        except GraphQLUnavailableError:
            pass
    left = [name for name in names if name not in done]
    yield from map_bounded(lambda name: _ask(client, name, known), left, workers)


def _fetch_by_graphql(
    client: GitHubClient, names: Sequence[str], known: KnownRepositories, workers: int
) -> Iterator[_Metadata]:
    oldest = dt.datetime.now(dt.UTC) - TOPICS_TTL
    by_id: dict[int, tuple[str, Document]] = {}
    by_name: list[str] = []
    for name in names:
        document = known.by_name.get(name.lower())
        # A name that is not the present one is asked for as such: another repository may have it now.
        if (
            document is not None
            and document.get("node_id") is not None
            and document.get("topics_at") is not None
            and document["topics_at"] > oldest
            and document["full_name"].lower() == name.lower()
            and document["repo_id"] not in by_id
        ):
            by_id[document["repo_id"]] = (name, document)
        else:
            by_name.append(name)
    yield from _fetch_by_name(client, by_name, known, workers)
    unclear: list[str] = []
    ids = list(by_id)
    chunks = [_Nodes(place, [by_id[i] for i in ids[place : place + IDS_A_FIELD]])
              for place in range(0, len(ids), IDS_A_FIELD)]  # fmt: skip
    lists: GraphQLLists[list[_Metadata]] = GraphQLLists(client, nodes_query, batch=QuerySize(most=50, start=50))
    for answers in lists.read(chunks, workers):
        for response in answers:
            if response.document is None:
                unclear.append(response.name)
            else:
                yield response
    yield from _fetch_by_name(client, unclear, known, workers)


def _fetch_by_name(
    client: GitHubClient, names: Sequence[str], known: KnownRepositories, workers: int
) -> Iterator[_Metadata]:
    refused: list[str] = []
    lists: GraphQLLists[_Metadata] = GraphQLLists(client, repositories_query)
    named = (_Named(number, name) for number, name in enumerate(names))
    for response in lists.read(named, workers):
        if response.document is None:
            refused.append(response.name)
        else:
            yield response
    # Gone or blocked, or GraphQL could not tell: REST says which.
    yield from map_bounded(lambda name: _ask(client, name, known), refused, workers)


class _Named(Listing[_Metadata]):
    """The metadata of one repository, by its name."""

    def __init__(self, key: int, name: str) -> None:
        super().__init__(key)
        self.name = name

    def variables(self) -> Mapping[str, Any]:
        owner, _, name = self.name.partition("/")
        return {"o": owner, "n": name}

    def is_whole(self, node: Any) -> bool:
        topics = node.get("repositoryTopics") if isinstance(node, Mapping) else None
        has_name = isinstance(node, Mapping) and isinstance(node.get("nameWithOwner"), str)
        return has_name and isinstance(topics, Mapping) and isinstance(node.get("stargazerCount"), int)

    def parse_page(self, node: Any) -> _Metadata:
        topics = [((entry or {}).get("topic") or {}).get("name") for entry in node["repositoryTopics"]["nodes"] or []]
        document = _document_of(node, [topic for topic in topics if topic], dt.datetime.now(dt.UTC))
        if document is None:
            return self.give_up("no id")
        moved = document["full_name"].lower() != self.name.lower()
        return _Metadata(self.name, Outcome.MOVED if moved else Outcome.OK, None, document)

    def parse_refusal(self, kind: str, message: str) -> _Metadata | None:
        return self.give_up(message) if kind in ("NOT_FOUND", "FORBIDDEN") else None

    def give_up(self, reason: str) -> _Metadata:
        return _Metadata(self.name, Outcome.UNKNOWN, reason)


class _Nodes(Listing[list[_Metadata]]):
    """What may have changed of up to a hundred repositories, by their ids."""

    def __init__(self, key: int, entries: Sequence[tuple[str, Document]]) -> None:
        super().__init__(key)
        self.entries = entries

    def variables(self) -> Mapping[str, Any]:
        return {"i": [document["node_id"] for _, document in self.entries]}

    def is_whole(self, node: Any) -> bool:
        return isinstance(node, list) and len(node) == len(self.entries)

    def expects(self, error: Mapping[str, Any]) -> bool:
        # Of a node that is not there any more; who has the name now is asked by the name.
        return error.get("type") in ("NOT_FOUND", "FORBIDDEN") and len(error.get("path") or ()) == 2

    def parse_page(self, node: Any) -> list[_Metadata]:
        found = []
        for (name, before), told in zip(self.entries, node, strict=True):
            document = _document_of(told or {}, before["topics"], before["topics_at"])
            same = document is not None and document["repo_id"] == before["repo_id"]
            stays = document is not None and document["full_name"].lower() == name.lower()
            # Renamed: who has the name now is asked by the name.
            found.append(_Metadata(name, Outcome.OK, None, document if same and stays else None))
        return found

    def parse_refusal(self, kind: str, message: str) -> list[_Metadata] | None:
        return None

    def give_up(self, reason: str) -> list[_Metadata]:
        return [_Metadata(name, Outcome.UNKNOWN, reason) for name, _ in self.entries]


_FIELDS = (
    "id databaseId nameWithOwner description stargazerCount createdAt pushedAt isArchived "
    "primaryLanguage { name } parent { databaseId }"
)


def repositories_query(size: int) -> str:
    """Return the query for `size` repositories by name."""
    fields = f"{_FIELDS} repositoryTopics(first: 20) {{ nodes {{ topic {{ name }} }} }}"
    field = f"repository(owner: $o, name: $n, followRenames: true) {{ {fields} }}"
    return batched_query(size, {"o": "String!", "n": "String!"}, field)


def nodes_query(size: int) -> str:
    """Return the query for `size` times a hundred repositories by id."""
    return batched_query(size, {"i": "[ID!]!"}, f"nodes(ids: $i) {{ ... on Repository {{ {_FIELDS} }} }}")


def _document_of(node: Mapping[str, Any], topics: Sequence[str], topics_at: dt.datetime) -> Document | None:
    """A document from GraphQL's names."""
    if number_of(node.get("databaseId")) is None:
        return None
    told = {
        "id": node["databaseId"],
        "node_id": node["id"],
        "full_name": node["nameWithOwner"],
        "description": node["description"],
        "language": (node["primaryLanguage"] or {}).get("name"),
        "topics": topics,
        "stargazers_count": node["stargazerCount"],
        "created_at": node["createdAt"],
        "pushed_at": node["pushedAt"],
        "archived": node["isArchived"],
        "parent": {"id": (node.get("parent") or {}).get("databaseId")},
    }
    return _document(told, None) | {"topics_at": as_stored(topics_at)}


def _ask(client: GitHubClient, name: str, known: KnownRepositories) -> _Metadata:
    previous = known.by_name.get(name.lower())
    etag = previous.get("etag") if previous is not None else None
    path, moved = f"/repos/{name}", False
    try:
        for _ in range(MAX_REDIRECTS):
            response = client.get(path, etag=etag)
            if response.status not in (301, 302, 307) or not response.headers.get("location"):
                break
            path, moved = response.headers["location"], True
    except (ServiceUnavailableError, GitHubError) as error:
        return _Metadata(name, Outcome.UNKNOWN, str(error), unchanged=previous)
    outcome = Outcome.MOVED if moved else Outcome.OK
    if response.status == 304 and previous is not None:
        return _Metadata(name, outcome, unchanged=previous)
    if (
        response.status == 200
        and isinstance(response.payload, dict)
        and number_of(response.payload.get("id")) is not None
    ):
        try:
            return _Metadata(name, outcome, None, _document(response.payload, response.etag))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"metadata that cannot be understood ({type(error).__name__})"
            return _Metadata(name, Outcome.UNKNOWN, reason, unchanged=previous)
    outcome, reason = classify_refusal(response)
    return _Metadata(name, outcome, reason, unchanged=previous)


def classify_refusal(response: GitHubResponse) -> tuple[Outcome, str]:
    """What an answer without data means for a repository: gone, blocked, restricted or unknown, and why."""
    blocked = response.status == 451 or (isinstance(response.payload, dict) and "block" in response.payload)
    reason = f"{response.status} {response.message}".strip()
    if blocked:
        return Outcome.BLOCKED, reason
    if response.status in (404, 410):
        return Outcome.GONE, reason
    if response.status == 403:
        return Outcome.RESTRICTED, reason
    return Outcome.UNKNOWN, reason


def _merge(answers: Iterable[_Metadata], named: Mapping[str, list[str]], known: KnownRepositories) -> list[Document]:
    """One document a repository: by database id where there is one, else by name."""
    merged: dict[int | str, Document] = {}
    for response in answers:
        key = response.name.lower()
        if response.document is not None:
            fresh = response.document
        elif response.unchanged is not None:
            fresh = {name: response.unchanged.get(name) for name in (*REPOS.columns, "_id", "etag", "topics_at")}
        else:
            fresh = dict.fromkeys(REPOS.columns) | {
                "_id": f"name:{key}",
                "full_name": response.name,
                "topics": [],
                "etag": None,
                "topics_at": None,
            }
        before = known.documents.get(fresh["_id"])
        if before is not None and _topics_still_hold(before, fresh):
            fresh = fresh | {"topics_at": before["topics_at"]}
        document = merged.setdefault(
            fresh["_id"],
            fresh | {"lists": [], "names": [], "outcome": response.outcome.value, "reason": response.reason},
        )
        document["names"].append(key)
        document["lists"] = sorted({*document["lists"], *named[key][1:]})
        if response.outcome is Outcome.OK:  # a link with the present name outweighs links with former ones
            document["outcome"], document["reason"] = Outcome.OK.value, None
    return list(merged.values())


def _assign_partitions(documents: Iterable[Document], known: KnownRepositories) -> None:
    """A partition stays through renames; a name that another repository had before hands nothing down."""
    partitions = dict(known.partitions)
    for document in documents:
        repo_id = document["repo_id"]
        previous = known.documents.get(document["_id"])
        if repo_id is None:
            document["partition"] = None
        elif previous is not None and previous["partition"] is not None:
            document["partition"] = previous["partition"]
        elif document["outcome"] in REACHABLE:
            # A name that another repository had before must not hand that one's stars down.
            taken = partitions.get(document["full_name"], repo_id) != repo_id
            document["partition"] = f"{document['full_name']}#{repo_id}" if taken else document["full_name"]
            partitions[document["partition"]] = repo_id


def _topics_still_hold(before: Document, fresh: Document) -> bool:
    """Whether nothing is gained by noting that the same topics were told once more."""
    then, now = before.get("topics_at"), fresh["topics_at"]
    return then is not None and now is not None and now - then < TOPICS_TTL and before["topics"] == fresh["topics"]


def _document(repository: Mapping[str, Any], etag: str | None) -> Document:
    return {
        "_id": repository["id"],
        "repo_id": repository["id"],
        "node_id": repository.get("node_id"),
        "full_name": repository["full_name"],
        "partition": None,
        "description": repository.get("description"),
        "language": repository.get("language"),
        "topics": list(repository.get("topics") or []),
        "stargazer_count": repository.get("stargazers_count"),
        "created_at": parse_time(repository.get("created_at")),
        "pushed_at": parse_time(repository.get("pushed_at")),
        "archived": repository.get("archived"),
        "fork_of": (repository.get("parent") or {}).get("id"),
        "lists": [],
        "outcome": None,
        "reason": None,
        "etag": etag,
        "topics_at": None,
    }
