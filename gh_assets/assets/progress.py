"""Progress of an asset: on the terminal of the process that runs it, and now and then in the run's log."""

import time
from collections.abc import Callable

import dagster as dg

from gh_assets.local import progress
from gh_assets.local.progress import Progress

LOG_SECONDS = 5.0


def asset_progress(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Progress:
    """Return a receiver of progress that also writes into the log of a run.

    Sentences are always logged; reports at most once in `LOG_SECONDS`, because events cost much in Dagster.
    """
    log = throttled(context.log.info)

    def report(step: str, done: int, total: int, text: str) -> None:
        progress.report(step, done, total, text)
        log(f"{done} of {total}" + (f": {text}" if text else ""))

    def notify(text: str) -> None:
        progress.notify(text)
        context.log.info(text)

    return Progress(report, notify)


def throttled(log: Callable[[str], None], seconds: float = LOG_SECONDS) -> Callable[[str], None]:
    """Return a log that passes one message in `seconds` and drops those between."""
    last = time.monotonic()

    def write(message: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            log(message)

    return write
