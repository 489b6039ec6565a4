"""Metadata of the repositories that lists name: asked conditionally, merged by database id, with an outcome each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from gh_assets.collector.awesome import linked_repositories, read_list
from gh_assets.collector.client import Answer, GitHubClient
from gh_assets.collector.concurrency import map_bounded
from gh_assets.collector.outcomes import REACHABLE, Outcome
from gh_assets.errors import GitHubError, InputError, ServiceUnavailableError
from gh_assets.schemas import REPOS

MAX_REDIRECTS = 5

Document = dict[str, Any]


@dataclass
class KnownRepositories:
    """What earlier runs found out: documents of the collection ``repos``.

    A document is a row of the table `gh_assets.schemas.REPOS` with ``_id`` (the database id, or
    ``name:owner/name`` in lower case for a repository that never answered), ``etag`` of its metadata, and
    ``names``: the lower-case names under which it was asked for.
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
    repository: Mapping[str, Any] | None = None
    etag: str | None = None
    unchanged: Document | None = None


def read_lists(sources: Sequence[str], client: GitHubClient) -> dict[str, list[str]]:
    """Read awesome lists.

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
        raise InputError("No awesome list is given: name one or more, as owner/name or as a Markdown file.")
    named: dict[str, list[str]] = {}
    for source in dict.fromkeys(sources):
        found = linked_repositories(read_list(source, client))
        if not found:
            raise InputError(f"The awesome list {source} links to no repository on GitHub.")
        for name in found:
            named.setdefault(name.lower(), [name]).append(source)
    return named


def collect_repositories(
    client: GitHubClient,
    sources: Sequence[str],
    known: KnownRepositories,
    *,
    workers: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> CollectedRepositories:
    """Ask GitHub for every repository that the lists name.

    Parameters
    ----------
    client : GitHubClient
    sources : sequence of str
        Awesome lists, each ``owner/name`` or a Markdown file.
    known : KnownRepositories
        What earlier runs found: unchanged metadata answer 304, partition keys stay.
    workers : int
        Requests in flight at once.
    progress : callable, optional
        Called with (done, total) after each answer.

    Raises
    ------
    InputError
        If a list cannot be read or is empty, or GitHub has none of the repositories.
    AuthenticationError, RateLimitedError
        If GitHub takes none of the tokens, or the quota is spent.
    """
    named = read_lists(sources, client)
    answers: list[_Metadata] = []
    spellings = [entry[0] for entry in named.values()]
    for answer in map_bounded(lambda name: _ask(client, name, known), spellings, workers):
        answers.append(answer)
        if progress is not None:
            progress(len(answers), len(spellings))
    # Answers come in any order; the result must not depend on it.
    answers.sort(key=lambda answer: answer.name.lower())
    documents = _merge(answers, named, known)
    if not any(document["outcome"] in REACHABLE for document in documents):
        reasons = sorted({str(document["reason"]) for document in documents})
        raise InputError(
            f"None of the {len(documents)} repositories in {', '.join(sources)} can be reached on {client.api_url} "
            f"({'; '.join(reasons[:3])})."
        )
    table = pl.DataFrame(documents, schema=REPOS.dtypes, strict=False).sort("partition", "full_name", nulls_last=True)
    new = [key for key in table["partition"].drop_nulls() if key not in known.partitions]
    return CollectedRepositories(table, documents, new)


def _ask(client: GitHubClient, name: str, known: KnownRepositories) -> _Metadata:
    previous = known.by_name.get(name.lower())
    etag = previous.get("etag") if previous is not None else None
    path, moved = f"/repos/{name}", False
    try:
        for _ in range(MAX_REDIRECTS):
            answer = client.get(path, etag=etag)
            if answer.status not in (301, 302, 307) or not answer.headers.get("location"):
                break
            path, moved = answer.headers["location"], True
    except (ServiceUnavailableError, GitHubError) as error:
        return _Metadata(name, Outcome.UNKNOWN, str(error), unchanged=previous)
    outcome = Outcome.MOVED if moved else Outcome.OK
    if answer.status == 304 and previous is not None:
        return _Metadata(name, outcome, unchanged=previous)
    if answer.status == 200 and isinstance(answer.payload, dict) and isinstance(answer.payload.get("id"), int):
        return _Metadata(name, outcome, repository=answer.payload, etag=answer.etag)
    outcome, reason = classify_refusal(answer)
    return _Metadata(name, outcome, reason, unchanged=previous)


def classify_refusal(answer: Answer) -> tuple[Outcome, str]:
    """What an answer without data means for a repository: gone, blocked, restricted or unknown, and why."""
    blocked = answer.status == 451 or (isinstance(answer.payload, dict) and "block" in answer.payload)
    reason = f"{answer.status} {answer.message}".strip()
    if blocked:
        return Outcome.BLOCKED, reason
    if answer.status in (404, 410):
        return Outcome.GONE, reason
    if answer.status == 403:
        return Outcome.RESTRICTED, reason
    return Outcome.UNKNOWN, reason


def _merge(answers: Iterable[_Metadata], named: Mapping[str, list[str]], known: KnownRepositories) -> list[Document]:
    """One document a repository: by database id where there is one, else by name."""
    partitions = dict(known.partitions)
    merged: dict[int | str, Document] = {}
    for answer in answers:
        key = answer.name.lower()
        if answer.repository is not None:
            fresh = _document(answer.repository, answer.etag)
        elif answer.unchanged is not None:
            fresh = {name: answer.unchanged[name] for name in (*REPOS.columns, "_id", "etag")}
        else:
            fresh = dict.fromkeys(REPOS.columns) | {
                "_id": f"name:{key}",
                "full_name": answer.name,
                "topics": [],
                "etag": None,
            }
        document = merged.setdefault(
            fresh["_id"],
            fresh | {"lists": [], "names": [], "outcome": answer.outcome.value, "reason": answer.reason},
        )
        document["names"].append(key)
        document["lists"] = sorted({*document["lists"], *named[key][1:]})
        if answer.outcome is Outcome.OK:  # a link with the present name outweighs links with former ones
            document["outcome"], document["reason"] = Outcome.OK.value, None
    for document in merged.values():
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
    return list(merged.values())


def _document(repository: Mapping[str, Any], etag: str | None) -> Document:
    return {
        "_id": repository["id"],
        "repo_id": repository["id"],
        "full_name": repository["full_name"],
        "partition": None,
        "description": repository.get("description"),
        "language": repository.get("language"),
        "topics": list(repository.get("topics") or []),
        "stargazer_count": repository.get("stargazers_count"),
        "created_at": parse_time(repository.get("created_at")),
        "pushed_at": parse_time(repository.get("pushed_at")),
        "archived": repository.get("archived"),
        "lists": [],
        "outcome": None,
        "reason": None,
        "etag": etag,
    }


def parse_time(text: str | None) -> dt.datetime | None:
    """A time of GitHub (``2015-01-01T00:00:00Z``) with its zone."""
    return dt.datetime.fromisoformat(text) if text else None
