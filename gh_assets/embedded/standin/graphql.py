"""GraphQL in the stand-in: the part of GitHub's schema that the project uses, with costs and limits.

graphql-core parses and validates queries. They are executed by a small executor of its own, because a query of 100
connections of 100 stars has 40,000 fields and has to take milliseconds. The schema has GitHub's names, types and
nullability (docs.github.com/graphql/reference).
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
MAX_PAGE_SIZE = 100
HEAVY_PAGE_SIZE = 25

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
    """The cost of a query.

    Attributes
    ----------
    cost : int
        Points: hundreds of connections to fetch, at least 1.
    nodes : int
        Maximum number of nodes in the result.
    """

    cost: int
    nodes: int


@dataclass
class _Prepared:
    operation: OperationDefinitionNode
    fragments: Mapping[str, FragmentDefinitionNode]


@dataclass
class _Execution:
    """The state of the execution of a query."""

    variables: Mapping[str, Any]
    fragments: Mapping[str, FragmentDefinitionNode]
    rate_limit: Mapping[str, Any]
    viewer: tuple[str, int]
    budget: float
    errors: Errors = field(default_factory=list)
    arguments: dict[int, dict[str, Any]] = field(default_factory=dict)


_SINGLE_PAGE = {"hasNextPage": False, "hasPreviousPage": False, "endCursor": None, "startCursor": None}
"""Page info of a connection without further pages."""


class _Null(Exception):  # noqa: N818 - not an error: GraphQL propagates it to the next nullable field
    """A non-null field is null."""


class QueryTimeoutError(Exception):
    """GitHub would respond with 502 after ten seconds."""


class GraphQL:
    """Executes queries over a world.

    Parameters
    ----------
    world : World
    restricted : callable
        Whether the stargazers of a repository cannot be listed.
    heavy_users : set of str
        Logins whose starred lists time out at more than `HEAVY_PAGE_SIZE` entries per page.
    """

    def __init__(
        self, world: World, restricted: Callable[[Repository], bool], heavy_users: AbstractSet[str] = frozenset()
    ) -> None:
        self.world = world
        self.heavy_users = heavy_users
        self.restricted = restricted
        self.schema: GraphQLSchema = build_schema(SDL)
        self._prepared: dict[str, _Prepared | Errors] = {}

    # -- validation and cost -------------------------------------------------------------------------------------

    def prepare(self, query: str, variables: Mapping[str, Any]) -> tuple[Plan, _Execution, _Prepared] | Errors:
        """Parse and validate a query, and compute its cost; return its errors if it is invalid."""
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
        execution = _Execution(coerced, known.fragments, {}, ("", 0), math.inf)
        try:
            requests, nodes = self._count(known.operation.selection_set, self._query_type(), execution, 1)
        except GraphQLError as error:
            return [{"message": error.message, "type": "ARGUMENT_ERROR"}]
        if nodes > NODE_LIMIT:
            message = f"This query requests up to {nodes:,} possible nodes which exceeds the maximum limit of 500,000."
            return [{"message": message, "type": "MAX_NODE_LIMIT_EXCEEDED"}]
        return Plan(max(1, round(requests / 100)), nodes), execution, known

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
            return [{"message": "Exactly one query is supported."}]
        fragments = {n.name.value: n for n in document.definitions if isinstance(n, FragmentDefinitionNode)}
        return _Prepared(operations[0], fragments)

    def _query_type(self) -> GraphQLObjectType:
        assert self.schema.query_type is not None
        return self.schema.query_type

    def _count(
        self, selections: SelectionSetNode, parent: Any, execution: _Execution, multiple: int
    ) -> tuple[int, int]:
        """Return the number of connections and nodes of a selection that is executed `multiple` times."""
        requests = nodes = 0
        for node in selections.selections:
            if isinstance(node, InlineFragmentNode):
                kind = self.schema.type_map[node.type_condition.name.value] if node.type_condition else parent
                more = self._count(node.selection_set, kind, execution, multiple)
            elif isinstance(node, FragmentSpreadNode):
                fragment = execution.fragments[node.name.value]
                kind = self.schema.type_map[fragment.type_condition.name.value]
                more = self._count(fragment.selection_set, kind, execution, multiple)
            elif isinstance(node, FieldNode) and node.selection_set is not None:
                definition = parent.fields[node.name.value]
                kind = get_named_type(definition.type)
                inside = multiple
                if kind.name.endswith("Connection"):
                    size = self._page_size(definition, node, execution)
                    requests += multiple
                    nodes += multiple * size
                    inside = multiple * size
                elif node.name.value == "nodes" and parent is self.schema.query_type:
                    inside = multiple * len(self._arguments(definition, node, execution)["ids"])
                more = self._count(node.selection_set, kind, execution, inside)
            else:
                continue
            requests, nodes = requests + more[0], nodes + more[1]
        return requests, nodes

    def _page_size(self, definition: Any, node: FieldNode, execution: _Execution) -> int:
        arguments = self._arguments(definition, node, execution)
        size = arguments.get("first", arguments.get("last"))
        if size is None:
            raise GraphQLError(
                f"You must provide a `first` or `last` value to properly paginate the `{node.name.value}` connection."
            )
        if not 1 <= size <= MAX_PAGE_SIZE:
            raise GraphQLError(
                f"Requesting {size} records on the `{node.name.value}` connection exceeds the limit of 100."
            )
        return int(size)

    def _arguments(self, definition: Any, node: FieldNode, execution: _Execution) -> dict[str, Any]:
        known = execution.arguments.get(id(node))
        if known is None:
            known = execution.arguments[id(node)] = get_argument_values(definition, node, dict(execution.variables))
        return known

    # -- execution -----------------------------------------------------------------------------------------------

    def execute(
        self,
        execution: _Execution,
        prepared: _Prepared,
        *,
        rate_limit: Mapping[str, Any],
        viewer: tuple[str, int],
        budget: int | None,
    ) -> dict[str, Any]:
        """Execute a prepared query; return ``data``, and ``errors`` if there are any.

        Parameters
        ----------
        execution, prepared
            As returned by `prepare`.
        rate_limit : mapping
            Value of the field ``rateLimit``.
        viewer : tuple
            Login and id of the user of the token.
        budget : int or None
            Number of nodes after which further connections fail.
        """
        execution.rate_limit, execution.viewer = rate_limit, viewer
        execution.budget = math.inf if budget is None else budget
        try:
            data: Any = self._object(prepared.operation.selection_set, self._query_type(), None, execution, [])
        except _Null:
            data = None
        return {"data": data} | ({"errors": execution.errors} if execution.errors else {})

    def _fields(self, selections: SelectionSetNode, kind: Any, execution: _Execution) -> list[FieldNode]:
        fields: list[FieldNode] = []
        for node in selections.selections:
            if isinstance(node, FieldNode):
                fields.append(node)
                continue
            if isinstance(node, FragmentSpreadNode):
                fragment = execution.fragments[node.name.value]
                condition, inner = fragment.type_condition.name.value, fragment.selection_set
            else:
                assert isinstance(node, InlineFragmentNode)
                condition = node.type_condition.name.value if node.type_condition else kind.name
                inner = node.selection_set
            if condition == kind.name or condition in (interface.name for interface in kind.interfaces):
                fields += self._fields(inner, kind, execution)
        return fields

    def _object(
        self, selections: SelectionSetNode, kind: Any, source: Any, execution: _Execution, path: Path
    ) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for node in self._fields(selections, kind, execution):
            name = node.name.value
            key = node.alias.value if node.alias else name
            if name == "__typename":
                result[key] = kind.name
                continue
            definition = kind.fields[name]
            here = [*path, key]
            try:
                value = self._field(kind.name, name, source, definition, node, execution, here)
                if value is None and is_non_null_type(definition.type):
                    raise _Null
                result[key] = value
            except _Null:
                if is_non_null_type(definition.type):
                    raise
                result[key] = None
        return result

    def _field(
        self, kind: str, name: str, source: Any, definition: Any, node: FieldNode, execution: _Execution, path: Path
    ) -> Any:
        arguments = self._arguments(definition, node, execution) if node.arguments else {}
        if kind == "Query":
            return self._root(name, arguments, node, execution, path)
        if kind == "Repository" and isinstance(source, Repository):
            return self._of_repository(name, source, arguments, node, execution, path)
        if kind == "User" and isinstance(source, int):
            return self._of_user(name, source, arguments, node, execution, path)
        value = source[name]
        if node.selection_set is None or value is None:
            return value
        return self._below(definition, value, node, execution, path)

    def _below(self, definition: Any, value: Any, node: FieldNode, execution: _Execution, path: Path) -> Any:
        assert node.selection_set is not None
        inner = self._type_of(definition, value)
        if isinstance(value, list):
            return [self._object(node.selection_set, inner, v, execution, [*path, n]) for n, v in enumerate(value)]
        return self._object(node.selection_set, inner, value, execution, path)

    def _type_of(self, definition: Any, value: Any) -> Any:
        """Return the type of a value, which for an interface is its concrete type."""
        if isinstance(value, Mapping) and "__typename" in value:
            return self.schema.type_map[value["__typename"]]
        return get_named_type(definition.type)

    def _root(self, name: str, arguments: Mapping[str, Any], node: FieldNode, execution: _Execution, path: Path) -> Any:
        select = node.selection_set
        assert select is not None
        types = self.schema.type_map
        if name == "rateLimit":
            return self._object(select, types["RateLimit"], execution.rate_limit, execution, path)
        if name == "viewer":
            login, number = execution.viewer
            source = {"id": node_id("User", number), "databaseId": number, "login": login, "createdAt": _iso(0)}
            return {key: source[key] for key in (f.name.value for f in self._fields(select, types["User"], execution))}
        if name == "user":
            index = self.world.user_by_login.get(arguments["login"].lower())
            if index is None:
                return self._missing(
                    f"Could not resolve to a User with the login of '{arguments['login']}'.", execution, path
                )
            return self._object(select, types["User"], index, execution, path)
        if name == "repository":
            full_name = f"{arguments['owner']}/{arguments['name']}"
            repository = self.world.by_name.get(full_name.lower())
            if repository is None and arguments.get("followRenames", True):
                repository = self.world.moved.get(full_name.lower())
            if repository is None or repository.blocked:
                return self._missing(f"Could not resolve to a Repository with the name '{full_name}'.", execution, path)
            return self._object(select, types["Repository"], repository, execution, path)
        if name == "nodes":
            return [self._node(key, select, execution, [*path, number]) for number, key in enumerate(arguments["ids"])]
        return self._node(arguments["id"], select, execution, path)

    def _node(self, key: str, select: SelectionSetNode, execution: _Execution, path: Path) -> Any:
        kind, number = read_node_id(key)
        if kind == "Repository":
            repository = self.world.by_id.get(number)
            if repository is not None and not repository.blocked:
                return self._nullable(select, "Repository", repository, execution, path)
        elif kind == "User" and number in self.world.user_by_id:
            return self._nullable(select, "User", self.world.user_by_id[number], execution, path)
        return self._missing(f"Could not resolve to a node with the global id of '{key}'", execution, path)

    def _nullable(self, select: SelectionSetNode, kind: str, source: Any, execution: _Execution, path: Path) -> Any:
        try:
            return self._object(select, self.schema.type_map[kind], source, execution, path)
        except _Null:
            return None

    def _of_repository(
        self, name: str, source: Repository, arguments: Mapping[str, Any], node: FieldNode, execution: _Execution,
        path: Path,
    ) -> Any:  # fmt: skip
        types = self.schema.type_map
        if name == "stargazers":
            if self.restricted(source):
                message = "You do not have permission to view the stargazers of this repository."
                execution.errors.append({"type": "FORBIDDEN", "path": path, "message": message})
                raise _Null
            return self._stars(
                types["StargazerConnection"],
                source.stargazers,
                source.starred_at,
                types["User"],
                arguments,
                node,
                execution,
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
            inner = {"nodes": forks, "totalCount": len(users), "pageInfo": _SINGLE_PAGE}
        elif name == "repositoryTopics":
            topics = [{"id": topic, "topic": {"id": topic, "name": topic}} for topic in source.topics]
            inner = {"nodes": topics[: arguments["first"]], "totalCount": len(topics), "pageInfo": _SINGLE_PAGE}
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
        return self._object(node.selection_set, kind, inner, execution, path)

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
        self, name: str, index: int, arguments: Mapping[str, Any], node: FieldNode, execution: _Execution, path: Path
    ) -> Any:
        if name == "starredRepositories":
            if self.world.logins[index] in self.heavy_users and (arguments.get("first") or 0) > HEAVY_PAGE_SIZE:
                raise QueryTimeoutError
            pairs = self.world.starred(index)[::-1]  # oldest first, as stargazers
            types = self.schema.type_map
            connection = types["StarredRepositoryConnection"]
            return self._stars(
                connection, pairs[:, 0], pairs[:, 1], types["Repository"], arguments, node, execution, path
            )
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
        execution: _Execution, path: Path,
    ) -> Any:  # fmt: skip
        """Return a page of stars, which are stored oldest first in arrays.

        A cursor identifies a star by its time and user, so stars added or removed during paging do not shift pages.
        """
        size = arguments.get("first") or arguments["last"]
        execution.budget -= size
        if execution.budget < 0:
            message = "Resource limits for this query exceeded."
            execution.errors.append({"type": "RESOURCE_LIMITS_EXCEEDED", "path": path, "message": message})
            raise _Null
        order = arguments.get("orderBy")
        newest_first = order is not None and order["direction"] == "DESC"
        total = len(who)
        after = arguments.get("after")
        if newest_first:
            bound = total if after is None else _position(after, when, who)
            start, end = max(0, bound - size), bound
            positions: Sequence[int] = range(end - 1, start - 1, -1)
            more = start > 0
        else:
            bound = 0 if after is None else _position(after, when, who) + 1
            start, end = bound, min(total, bound + size)
            positions = range(start, end)
            more = end < total
        cursors = [_cursor(int(when[position]), int(who[position])) for position in positions]
        result: dict[str, Any] = {}
        for part in self._fields(node.selection_set, kind, execution):  # type: ignore[arg-type]
            name, key = part.name.value, part.alias.value if part.alias else part.name.value
            if name == "totalCount":
                result[key] = total
            elif name == "isOverLimit":
                result[key] = False
            elif name == "pageInfo":
                info = {
                    "hasNextPage": more,
                    "hasPreviousPage": after is not None,
                    "endCursor": cursors[-1] if cursors else None,
                    "startCursor": cursors[0] if cursors else None,
                }
                result[key] = {f.alias.value if f.alias else f.name.value: info[f.name.value]
                               for f in self._fields(part.selection_set, None, execution)}  # type: ignore[arg-type]  # fmt: skip
            elif name == "nodes":
                result[key] = [self._star_node(node_type, int(who[p]), part, execution, path) for p in positions]
            else:
                result[key] = self._edges(node_type, who, when, positions, cursors, part, execution, path)
        return result

    def _edges(
        self, node_type: Any, who: Any, when: Any, positions: Sequence[int], cursors: Sequence[str], part: FieldNode,
        execution: _Execution, path: Path,
    ) -> list[dict[str, Any]]:  # fmt: skip
        fields = self._fields(part.selection_set, self.schema.type_map["StargazerEdge"], execution)  # type: ignore[arg-type]
        names = [(f.alias.value if f.alias else f.name.value, f.name.value, f) for f in fields]
        edges = []
        for position, cursor in zip(positions, cursors, strict=True):
            edge: dict[str, Any] = {}
            for key, name, inner in names:
                if name == "cursor":
                    edge[key] = cursor
                elif name == "starredAt":
                    # GitHub always has the time of a star; a world from a file may not.
                    edge[key] = _iso(int(when[position])) or _iso(0)
                else:
                    edge[key] = self._star_node(node_type, int(who[position]), inner, execution, path)
            edges.append(edge)
        return edges

    def _star_node(self, node_type: Any, index: int, part: FieldNode, execution: _Execution, path: Path) -> Any:
        source: Any = index if node_type.name == "User" else self.world.repositories[index]
        assert part.selection_set is not None
        if node_type.name == "User":
            names = [f.name.value for f in self._fields(part.selection_set, node_type, execution)]
            if names == ["databaseId", "login"]:  # fast path for stargazers
                return {"databaseId": self.world.user_ids[index], "login": self.world.logins[index]}
        return self._object(part.selection_set, node_type, source, execution, path)

    @staticmethod
    def _missing(message: str, execution: _Execution, path: Path) -> None:
        execution.errors.append({"type": "NOT_FOUND", "path": path, "message": message})


def node_id(kind: str, number: int) -> str:
    """Return the id of a node in GitHub's legacy format."""
    return base64.b64encode(f"0{len(kind)}:{kind}{number}".encode()).decode()


def read_node_id(key: str) -> tuple[str, int]:
    """Return kind and number of a node id; the kind is empty if it is invalid."""
    try:
        text = base64.b64decode(key, validate=True).decode()
        length, _, name = text.partition(":")
        return name[: int(length)], int(name[int(length) :])
    except (ValueError, UnicodeDecodeError):
        return "", 0


def _cursor(when: int, who: int) -> str:
    return base64.b64encode(f"cursor:v2:{when}:{who}".encode()).decode()


def _position(cursor: str, when: Any, who: Any) -> int:
    """Return the position of a cursor's star, or the one where it would be."""
    try:
        *_, moment, number = base64.b64decode(cursor, validate=True).decode().split(":")
        time, user = int(moment), int(number)
    except ValueError:
        raise _Null from None
    low, high = int(np.searchsorted(when, time, "left")), int(np.searchsorted(when, time, "right"))
    matches = np.flatnonzero(who[low:high] == user)
    return low + int(matches[0]) if len(matches) else low


def _iso(seconds: int) -> str | None:
    if seconds == NO_TIME:
        return None
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
