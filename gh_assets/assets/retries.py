"""Which errors of an asset or op are retried, and when."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import dagster as dg
from pymongo.errors import AutoReconnect, NetworkTimeout, ServerSelectionTimeoutError

from gh_assets.errors import ConcurrentWriteError, OutageError, RateLimitedError, ServiceUnavailableError
from gh_assets.local.backoff import Backoff

TRANSIENT = (
    ServiceUnavailableError,
    OutageError,
    RateLimitedError,
    ConcurrentWriteError,
    AutoReconnect,
    NetworkTimeout,
    ServerSelectionTimeoutError,
)
"""Errors that may be gone in a minute. A retry of any other error would fail again and spend quota."""

RETRIES = 3

FIRST_WAIT = 20.0
"""Seconds before the first retry; each further one waits twice as long."""

_retries_enabled = ContextVar("_retries_enabled", default=True)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def retry_transient(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let Dagster retry an asset's or op's function after a `TRANSIENT` error, with increasing waits.

    `dagster.RetryPolicy` would not do: it retries runs that were cancelled, too.
    """

    @functools.wraps(function)
    def guarded(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        try:
            return function(*arguments, **named)
        except TRANSIENT as error:
            if not _retries_enabled.get():
                raise
            backoff = Backoff(FIRST_WAIT, jitter=(0.75, 1.25))  # runs that fail together must not return together
            wait = backoff.wait(1 + _retry_number(arguments[0]))
            raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=wait) from error

    return guarded


def _retry_number(context: object) -> int:
    if isinstance(context, dg.AssetExecutionContext):
        context = context.op_execution_context
    assert isinstance(context, dg.OpExecutionContext), "the context is the first argument"
    return context.retry_number


@contextmanager
def without_retries() -> Iterator[None]:
    """Raise transient errors at once during the block, for a command whose user decides when to try again."""
    token = _retries_enabled.set(False)
    try:
        yield
    finally:
        _retries_enabled.reset(token)
