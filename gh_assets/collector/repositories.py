"""Metadata of the repositories that lists name: requested in batches, merged by database id, with an outcome each.

By GraphQL, a hundred names cost one point; known repositories are refreshed by their ids, thousands for one point.
Without GraphQL, each is requested by REST, conditionally: unchanged ones respond with status 304, which costs nothing.

Source: docs.github.com/graphql/reference/objects#repository; docs.github.com/rest/repos/repos.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import polars as pl

from gh_assets.collector.lists.sources import FORMS, find_source, note_of_other_files, read_list
from gh_assets.errors import BudgetSpentError, GitHubError, GraphQLUnavailableError, InputError, ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.github.graphql import GraphQLLists, Listing, QuerySize, batched_query
from gh_assets.github.limits import IDS_A_FIELD, MAX_REDIRECTS
from gh_assets.github.list_reading import number_of
from gh_assets.github.outcomes import REACHABLE, Outcome
from gh_assets.github.responses import GitHubResponse
from gh_assets.github.times import parse_time
from gh_assets.local.concurrency import map_bounded
from gh_assets.schemas import REPOS
from gh_assets.storage.documents import as_stored

TOPICS_TTL = dt.timedelta(days=30)
"""Age at which topics of known repositories are requested again, since they cost a connection each."""

REFUSALS_TTL = dt.timedelta(days=7)
"""Age at which REST is asked again why GraphQL does not find a repository, one request each."""

MAX_FIELDS = 50
"""Maximum number of ``nodes`` fields in one query."""

CLASSIFIED = (Outcome.GONE, Outcome.BLOCKED)
"""Outcomes of which REST alone gives the reason."""

Document = dict[str, Any]

NOTHING: Document = dict.fromkeys((*REPOS.columns, "etag", "topics_at", "refused_at"))
"""A document of which nothing is known."""


@dataclass
class KnownRepositories:
    """Results of earlier runs: documents of the collection ``repos``.

    A document is a row of the table `gh_assets.schemas.REPOS` with ``_id`` (the database id, or ``name:owner/name`` in
    lower case for a repository without metadata), ``etag`` of its metadata (by REST), ``topics_at`` (by GraphQL),
    ``refused_at`` (when REST said that it is gone or blocked), and ``names``: the lower-case names under which it was
    requested.
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
    """Result of `collect_repositories`.

    Attributes
    ----------
    table : polars.DataFrame
        Of schema `REPOS`: one row per repository that a list names, ordered by partition, then name.
    documents : list of dict
        The same with ETags and names, for the next run.
    new_partitions : list of str
        Partition keys that no earlier run has created.
    """

    table: pl.DataFrame
    documents: list[Document]
    new_partitions: list[str]


@dataclass
class _Metadata:
    """The metadata of one name, those of an earlier run if there are no new ones."""

    name: str
    outcome: Outcome
    reason: str | None = None
    document: Document | None = None


