"""Reading by GraphQL, and by REST where it is unavailable."""

from collections.abc import Callable, Iterator

import pytest

from gh_assets.collector.star_sources.fallback import read_with_fallback
from gh_assets.errors import GraphQLUnavailableError

Result = tuple[str, int]


def by_rest(tasks: Iterator[int]) -> Iterator[Result]:
    return (("rest", task) for task in tasks)


def by_graphql_until(done: int, started: int) -> Callable[[Iterator[int]], Iterator[Result]]:
    """Return a reader that starts some tasks, finishes fewer, and is unavailable then."""

    def read(tasks: Iterator[int]) -> Iterator[Result]:
        begun = [next(tasks) for _ in range(started)]
        for task in reversed(begun[:done]):
            yield "graphql", task
        raise GraphQLUnavailableError("There is no GraphQL.")

    return read


@pytest.mark.parametrize(("done", "started"), [(0, 0), (0, 3), (2, 3), (5, 5)])
def test_every_task_is_read_once_whenever_graphql_becomes_unavailable(done: int, started: int) -> None:
    results = list(
        read_with_fallback(range(5), by_graphql_until(done, started), by_rest, int, lambda result: result[1])
    )
    assert sorted(task for _, task in results) == list(range(5))
    assert [task for reader, task in results if reader == "rest"] == list(range(done, 5))


def test_other_errors_are_raised() -> None:
    def failing(_tasks: Iterator[int]) -> Iterator[Result]:
        raise ValueError("another error")

    with pytest.raises(ValueError, match="another error"):
        list(read_with_fallback(range(5), failing, by_rest, int, lambda result: result[1]))
