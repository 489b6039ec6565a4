"""GraphQL in the stand-in: the part of GitHub's schema that the project uses, with costs and limits.

graphql-core parses and validates queries. They are executed by a small executor of its own, because a query of 100
connections of 100 stars has 40,000 fields and has to take milliseconds. The schema has GitHub's names, types and
nullability (docs.github.com/graphql/reference).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    SelectionSetNode,
    build_schema,
    get_argument_values,
    get_named_type,
    get_variable_values,
    is_non_null_type,
    parse,
    validate,
)
from numpy.typing import NDArray

from gh_assets.embedded.standin.world import Repository, World, iso

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

_SINGLE_PAGE = {"hasNextPage": False, "hasPreviousPage": False, "endCursor": None, "startCursor": None}
"""Page info of a connection without further pages."""


@dataclass(frozen=True)
class _Stars:
    """A connection of stars, which are stored oldest first: users or repositories by index, and times."""

    who: NDArray[np.int64]
    when: NDArray[np.int64]


class _Null(Exception):  # noqa: N818 - not an error: GraphQL propagates it to the next nullable field
    """A non-null field is null."""


class QueryTimeoutError(Exception):
    """GitHub would respond with 502 after ten seconds."""


class GraphQL:
    """Parses and validates queries over a world.

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
        self._parsed = lru_cache(maxsize=500)(self._parse)

    def prepare(self, text: str, variables: dict[str, Any]) -> Query | Errors:
        """Parse and validate a query, and compute its cost; return its errors if it is invalid."""
        parsed = self._parsed(text)
        if isinstance(parsed, list):
            return parsed
        operation, fragments = parsed
        coerced = get_variable_values(self.schema, operation.variable_definitions or [], variables)
        if isinstance(coerced, list):
            return [{"message": error.message, "type": "INVALID_VARIABLE"} for error in coerced]
        try:
            query = Query(self, operation, fragments, coerced)
        except GraphQLError as error:
            return [{"message": error.message, "type": "ARGUMENT_ERROR"}]
        if query.nodes > NODE_LIMIT:
            limits = f"{query.nodes:,} possible nodes which exceeds the maximum limit of 500,000."
            return [{"message": f"This query requests up to {limits}", "type": "MAX_NODE_LIMIT_EXCEEDED"}]
        return query

    def _parse(self, text: str) -> tuple[OperationDefinitionNode, Mapping[str, FragmentDefinitionNode]] | Errors:
        try:
            document = parse(text)
        except GraphQLError as error:
            return [{"message": f"Parse error: {error.message}"}]
        errors = validate(self.schema, document)
        if errors:
            return [{"message": error.message, "extensions": {"code": "undefinedField"}} for error in errors]
        operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        if len(operations) != 1 or operations[0].operation is not OperationType.QUERY:
            return [{"message": "Exactly one query is supported."}]
        return operations[0], {n.name.value: n for n in document.definitions if isinstance(n, FragmentDefinitionNode)}