def read_lists(
    sources: Sequence[str], client: GitHubClient, notify: Callable[[str], None] = lambda _: None
) -> dict[str, list[str]]:
    """Read awesome lists.

    Parameters
    ----------
    sources : sequence of str
        See `gh_assets.collector.lists.sources.find_source`.
    client : GitHubClient
    notify : callable, optional
        Called with a sentence for each remark, such as that a list only links to others.

    Returns
    -------
    dict
        For each repository name, in lower case: its spelling, followed by the lists that link to it.

    Raises
    ------
    InputError
        If no list is given, or one cannot be read or links to no repository on GitHub.
    """
    if not sources:
        raise InputError(f"No awesome list is given: name one or more, each {FORMS}.")
    named: dict[str, list[str]] = {}
    # The same list may be named by its name and by its address.
    lists = {source.name: source for source in (find_source(text, client.api_url) for text in sources)}
    for source in lists.values():
        content = read_list(source, client)
        note = note_of_other_files(content, lists)
        if not content.repositories:
            raise InputError(note or f"The awesome list {source.name} links to no repository on GitHub: name another.")
        for sentence in filter(None, [*content.notes, note]):
            notify(sentence)
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
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    notify: Callable[[str], None] = lambda _: None,
) -> CollectedRepositories:
    """Request the metadata of every repository that the lists name.

    Parameters
    ----------
    client : GitHubClient
    sources : sequence of str
        Awesome lists; see `gh_assets.collector.lists.sources.find_source`.
    known : KnownRepositories
        Results of earlier runs: unchanged metadata cost nothing, and partition keys stay.
    workers : int
        Number of concurrent requests.
    by_rest : bool
        Request each by REST even if there is GraphQL.
    progress : callable, optional
        Called with (done, total) after each response.
    notify : callable, optional
        Called with a sentence for each remark about the lists.

    Returns
    -------
    CollectedRepositories
        If the cap on requests was reached, the remaining repositories have the outcome unknown.

    Raises
    ------
    InputError
        If a list cannot be read or is empty, or no repository can be reached.
    AuthenticationError, RateLimitedError
        If GitHub accepts none of the tokens, or the quota is spent.
    """
    named = read_lists(sources, client, notify)
    collected: list[_Metadata] = []
    spellings = [entry[0] for entry in named.values()]
    try:
        for metadata in _Requests(client, known, workers).fetch(spellings, by_rest=by_rest):
            collected.append(metadata)
            progress(len(collected), len(spellings))
    except BudgetSpentError as error:
        done = {metadata.name for metadata in collected}
        collected += [
            _Metadata(name, Outcome.UNKNOWN, str(error), known.by_name.get(name.lower()))
            for name in spellings
            if name not in done
        ]
    # Responses arrive in any order, on which the result must not depend.
    collected.sort(key=lambda metadata: metadata.name.lower())
    documents = _merge(collected, named, known)
    if not any(document["outcome"] in REACHABLE for document in documents):
        reasons = sorted({str(document["reason"]) for document in documents})
        raise InputError(
            f"None of the {len(documents)} repositories in {', '.join(sources)} can be reached on {client.api_url} "
            f"({'; '.join(reasons[:3])})."
        )
    return tabulated(documents, known)


def tabulated(documents: list[Document], known: KnownRepositories) -> CollectedRepositories:
    """Convert documents to a table, and assign a partition to each reachable repository."""
    _assign_partitions(documents, known)
    table = pl.DataFrame(documents, schema=REPOS.dtypes, strict=False).sort("partition", "full_name", nulls_last=True)
    new = [key for key in table["partition"].drop_nulls() if key not in known.partitions]
    return CollectedRepositories(table, documents, new)


@dataclass(frozen=True)
class _Requests:
    """Requests the metadata of repositories, with the results of earlier runs."""

    client: GitHubClient
    known: KnownRepositories
    workers: int

    def fetch(self, names: Sequence[str], *, by_rest: bool) -> Iterator[_Metadata]:
        """Yield the metadata of repositories by GraphQL, and by REST what GraphQL is not available for."""
        left = dict.fromkeys(names)
        if not by_rest:
            with suppress(GraphQLUnavailableError):
                for metadata in self._by_graphql(names):
                    del left[metadata.name]
                    yield metadata
        yield from map_bounded(self._by_rest, left, self.workers)

    def _by_graphql(self, names: Iterable[str]) -> Iterator[_Metadata]:
        """Yield the metadata of unknown repositories first, then what may have changed of the others."""
        oldest = dt.datetime.now(dt.UTC) - TOPICS_TTL
        by_id: dict[int, tuple[str, Document]] = {}
        by_name: list[str] = []
        for name in names:
            document = self.known.by_name.get(name.lower(), NOTHING)
            is_recent = document.get("node_id") is not None and (document.get("topics_at") or oldest) > oldest
            # A former name is requested by name, since another repository may have it now.
            if is_recent and document["full_name"].lower() == name.lower() and document["repo_id"] not in by_id:
                by_id[document["repo_id"]] = (name, document)
            else:
                by_name.append(name)
        yield from self._by_name(by_name)
        unclear: list[str] = []
        entries = list(by_id.values())
        chunks = (entries[place : place + IDS_A_FIELD] for place in range(0, len(entries), IDS_A_FIELD))
        lists = GraphQLLists(self.client, nodes_query, _Nodes, QuerySize(MAX_FIELDS, MAX_FIELDS))
        yield from _with_document(chain.from_iterable(lists.read(chunks, self.workers)), unclear)
        yield from self._by_name(unclear)

    def _by_name(self, names: Iterable[str]) -> Iterator[_Metadata]:
        refused: list[str] = []
        lists = GraphQLLists(self.client, repositories_query, _Named)
        yield from _with_document(lists.read(names, self.workers), refused)
        # REST distinguishes gone, blocked and failed repositories.
        yield from map_bounded(lambda name: self._refused_lately(name) or self._by_rest(name), refused, self.workers)

    def _refused_lately(self, name: str) -> _Metadata | None:
        """Return the metadata of a repository that was found to be gone or blocked in the last days."""
        previous = self.known.by_name.get(name.lower(), NOTHING)
        refused_at = previous.get("refused_at")
        if refused_at is None or dt.datetime.now(dt.UTC) - refused_at > REFUSALS_TTL:
            return None
        outcome = Outcome(previous["outcome"])
        return _Metadata(name, outcome, previous["reason"], previous) if outcome in CLASSIFIED else None

    def _by_rest(self, name: str) -> _Metadata:
        previous = self.known.by_name.get(name.lower())
        etag = previous.get("etag") if previous is not None else None
        try:
            response = self.client.get(f"/repos/{name}", etag=etag, redirects=MAX_REDIRECTS)
        except (ServiceUnavailableError, GitHubError) as error:
            return _Metadata(name, Outcome.UNKNOWN, str(error), previous)
        outcome = Outcome.MOVED if response.moved else Outcome.OK
        if response.status == 304 and previous is not None:
            return _Metadata(name, outcome, None, previous)
        repository = response.document
        if response.status == 200 and number_of(repository.get("id")) is not None:
            try:
                return _Metadata(name, outcome, None, _document(repository, response.etag))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                reason = f"malformed metadata ({type(error).__name__})"
                return _Metadata(name, Outcome.UNKNOWN, reason, previous)
        outcome, reason = classify_refusal(response)
        if outcome in CLASSIFIED:
            refused_at = as_stored(dt.datetime.now(dt.UTC))
            previous = (_without_metadata(name) if previous is None else previous) | {"refused_at": refused_at}
        return _Metadata(name, outcome, reason, previous)


