"""How runs behave: which pool they wait for, what is tried again, what they write into their tags."""

import functools
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import dagster as dg
from pymongo.errors import AutoReconnect, NetworkTimeout, ServerSelectionTimeoutError

from gh_assets.errors import ConcurrentWriteError, OutageError, RateLimitedError, ServiceUnavailableError

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

RETRIES = 3

FIRST_WAIT = 20.0
"""Seconds before the first retry; twice that before the second, and so on, give or take a quarter."""

TAG = "gh_assets/"
"""Before the names of the tags that runs get."""

_again = ContextVar("_again", default=True)
"""Whether errors that may be over soon are tried again here."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def retry_transient(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Of a computation: let Dagster start it again after a `TRANSIENT` error, later and later.

    Not by a `dagster.RetryPolicy`: that would start a run again that somebody cancelled, too.
    """

    @functools.wraps(function)
    def guarded(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        try:
            return function(*arguments, **named)
        except TRANSIENT as error:
            if not _again.get():
                raise
            spread = 0.75 + secrets.randbelow(51) / 100  # many runs that fail at once must not come back at once
            wait = FIRST_WAIT * 2 ** _retry_number(arguments[0]) * spread
            raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=wait) from error

    return guarded


def _retry_number(context: object) -> int:
    if isinstance(context, dg.AssetExecutionContext):
        context = context.op_execution_context
    assert isinstance(context, dg.OpExecutionContext), "the context is the first argument"
    return context.retry_number


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
    context.instance.add_run_tags(context.run.run_id, found)
