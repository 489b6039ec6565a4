"""The stand-in's GraphQL: the part of GitHub's schema that the project asks, with cost, node limit and resource limit.

graphql-core parses and validates; fields are answered by our own small executor, since a query of 100 connections of
100 stars has 40,000 fields and has to take milliseconds. The schema below has GitHub's names, types and nullability
(docs.github.com/graphql/reference); what it leaves out nobody here asks.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    build_schema,
    get_argument_values,
    get_named_type,
    get_variable_values,
    is_non_null_type,
    parse,
    validate,
)

from gh_assets.embedded.standin.world import NO_TIME, Repository, World

NODE_LIMIT = 500_000
PAGE = 100
HEAVY_FIRST = 25

SDL = """
scalar DateTime
interface Node { id: ID! }
enum OrderDirection { ASC DESC }
enum StarOrderField { STARRED_AT }
enum RepositoryOrderField { CREATED_AT NAME PUSHED_AT STARGAZERS UPDATED_AT }
input RepositoryOrder { field: RepositoryOrderField! direction: OrderDirection! }
input StarOrder { field: StarOrderField! direction: OrderDirection! }
type RateLimit { cost: Int! limit: Int! nodeCount: Int! remaining: Int! resetAt: DateTime! used: Int! }
type PageInfo { endCursor: String hasNextPage: Boolean! hasPreviousPage: Boolean! startCursor: String }
type Language { id: ID! name: String! }
type Topic { id: ID! name: String! }
type RepositoryTopic { id: ID! topic: Topic! }
type RepositoryTopicConnection { nodes: [RepositoryTopic] pageInfo: PageInfo! totalCount: Int! }
interface RepositoryOwner { id: ID! login: String! }
type Organization implements Node & RepositoryOwner { id: ID! databaseId: Int login: String! }
type User implements Node & RepositoryOwner {
  id: ID!
  databaseId: Int
  login: String!
  createdAt: DateTime!
  starredRepositories(
    after: String before: String first: Int last: Int orderBy: StarOrder ownedByViewer: Boolean
  ): StarredRepositoryConnection!
}
type StargazerEdge { cursor: String! node: User! starredAt: DateTime! }
type StargazerConnection { edges: [StargazerEdge] nodes: [User] pageInfo: PageInfo! totalCount: Int! }
type StarredRepositoryEdge { cursor: String! node: Repository! starredAt: DateTime! }
type StarredRepositoryConnection {
  edges: [StarredRepositoryEdge] isOverLimit: Boolean! nodes: [Repository] pageInfo: PageInfo! totalCount: Int!
}
type RepositoryConnection { nodes: [Repository] pageInfo: PageInfo! totalCount: Int! }
type Repository implements Node {
  id: ID!
  databaseId: Int
  name: String!
  nameWithOwner: String!
  owner: RepositoryOwner!
  description: String
  primaryLanguage: Language
  repositoryTopics(after: String before: String first: Int last: Int): RepositoryTopicConnection!
  stargazerCount: Int!
  createdAt: DateTime!
  pushedAt: DateTime
  isArchived: Boolean!
  isFork: Boolean!
  parent: Repository
  stargazers(after: String before: String first: Int last: Int orderBy: StarOrder): StargazerConnection!
  forks(after: String before: String first: Int last: Int orderBy: RepositoryOrder): RepositoryConnection!
}
type Query {
  node(id: ID!): Node
  nodes(ids: [ID!]!): [Node]!
  rateLimit(dryRun: Boolean = false): RateLimit
  repository(followRenames: Boolean = true, name: String!, owner: String!): Repository
  user(login: String!): User
  viewer: User!
}
"""

Errors = list[dict[str, Any]]
Path = list[str | int]


@dataclass
class Plan:
    """What a query asks for, before it is answered.

    Attributes
    ----------
    cost : int
        Points: connections that have to be fetched, by hundreds, at least 1.
    nodes : int
    """

    cost: int
    nodes: int


@dataclass
class _Prepared:
    operation: OperationDefinitionNode
    fragments: Mapping[str, FragmentDefinitionNode]


@dataclass
class _Asked:
    """One query while it is answered."""

    variables: Mapping[str, Any]
    fragments: Mapping[str, FragmentDefinitionNode]
    rate_limit: Mapping[str, Any]
    viewer: tuple[str, int]
    budget: float
    errors: Errors = field(default_factory=list)
    arguments: dict[int, dict[str, Any]] = field(default_factory=dict)


_WHOLE = {"hasNextPage": False, "hasPreviousPage": False, "endCursor": None, "startCursor": None}
"""Of a connection whose first page is all that is asked for."""


class _Null(Exception):  # noqa: N818 - it is no error, but GraphQL's way up to the next field that may be null
    """A field that may not be null is."""


class GaveUpError(Exception):
    """GitHub would answer 502 after ten seconds."""


class GraphQL:
    """Answers queries over a world.

    Parameters
    ----------
    world : World
    restricted : callable
        Whether a repository's stargazers may not be listed.
    heavy_users : set of str
        Logins of users for whose starred lists GitHub takes too long at more than `HEAVY_FIRST` a page.
    """

    def __init__(
        self, world: World, restricted: Callable[[Repository], bool], heavy_users: AbstractSet[str] = frozenset()
    ) -> None:
        self.world = world
        self.heavy_users = heavy_users
        self.restricted = restricted
        self.schema: GraphQLSchema = build_schema(SDL)
        self._prepared: dict[str, _Prepared | Errors] = {}

    # -- before the answer ---------------------------------------------------------------------------------------

    def prepare(self, query: str, variables: Mapping[str, Any]) -> tuple[Plan, _Asked, _Prepared] | Errors:
        """Parse, validate and count a query; or what is wrong with it."""
        known = self._prepared.get(query)
        if known is None:
            if len(self._prepared) > 500:
                self._prepared.clear()
            known = self._prepared[query] = self._validated(query)
        if isinstance(known, list):
            return known
        coerced = get_variable_values(self.schema, known.operation.variable_definitions or [], dict(variables))
        if isinstance(coerced, list):
            return [{"message": error.message, "type": "INVALID_VARIABLE"} for error in coerced]
        asked = _Asked(coerced, known.fragments, {}, ("", 0), math.inf)
        try:
            requests, nodes = self._count(known.operation.selection_set, self._query_type(), asked, 1)
        except GraphQLError as error:
            return [{"message": error.message, "type": "ARGUMENT_ERROR"}]
        if nodes > NODE_LIMIT:
            message = f"This query requests up to {nodes:,} possible nodes which exceeds the maximum limit of 500,000."
            return [{"message": message, "type": "MAX_NODE_LIMIT_EXCEEDED"}]
        return Plan(max(1, round(requests / 100)), nodes), asked, known

    def _validated(self, query: str) -> _Prepared | Errors:
        try:
            document: DocumentNode = parse(query)
        except GraphQLError as error:
            return [{"message": f"Parse error: {error.message}"}]
        errors = validate(self.schema, document)
        if errors:
            return [{"message": error.message, "extensions": {"code": "undefinedField"}} for error in errors]
        operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        if len(operations) != 1 or operations[0].operation is not OperationType.QUERY:
            return [{"message": "Exactly one query is answered."}]
        fragments = {n.name.value: n for n in document.definitions if isinstance(n, FragmentDefinitionNode)}
        return _Prepared(operations[0], fragments)

    def _query_type(self) -> GraphQLObjectType:
        assert self.schema.query_type is not None
        return self.schema.query_type

    def _count(self, selections: SelectionSetNode, parent: Any, asked: _Asked, multiple: int) -> tuple[int, int]:
        """Connections to fetch, and nodes, below a selection that is answered `multiple` times."""
        requests = nodes = 0
        for node in selections.selections:
            if isinstance(node, InlineFragmentNode):
                kind = self.schema.type_map[node.type_condition.name.value] if node.type_condition else parent
                more = self._count(node.selection_set, kind, asked, multiple)
            elif isinstance(node, FragmentSpreadNode):
                fragment = asked.fragments[node.name.value]
                kind = self.schema.type_map[fragment.type_condition.name.value]
                more = self._count(fragment.selection_set, kind, asked, multiple)
            elif isinstance(node, FieldNode) and node.selection_set is not None:
                definition = parent.fields[node.name.value]
                kind = get_named_type(definition.type)
                inside = multiple
                if kind.name.endswith("Connection"):
                    size = self._page_size(definition, node, asked)
                    requests += multiple
                    nodes += multiple * size
                    inside = multiple * size
                elif node.name.value == "nodes" and parent is self.schema.query_type:
                    inside = multiple * len(self._arguments(definition, node, asked)["ids"])
                more = self._count(node.selection_set, kind, asked, inside)
            else:
                continue
            requests, nodes = requests + more[0], nodes + more[1]
        return requests, nodes

    def _page_size(self, definition: Any, node: FieldNode, asked: _Asked) -> int:
        arguments = self._arguments(definition, node, asked)
        size = arguments.get("first", arguments.get("last"))
        if size is None:
            raise GraphQLError(
                f"You must provide a `first` or `last` value to properly paginate the `{node.name.value}` connection."
            )
        if not 1 <= size <= PAGE:
            raise GraphQLError(
                f"Requesting {size} records on the `{node.name.value}` connection exceeds the limit of 100."
            )
        return int(size)

    def _arguments(self, definition: Any, node: FieldNode, asked: _Asked) -> dict[str, Any]:
        known = asked.arguments.get(id(node))
        if known is None:
            known = asked.arguments[id(node)] = get_argument_values(definition, node, dict(asked.variables))
        return known

    # -- the answer ----------------------------------------------------------------------------------------------

    def answer(
        self,
        asked: _Asked,
        prepared: _Prepared,
        *,
        rate_limit: Mapping[str, Any],
        viewer: tuple[str, int],
        budget: int | None,
    ) -> dict[str, Any]:
        """Answer a prepared query: ``data``, and ``errors`` if there are any.

        Parameters
        ----------
        rate_limit : mapping
            For the field of that name.
        viewer : tuple
            Login and id of who asks.
        budget : int or None
            Nodes after which parts of the query are refused.
        """
        asked.rate_limit, asked.viewer = rate_limit, viewer
        asked.budget = math.inf if budget is None else budget
        try:
            data: Any = self._object(prepared.operation.selection_set, self._query_type(), None, asked, [])
        except _Null:
            data = None
        return {"data": data} | ({"errors": asked.errors} if asked.errors else {})

    def _fields(self, selections: SelectionSetNode, kind: Any, asked: _Asked) -> list[FieldNode]:
        fields: list[FieldNode] = []
        for node in selections.selections:
            if isinstance(node, FieldNode):
                fields.append(node)
                continue
            if isinstance(node, FragmentSpreadNode):
                fragment = asked.fragments[node.name.value]
                condition, inner = fragment.type_condition.name.value, fragment.selection_set
            else:
                assert isinstance(node, InlineFragmentNode)
                condition = node.type_condition.name.value if node.type_condition else kind.name
                inner = node.selection_set
            if condition == kind.name or condition in (interface.name for interface in kind.interfaces):
                fields += self._fields(inner, kind, asked)
        return fields

    def _object(
        self, selections: SelectionSetNode, kind: Any, source: Any, asked: _Asked, path: Path
    ) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for node in self._fields(selections, kind, asked):
            name = node.name.value
            key = node.alias.value if node.alias else name
            if name == "__typename":
                answer[key] = kind.name
                continue
            definition = kind.fields[name]
            here = [*path, key]
            try:
                value = self._field(kind.name, name, source, definition, node, asked, here)
                if value is None and is_non_null_type(definition.type):
                    raise _Null
                answer[key] = value
            except _Null:
                if is_non_null_type(definition.type):
                    raise
                answer[key] = None
        return answer

    def _field(
        self, kind: str, name: str, source: Any, definition: Any, node: FieldNode, asked: _Asked, path: Path
    ) -> Any:
        arguments = self._arguments(definition, node, asked) if node.arguments else {}
        if kind == "Query":
            return self._root(name, arguments, node, asked, path)
        if kind == "Repository" and isinstance(source, Repository):
            return self._of_repository(name, source, arguments, node, asked, path)
        if kind == "User" and isinstance(source, int):
            return self._of_user(name, source, arguments, node, asked, path)
        value = source[name]
        if node.selection_set is None or value is None:
            return value
        return self._below(definition, value, node, asked, path)

    def _below(self, definition: Any, value: Any, node: FieldNode, asked: _Asked, path: Path) -> Any:
        assert node.selection_set is not None
        inner = self._type_of(definition, value)
        if isinstance(value, list):
            return [self._object(node.selection_set, inner, v, asked, [*path, n]) for n, v in enumerate(value)]
        return self._object(node.selection_set, inner, value, asked, path)

    def _type_of(self, definition: Any, value: Any) -> Any:
        """The type of a value; of one that may be of several types, its own."""
        if isinstance(value, Mapping) and "__typename" in value:
            return self.schema.type_map[value["__typename"]]
        return get_named_type(definition.type)

    def _root(self, name: str, arguments: Mapping[str, Any], node: FieldNode, asked: _Asked, path: Path) -> Any:
        select = node.selection_set
        assert select is not None
        types = self.schema.type_map
        if name == "rateLimit":
            return self._object(select, types["RateLimit"], asked.rate_limit, asked, path)
        if name == "viewer":
            login, number = asked.viewer
            source = {"id": node_id("User", number), "databaseId": number, "login": login, "createdAt": _iso(0)}
            return {key: source[key] for key in (f.name.value for f in self._fields(select, types["User"], asked))}
        if name == "user":
            index = self.world.user_by_login.get(arguments["login"].lower())
            if index is None:
                return self._missing(
                    f"Could not resolve to a User with the login of '{arguments['login']}'.", asked, path
                )
            return self._object(select, types["User"], index, asked, path)
        if name == "repository":
            full_name = f"{arguments['owner']}/{arguments['name']}"
            repository = self.world.by_name.get(full_name.lower())
            if repository is None and arguments.get("followRenames", True):
                repository = self.world.moved.get(full_name.lower())
            if repository is None or repository.blocked:
                return self._missing(f"Could not resolve to a Repository with the name '{full_name}'.", asked, path)
            return self._object(select, types["Repository"], repository, asked, path)
        if name == "nodes":
            return [self._node(key, select, asked, [*path, number]) for number, key in enumerate(arguments["ids"])]
        return self._node(arguments["id"], select, asked, path)

    def _node(self, key: str, select: SelectionSetNode, asked: _Asked, path: Path) -> Any:
        kind, number = read_node_id(key)
        if kind == "Repository":
            repository = self.world.by_id.get(number)
            if repository is not None and not repository.blocked:
                return self._nullable(select, "Repository", repository, asked, path)
        elif kind == "User" and number in self.world.user_by_id:
            return self._nullable(select, "User", self.world.user_by_id[number], asked, path)
        return self._missing(f"Could not resolve to a node with the global id of '{key}'", asked, path)

    def _nullable(self, select: SelectionSetNode, kind: str, source: Any, asked: _Asked, path: Path) -> Any:
        try:
            return self._object(select, self.schema.type_map[kind], source, asked, path)
        except _Null:
            return None

    def _of_repository(
        self, name: str, source: Repository, arguments: Mapping[str, Any], node: FieldNode, asked: _Asked,
        path: Path,
    ) -> Any:  # fmt: skip
        types = self.schema.type_map
        if name == "stargazers":
            if self.restricted(source):
                message = "You do not have permission to view the stargazers of this repository."
                asked.errors.append({"type": "FORBIDDEN", "path": path, "message": message})
                raise _Null
            return self._stars(
                types["StargazerConnection"],
                source.stargazers,
                source.starred_at,
                types["User"],
                arguments,
                node,
                asked,
                path,
            )
        inner: Any
        if name == "forks":
            users = self.world.forkers(source)
            repo = source.full_name.split("/")[1]
            logins = [self.world.logins[user] for user in users[: arguments["first"]]]
            numbers = [self.world.user_ids[user] for user in users[: arguments["first"]]]
            forks = [
                {
                    "nameWithOwner": f"{login}/{repo}",
                    "owner": {
                        "__typename": "User",
                        "id": node_id("User", number),
                        "databaseId": number,
                        "login": login,
                    },
                }
                for login, number in zip(logins, numbers, strict=True)
            ]
            inner = {"nodes": forks, "totalCount": len(users), "pageInfo": _WHOLE}
        elif name == "repositoryTopics":
            topics = [{"id": topic, "topic": {"id": topic, "name": topic}} for topic in source.topics]
            inner = {"nodes": topics[: arguments["first"]], "totalCount": len(topics), "pageInfo": _WHOLE}
        elif name == "primaryLanguage":
            inner = None if source.language is None else {"id": source.language, "name": source.language}
        elif name == "parent":
            inner = None if source.fork_of is None else self.world.by_id.get(source.fork_of)
        elif name == "owner":
            owner = source.full_name.split("/")[0]
            inner = {"__typename": "Organization", "id": owner, "databaseId": None, "login": owner}
        else:
            return self._plain(source, name)
        if inner is None:
            return None
        assert node.selection_set is not None
        kind = self._type_of(types["Repository"].fields[name], inner)  # type: ignore[attr-defined]
        return self._object(node.selection_set, kind, inner, asked, path)

    @staticmethod
    def _plain(source: Repository, name: str) -> Any:
        return {
            "id": node_id("Repository", source.repo_id),
            "databaseId": source.repo_id,
            "name": source.full_name.split("/")[1],
            "nameWithOwner": source.full_name,
            "description": source.description,
            "stargazerCount": source.star_count,
            "createdAt": source.created_at or _iso(0),
            "pushedAt": source.pushed_at,
            "isArchived": source.archived,
            "isFork": source.fork_of is not None,
        }[name]

    def _of_user(
        self, name: str, index: int, arguments: Mapping[str, Any], node: FieldNode, asked: _Asked, path: Path
    ) -> Any:
        if name == "starredRepositories":
            if self.world.logins[index] in self.heavy_users and (arguments.get("first") or 0) > HEAVY_FIRST:
                raise GaveUpError
            pairs = self.world.starred(index)[::-1]  # oldest first, as stargazers
            types = self.schema.type_map
            connection = types["StarredRepositoryConnection"]
            return self._stars(connection, pairs[:, 0], pairs[:, 1], types["Repository"], arguments, node, asked, path)
        plain: dict[str, Callable[[], Any]] = {
            "id": lambda: node_id("User", self.world.user_ids[index]),
            "databaseId": lambda: self.world.user_ids[index],
            "login": lambda: self.world.logins[index],
            "createdAt": lambda: _iso(0),
        }
        return plain[name]()

    # -- connections of stars ------------------------------------------------------------------------------------

    def _stars(
        self, kind: Any, who: Any, when: Any, node_type: Any, arguments: Mapping[str, Any], node: FieldNode,
        asked: _Asked, path: Path,
    ) -> Any:  # fmt: skip
        """A page of stars, kept oldest first in arrays.

        A cursor names a star by its time and its rank among those of the same time, as GitHub's do: stars that come or
        go while somebody pages move nothing.
        """
        size = arguments.get("first") or arguments["last"]
        asked.budget -= size
        if asked.budget < 0:
            message = "Resource limits for this query exceeded."
            asked.errors.append({"type": "RESOURCE_LIMITS_EXCEEDED", "path": path, "message": message})
            raise _Null
        order = arguments.get("orderBy")
        newest_first = order is not None and order["direction"] == "DESC"
        total = len(who)
        after = arguments.get("after")
        if newest_first:
            bound = total if after is None else _place(after, when, who)
            start, end = max(0, bound - size), bound
            places: Sequence[int] = range(end - 1, start - 1, -1)
            more = start > 0
        else:
            bound = 0 if after is None else _place(after, when, who) + 1
            start, end = bound, min(total, bound + size)
            places = range(start, end)
            more = end < total
        cursors = [_cursor(int(when[place]), int(who[place])) for place in places]
        answer: dict[str, Any] = {}
        for part in self._fields(node.selection_set, kind, asked):  # type: ignore[arg-type]
            name, key = part.name.value, part.alias.value if part.alias else part.name.value
            if name == "totalCount":
                answer[key] = total
            elif name == "isOverLimit":
                answer[key] = False
            elif name == "pageInfo":
                info = {
                    "hasNextPage": more,
                    "hasPreviousPage": after is not None,
                    "endCursor": cursors[-1] if cursors else None,
                    "startCursor": cursors[0] if cursors else None,
                }
                answer[key] = {f.alias.value if f.alias else f.name.value: info[f.name.value]
                               for f in self._fields(part.selection_set, None, asked)}  # type: ignore[arg-type]  # fmt: skip
            elif name == "nodes":
                answer[key] = [self._star_node(node_type, int(who[p]), part, asked, path) for p in places]
            else:
                answer[key] = self._edges(node_type, who, when, places, cursors, part, asked, path)
        return answer

    def _edges(
        self, node_type: Any, who: Any, when: Any, places: Sequence[int], cursors: Sequence[str], part: FieldNode,
        asked: _Asked, path: Path,
    ) -> list[dict[str, Any]]:  # fmt: skip
        fields = self._fields(part.selection_set, self.schema.type_map["StargazerEdge"], asked)  # type: ignore[arg-type]
        names = [(f.alias.value if f.alias else f.name.value, f.name.value, f) for f in fields]
        edges = []
        for place, cursor in zip(places, cursors, strict=True):
            edge: dict[str, Any] = {}
            for key, name, inner in names:
                if name == "cursor":
                    edge[key] = cursor
                elif name == "starredAt":
                    # GitHub has a time for each star; a world from a file may not.
                    edge[key] = _iso(int(when[place])) or _iso(0)
                else:
                    edge[key] = self._star_node(node_type, int(who[place]), inner, asked, path)
            edges.append(edge)
        return edges

    def _star_node(self, node_type: Any, index: int, part: FieldNode, asked: _Asked, path: Path) -> Any:
        source: Any = index if node_type.name == "User" else self.world.repositories[index]
        assert part.selection_set is not None
        if node_type.name == "User":
            names = [f.name.value for f in self._fields(part.selection_set, node_type, asked)]
            if names == ["databaseId", "login"]:  # what stargazers are asked for, by the ten thousands
                return {"databaseId": self.world.user_ids[index], "login": self.world.logins[index]}
        return self._object(part.selection_set, node_type, source, asked, path)

    @staticmethod
    def _missing(message: str, asked: _Asked, path: Path) -> None:
        asked.errors.append({"type": "NOT_FOUND", "path": path, "message": message})


def node_id(kind: str, number: int) -> str:
    """GitHub's older form of a node's id."""
    return base64.b64encode(f"0{len(kind)}:{kind}{number}".encode()).decode()


def read_node_id(key: str) -> tuple[str, int]:
    """What a node's id names; an empty kind if it is none."""
    try:
        text = base64.b64decode(key, validate=True).decode()
        length, _, name = text.partition(":")
        return name[: int(length)], int(name[int(length) :])
    except (ValueError, UnicodeDecodeError):
        return "", 0


def _cursor(when: int, who: int) -> str:
    return base64.b64encode(f"cursor:v2:{when}:{who}".encode()).decode()


def _place(cursor: str, when: Any, who: Any) -> int:
    """The place of the star that a cursor names, or of where it would be."""
    try:
        *_, moment, number = base64.b64decode(cursor, validate=True).decode().split(":")
        time, user = int(moment), int(number)
    except ValueError:
        raise _Null from None
    low, high = (int(place) for place in (np.searchsorted(when, time, "left"), np.searchsorted(when, time, "right")))
    found = np.flatnonzero(who[low:high] == user)
    return low + int(found[0]) if len(found) else low


def _iso(seconds: int) -> str | None:
    if seconds == NO_TIME:
        return None
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