def _without_metadata(name: str) -> Document:
    return {"_id": f"name:{name.lower()}", "full_name": name, "topics": []}


def _with_document(results: Iterable[_Metadata], others: list[str]) -> Iterator[_Metadata]:
    """Yield the results with a document, and add the names of the others to a list."""
    for metadata in results:
        if metadata.document is not None:
            yield metadata
        else:
            others.append(metadata.name)


class _Named(Listing[str, _Metadata]):
    """The metadata of one repository, by name."""

    def variables(self) -> Mapping[str, Any]:
        owner, _, name = self.task.partition("/")
        return {"o": owner, "n": name}

    def is_whole(self, node: Any) -> bool:
        types = {"nameWithOwner": str, "repositoryTopics": Mapping, "stargazerCount": int}
        return isinstance(node, Mapping) and all(isinstance(node.get(name), kind) for name, kind in types.items())

    def parse_page(self, node: Any) -> _Metadata:
        topics = [((entry or {}).get("topic") or {}).get("name") for entry in node["repositoryTopics"]["nodes"] or []]
        document = _document_of(node, [topic for topic in topics if topic], dt.datetime.now(dt.UTC))
        if document is None:
            return self.give_up("no id")
        moved = document["full_name"].lower() != self.task.lower()
        return _Metadata(self.task, Outcome.MOVED if moved else Outcome.OK, None, document)

    def parse_refusal(self, kind: str, message: str) -> _Metadata | None:
        return self.give_up(message) if kind in ("NOT_FOUND", "FORBIDDEN") else None

    def give_up(self, reason: str) -> _Metadata:
        return _Metadata(self.task, Outcome.UNKNOWN, reason)


class _Nodes(Listing[Sequence[tuple[str, Document]], list[_Metadata]]):
    """What may have changed of up to a hundred repositories, by id."""

    def variables(self) -> Mapping[str, Any]:
        return {"i": [document["node_id"] for _, document in self.task]}

    def is_whole(self, node: Any) -> bool:
        return isinstance(node, list) and len(node) == len(self.task)

    def expects(self, error: Mapping[str, Any]) -> bool:
        # About a repository that does not exist any more; its name is requested by name.
        return error.get("type") in ("NOT_FOUND", "FORBIDDEN") and len(error.get("path") or ()) == 2

    def parse_page(self, node: Any) -> list[_Metadata]:
        collected = []
        for (name, before), fields in zip(self.task, node, strict=True):
            document = _document_of(fields or {}, before["topics"], before["topics_at"])
            # After a rename, the former name is requested by name.
            is_same = (
                document is not None
                and document["repo_id"] == before["repo_id"]
                and document["full_name"].lower() == name.lower()
            )
            collected.append(_Metadata(name, Outcome.OK, None, document if is_same else None))
        return collected

    def parse_refusal(self, kind: str, message: str) -> list[_Metadata] | None:
        return None

    def give_up(self, reason: str) -> list[_Metadata]:
        return [_Metadata(name, Outcome.UNKNOWN, reason) for name, _ in self.task]


