"""How runs behave: which pool they wait for, what is tried again, what they write into their tags."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import dagster as dg
from pymongo.errors import AutoReconnect, NetworkTimeout, PyMongoError, ServerSelectionTimeoutError

from gh_assets.errors import ConcurrentWriteError, GhAssetsError, OutageError, RateLimitedError, ServiceUnavailableError

GITHUB_POOL = "github"
"""Runs that spend tokens: one at a time, the others wait in the queue (``concurrency`` in dagster.yaml)."""

TRANSIENT = (
    ServiceUnavailableError,
    OutageError,
    RateLimitedError,
    ConcurrentWriteError,
    AutoReconnect,
    NetworkTimeout,
    ServerSelectionTimeoutError,
)
"""What may be over in a minute. Everything else is as wrong the second time: no quota is spent on it again."""

RETRY = dg.RetryPolicy(max_retries=3, delay=20, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)

TAG = "gh_assets/"
"""Before the names of the tags that runs get."""

_again = ContextVar("_again", default=True)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def final_unless_transient(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Of a computation with a `RetryPolicy`: fail for good unless the reason is `TRANSIENT`.

    The exception that the run shows is the one that was raised, as the cause of Dagster's `Failure`.
    """

    @functools.wraps(function)
    def guarded(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        try:
            return function(*arguments, **named)
        except (GhAssetsError, PyMongoError) as error:
            if isinstance(error, TRANSIENT) and _again.get():
                raise
            raise dg.Failure(description=str(error), allow_retries=False) from error

    return guarded


@contextmanager
def without_retries() -> Iterator[None]:
    """Within, everything is final: a person who looks on is told at once, and decides when to try again."""
    token = _again.set(False)
    try:
        yield
    finally:
        _again.reset(token)


def tag_run(context: dg.OpExecutionContext | dg.AssetExecutionContext, tags: Mapping[str, Any]) -> None:
    """Write what a run did into its tags, so that the list of runs tells it."""
    found = {f"{TAG}{name}": str(value) for name, value in tags.items()}
    context.instance.add_run_tags(context.run_id, found)