class Query:
    """A valid query with its variables.

    Attributes
    ----------
    cost : int
        Points: hundreds of connections to fetch, at least 1.
    nodes : int
        Maximum number of nodes in the result.
    """

    def __init__(
        self,
        graph: GraphQL,
        operation: OperationDefinitionNode,
        fragments: Mapping[str, FragmentDefinitionNode],
        variables: dict[str, Any],
    ) -> None:
        self._graph, self._world, self._types = graph, graph.world, graph.schema.type_map
        self._selections, self._fragments, self._variables = operation.selection_set, fragments, variables
        self._known_arguments: dict[int, dict[str, Any]] = {}
        self._errors: Errors = []
        connections, self.nodes = self._count(self._selections, self._types["Query"], 1)
        self.cost = max(1, round(connections / 100))

    # -- cost ----------------------------------------------------------------------------------------------------

    def _count(self, selections: SelectionSetNode, parent: Any, multiple: int) -> tuple[int, int]:
        """Return the number of connections and nodes of a selection that is executed `multiple` times."""
        connections = nodes = 0
        for node in selections.selections:
            inside = multiple
            if not isinstance(node, FieldNode):
                condition, inner = self._fragment(node)
                kind = self._types[condition] if condition else parent
            elif node.selection_set is not None:
                inner, definition = node.selection_set, parent.fields[node.name.value]
                kind = get_named_type(definition.type)
                if kind.name.endswith("Connection"):
                    inside *= self._page_size(definition, node)
                    connections += multiple
                    nodes += inside
                elif node.name.value == "nodes" and parent.name == "Query":
                    inside *= len(self._arguments(definition, node)["ids"])
            else:
                continue
            more = self._count(inner, kind, inside)
            connections, nodes = connections + more[0], nodes + more[1]
        return connections, nodes

    def _page_size(self, definition: Any, node: FieldNode) -> int:
        arguments, name = self._arguments(definition, node), node.name.value
        size = arguments.get("first", arguments.get("last"))
        if size is None:
            raise GraphQLError(
                f"You must provide a `first` or `last` value to properly paginate the `{name}` connection."
            )
        if not 1 <= size <= MAX_PAGE_SIZE:
            raise GraphQLError(f"Requesting {size} records on the `{name}` connection exceeds the limit of 100.")
        return int(size)

    def _arguments(self, definition: Any, node: FieldNode) -> dict[str, Any]:
        known = self._known_arguments.get(id(node))
        if known is None:
            known = self._known_arguments[id(node)] = get_argument_values(definition, node, self._variables)
        return known

    def _fragment(self, node: SelectionNode) -> tuple[str | None, SelectionSetNode]:
        """Return the type condition and the selections of a spread or inline fragment."""
        fragment = self._fragments[node.name.value] if isinstance(node, FragmentSpreadNode) else node
        assert isinstance(fragment, FragmentDefinitionNode | InlineFragmentNode)
        return fragment.type_condition.name.value if fragment.type_condition else None, fragment.selection_set

    # -- execution -----------------------------------------------------------------------------------------------

    def execute(self, rate_limit: Mapping[str, Any], viewer: tuple[str, int], budget: int | None) -> dict[str, Any]:
        """Execute the query once; return ``data``, and ``errors`` if there are any.

        Parameters
        ----------
        rate_limit : mapping
            Value of the field ``rateLimit``.
        viewer : tuple
            Login and id of the user of the token.
        budget : int or None
            Number of nodes after which further connections fail.
        """
        login, number = viewer
        user = {"id": node_id("User", number), "databaseId": number, "login": login, "createdAt": iso(0)}
        self._root = {"rateLimit": rate_limit, "viewer": user}
        self._budget = math.inf if budget is None else budget
        data: dict[str, Any] | None = None
        with suppress(_Null):
            data = self._object(self._selections, self._types["Query"], None, [])
        return {"data": data} | ({"errors": self._errors} if self._errors else {})

    def _fields(self, selections: SelectionSetNode | None, kind: Any) -> list[tuple[str, str, FieldNode]]:
        """Return key, name and node of the selected fields of an object."""
        assert selections is not None
        fields: list[tuple[str, str, FieldNode]] = []
        for node in selections.selections:
            if isinstance(node, FieldNode):
                name = node.name.value
                fields.append((node.alias.value if node.alias else name, name, node))
                continue
            condition, inner = self._fragment(node)
            if condition in (None, kind.name, *(interface.name for interface in kind.interfaces)):
                fields += self._fields(inner, kind)
        return fields

    def _object(self, selections: SelectionSetNode | None, kind: Any, source: Any, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, name, node in self._fields(selections, kind):
            if name == "__typename":
                result[key] = kind.name
                continue
            definition, here = kind.fields[name], [*path, key]
            try:
                value = self._complete(self._value(source, name, definition, node, here), definition, node, here)
                if value is None and is_non_null_type(definition.type):
                    raise _Null
            except _Null:
                if is_non_null_type(definition.type):
                    raise
                value = None
            result[key] = value
        return result

    def _value(self, source: Any, name: str, definition: Any, node: FieldNode, path: Path) -> Any:
        """Return the value of a field: plain, or the source of an object: a repository, a user's index, a mapping."""
        arguments = self._arguments(definition, node) if node.arguments else {}
        if isinstance(source, Repository):
            return self._of_repository(source, name, arguments, path)
        if isinstance(source, int):
            return self._of_user(source, name, arguments)
        return self._of_query(name, arguments, path) if source is None else source[name]

    def _complete(self, value: Any, definition: Any, node: FieldNode, path: Path) -> Any:
        """Return the selected fields of a value, if it has fields."""
        if value is None or node.selection_set is None:
            return value
        if isinstance(value, _Stars):
            return self._page(value, definition, node, path)
        if isinstance(value, list):
            return [self._entry(entry, definition, node, [*path, number]) for number, entry in enumerate(value)]
        if isinstance(value, Repository | int):
            kind = self._types["Repository" if isinstance(value, Repository) else "User"]
        else:
            kind = self._types[value["__typename"]] if "__typename" in value else get_named_type(definition.type)
        return self._object(node.selection_set, kind, value, path)

    def _entry(self, value: Any, definition: Any, node: FieldNode, path: Path) -> Any:
        """Complete an entry of a list; all lists have entries that can be null."""
        try:
            return self._complete(value, definition, node, path)
        except _Null:
            return None

    def _of_query(self, name: str, arguments: Mapping[str, Any], path: Path) -> Any:
        if name == "user":
            login = arguments["login"]
            index = self._world.user_by_login.get(login.lower())
            return self._found(index, f"Could not resolve to a User with the login of '{login}'.", path)
        if name == "repository":
            full_name = f"{arguments['owner']}/{arguments['name']}"
            repository = self._world.by_name.get(full_name.lower())
            if repository is None and arguments.get("followRenames", True):
                repository = self._world.moved.get(full_name.lower())
            return self._found(repository, f"Could not resolve to a Repository with the name '{full_name}'.", path)
        if name == "nodes":
            return [self._node(key, [*path, number]) for number, key in enumerate(arguments["ids"])]
        return self._node(arguments["id"], path) if name == "node" else self._root[name]

    def _node(self, key: str, path: Path) -> Repository | int | None:
        kind, number = read_node_id(key)
        found: Repository | int | None = None
        if kind == "Repository":
            found = self._world.by_id.get(number)
        elif kind == "User":
            found = self._world.user_by_id.get(number)
        return self._found(found, f"Could not resolve to a node with the global id of '{key}'", path)

    def _found(self, source: Repository | int | None, message: str, path: Path) -> Repository | int | None:
        """Return a source, or None with an error if it does not exist or is blocked."""
        if source is None or (isinstance(source, Repository) and source.blocked):
            self._errors.append({"type": "NOT_FOUND", "path": path, "message": message})
            return None
        return source

    def _of_repository(self, source: Repository, name: str, arguments: Mapping[str, Any], path: Path) -> Any:
        owner, _, own_name = source.full_name.partition("/")
        match name:
            case "stargazers":
                if self._graph.restricted(source):
                    message = "You do not have permission to view the stargazers of this repository."
                    raise self._denied("FORBIDDEN", message, path)
                return _Stars(source.stargazers, source.starred_at)
            case "forks":
                users = self._world.forkers(source)
                start = _offset(arguments.get("after"))
                end = start + arguments["first"]
                names = {user: f"{self._world.logins[user]}/{own_name}" for user in users[start:end]}
                forks = [{"nameWithOwner": fork, "owner": user} for user, fork in names.items()]
                info = {"hasNextPage": end < len(users), "endCursor": _offset_cursor(end) if names else None}
                return {"nodes": forks, "totalCount": len(users), "pageInfo": _SINGLE_PAGE | info}
            case "repositoryTopics":
                topics = [{"id": topic, "topic": _named(topic)} for topic in source.topics]
                return {"nodes": topics[: arguments["first"]], "totalCount": len(topics), "pageInfo": _SINGLE_PAGE}
            case "parent":
                return None if source.fork_of is None else self._world.by_id.get(source.fork_of)
        return {
            "id": node_id("Repository", source.repo_id),
            "databaseId": source.repo_id,
            "name": own_name,
            "nameWithOwner": source.full_name,
            "owner": {"__typename": "Organization", "id": owner, "databaseId": None, "login": owner},
            "description": source.description,
            "primaryLanguage": None if source.language is None else _named(source.language),
            "stargazerCount": len(source.stargazers),
            "createdAt": source.created_at or iso(0),
            "pushedAt": source.pushed_at,
            "isArchived": source.archived,
            "isFork": source.fork_of is not None,
        }[name]

    def _of_user(self, index: int, name: str, arguments: Mapping[str, Any]) -> Any:
        login, user_id = self._world.logins[index], self._world.user_ids[index]
        if name == "starredRepositories":
            if login in self._graph.heavy_users and (arguments.get("first") or 0) > HEAVY_PAGE_SIZE:
                raise QueryTimeoutError
            pairs = self._world.starred(index)[::-1]  # oldest first, as stargazers
            return _Stars(pairs[:, 0], pairs[:, 1])
        if name == "id":
            return node_id("User", user_id)
        return {"databaseId": user_id, "login": login, "createdAt": iso(0)}[name]

    def _denied(self, kind: str, message: str, path: Path) -> _Null:
        """Record an error of a connection, and return the exception for its null."""
        self._errors.append({"type": kind, "path": path, "message": message})
        return _Null()

    # -- connections of stars ------------------------------------------------------------------------------------

    def _page(self, stars: _Stars, definition: Any, node: FieldNode, path: Path) -> dict[str, Any]:
        """Return a page of stars.

        A cursor identifies a star by its time and user, so stars added or removed during paging do not shift pages.
        """
        arguments, kind = self._arguments(definition, node), get_named_type(definition.type)
        size, after, total = arguments.get("first") or arguments["last"], arguments.get("after"), len(stars.who)
        self._budget -= size
        if self._budget < 0:
            raise self._denied("RESOURCE_LIMITS_EXCEEDED", "Resource limits for this query exceeded.", path)
        newest_first = (arguments.get("orderBy") or {}).get("direction") == "DESC"
        if newest_first:
            end = total if after is None else _position(after, stars)
            start = max(0, end - size)
        else:
            start = 0 if after is None else _position(after, stars) + 1
            end = min(total, start + size)
        order = slice(None, None, -1) if newest_first else slice(None)
        who, when = stars.who[start:end][order].tolist(), stars.when[start:end][order].tolist()
        cursors = [_cursor(*star) for star in zip(when, who, strict=True)]
        result: dict[str, Any] = {}
        for key, name, part in self._fields(node.selection_set, kind):
            inner = get_named_type(kind.fields[name].type)
            if name == "edges":
                result[key] = self._edges(inner, who, when, cursors, part, path)
            elif name == "nodes":
                result[key] = self._nodes(inner, who, part, path)
            elif name == "pageInfo":
                info = {
                    "hasNextPage": start > 0 if newest_first else end < total,
                    "hasPreviousPage": after is not None,
                    "endCursor": cursors[-1] if cursors else None,
                    "startCursor": cursors[0] if cursors else None,
                }
                result[key] = self._object(part.selection_set, inner, info, path)
            else:
                result[key] = {"totalCount": total, "isOverLimit": False}[name]
        return result

    def _edges(
        self, kind: Any, who: list[int], when: list[int], cursors: list[str], part: FieldNode, path: Path
    ) -> list[dict[str, Any]]:
        """Return edges, which are made by columns."""
        columns: dict[str, list[Any]] = {}
        for key, name, inner in self._fields(part.selection_set, kind):
            if name == "cursor":
                columns[key] = cursors
            elif name == "starredAt":
                # GitHub always has the time of a star; a world from a file may not.
                columns[key] = [iso(moment) or iso(0) for moment in when]
            else:
                columns[key] = self._nodes(get_named_type(kind.fields["node"].type), who, inner, path)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _nodes(self, kind: Any, who: list[int], part: FieldNode, path: Path) -> list[dict[str, Any]]:
        if kind.name == "Repository":
            repositories = [self._world.repositories[index] for index in who]
            return [self._object(part.selection_set, kind, repository, path) for repository in repositories]
        if [key for key, _, _ in self._fields(part.selection_set, kind)] == ["databaseId", "login"]:  # a fast path
            return [{"databaseId": self._world.user_ids[user], "login": self._world.logins[user]} for user in who]
        return [self._object(part.selection_set, kind, user, path) for user in who]


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


def _named(name: str) -> dict[str, str]:
    return {"id": name, "name": name}


def _offset_cursor(offset: int) -> str:
    return base64.b64encode(f"cursor:v2:{offset}".encode()).decode()


def _offset(cursor: str | None) -> int:
    """Return the number of entries before a page of a list without times."""
    try:
        return 0 if cursor is None else int(base64.b64decode(cursor, validate=True).decode().rpartition(":")[2])
    except ValueError:
        raise _Null from None


def _cursor(when: int, who: int) -> str:
    return base64.b64encode(f"cursor:v2:{when}:{who}".encode()).decode()


def _position(cursor: str, stars: _Stars) -> int:
    """Return the position of a cursor's star, or the one where it would be."""
    try:
        *_, moment, number = base64.b64decode(cursor, validate=True).decode().split(":")
        time, user = int(moment), int(number)
    except ValueError:
        raise _Null from None
    low, high = int(np.searchsorted(stars.when, time, "left")), int(np.searchsorted(stars.when, time, "right"))
    matches = np.flatnonzero(stars.who[low:high] == user)
    return low + int(matches[0]) if len(matches) else low