_FIELDS = (
    "id databaseId nameWithOwner description stargazerCount createdAt pushedAt isArchived "
    "primaryLanguage { name } parent { databaseId }"
)


def repositories_query(size: int) -> str:
    """Return the query for `size` repositories by name."""
    topics = "repositoryTopics(first: 20) { nodes { topic { name } } }"
    field = f"repository(owner: $o, name: $n, followRenames: true) {{ {_FIELDS} {topics} }}"
    return batched_query(size, {"o": "String!", "n": "String!"}, field)


def nodes_query(size: int) -> str:
    """Return the query for `size` times a hundred repositories by id."""
    return batched_query(size, {"i": "[ID!]!"}, f"nodes(ids: $i) {{ ... on Repository {{ {_FIELDS} }} }}")


def _document_of(node: Mapping[str, Any], topics: Sequence[str], topics_at: dt.datetime) -> Document | None:
    """Convert a GraphQL node to a document; None without a valid id."""
    if number_of(node.get("databaseId")) is None:
        return None
    repository = {
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
    return _document(repository, None) | {"topics_at": as_stored(topics_at)}


def classify_refusal(response: GitHubResponse) -> tuple[Outcome, str]:
    """Return the outcome (gone, blocked, restricted or unknown) and the reason that a response without data means."""
    outcomes = {451: Outcome.BLOCKED, 404: Outcome.GONE, 410: Outcome.GONE, 403: Outcome.RESTRICTED}
    outcome = Outcome.BLOCKED if "block" in response.document else outcomes.get(response.status, Outcome.UNKNOWN)
    return outcome, f"{response.status} {response.message}".strip()


def _merge(collected: Iterable[_Metadata], named: Mapping[str, list[str]], known: KnownRepositories) -> list[Document]:
    """Return one document per repository, by database id or, without one, by name."""
    merged: dict[int | str, Document] = {}
    for metadata in collected:
        key = metadata.name.lower()
        fresh = NOTHING | (metadata.document or _without_metadata(metadata.name))
        before = known.documents.get(fresh["_id"])
        if before is not None and _topics_still_hold(before, fresh):
            fresh = fresh | {"topics_at": before["topics_at"]}
        document = merged.setdefault(
            fresh["_id"],
            fresh | {"lists": [], "names": [], "outcome": metadata.outcome.value, "reason": metadata.reason},
        )
        document["names"].append(key)
        document["lists"] = sorted({*document["lists"], *named[key][1:]})
        if metadata.outcome is Outcome.OK:  # a link with the present name takes precedence over former names
            document["outcome"], document["reason"] = Outcome.OK.value, None
    return list(merged.values())


def _assign_partitions(documents: Iterable[Document], known: KnownRepositories) -> None:
    """Assign partitions: they stay through renames, and are never shared with a former owner of the name."""
    partitions = dict(known.partitions)
    for document in documents:
        repo_id = document["repo_id"]
        previous = known.documents.get(document["_id"])
        if repo_id is None:
            document["partition"] = None
        elif previous is not None and previous["partition"] is not None:
            document["partition"] = previous["partition"]
        elif document["outcome"] in REACHABLE:
            taken = partitions.get(document["full_name"], repo_id) != repo_id
            document["partition"] = f"{document['full_name']}#{repo_id}" if taken else document["full_name"]
            partitions[document["partition"]] = repo_id


def _topics_still_hold(before: Document, fresh: Document) -> bool:
    """Whether the topics are unchanged and recent, so that the earlier time can stay."""
    then, now = before.get("topics_at"), fresh["topics_at"]
    return then is not None and now is not None and now - then < TOPICS_TTL and before["topics"] == fresh["topics"]


def _document(repository: Mapping[str, Any], etag: str | None) -> Document:
    """Convert GitHub's description of a repository to a document, without what depends on lists and earlier runs."""
    return {name: repository.get(name) for name in ("node_id", "description", "language", "archived")} | {
        "_id": repository["id"],
        "repo_id": repository["id"],
        "full_name": repository["full_name"],
        "topics": list(repository.get("topics") or []),
        "stargazer_count": repository.get("stargazers_count"),
        "created_at": parse_time(repository.get("created_at")),
        "pushed_at": parse_time(repository.get("pushed_at")),
        "fork_of": (repository.get("parent") or {}).get("id"),
        "etag": etag,
    }
