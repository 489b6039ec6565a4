"""Reading by GraphQL, and by REST where the server or the token has no GraphQL."""

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import chain
from typing import TypeVar

from gh_assets.errors import GraphQLUnavailableError

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")


def read_with_fallback(
    tasks: Iterable[Task],
    by_graphql: Callable[[Iterator[Task]], Iterable[Result]],
    by_rest: Callable[[Iterator[Task]], Iterable[Result]],
    key_of_task: Callable[[Task], Hashable],
    key_of_result: Callable[[Result], Hashable],
) -> Iterator[Result]:
    """Yield the results of tasks by GraphQL; if that turns out to be unavailable, those of all others by REST.

    Parameters
    ----------
    tasks : iterable
    by_graphql, by_rest : callable
        Given tasks, yield their results in any order. `by_graphql` raises `GraphQLUnavailableError`.
    key_of_task, key_of_result : callable
        Match results to tasks.
    """
    remaining = iter(tasks)
    started: dict[Hashable, Task] = {}

    def start() -> Iterator[Task]:
        for task in remaining:
            started[key_of_task(task)] = task
            yield task

    try:
        for result in by_graphql(start()):
            started.pop(key_of_result(result), None)
            yield result
        return
    except GraphQLUnavailableError as error:
        logger.warning("%s The REST API is used instead.", error)
    yield from by_rest(chain(started.values(), remaining))
