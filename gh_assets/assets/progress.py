"""Progress of an asset: on the terminal of the process that runs it, and now and then in the run's log."""

import time

import dagster as dg

from gh_assets.local import progress
from gh_assets.local.progress import Progress

LOG_SECONDS, MAX_LOG_SECONDS = 5.0, 60.0
"""Shortest time between two reports in the log of a run: a tenth of the time so far, within these bounds."""


def asset_progress(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Progress:
    """Return a receiver of progress that also writes into the log of a run.

    Sentences are always logged; reports now and then (see `LOG_SECONDS`), because events cost much in Dagster.
    """
    began = logged_at = time.monotonic()

    def report(step: str, done: int, total: int, text: str) -> None:
        nonlocal logged_at
        progress.report(step, done, total, text)
        now = time.monotonic()
        if now - logged_at >= min(max(LOG_SECONDS, 0.1 * (now - began)), MAX_LOG_SECONDS):
            logged_at = now
            context.log.info(f"{done} of {total}" + (f": {text}" if text else ""))

    def notify(text: str) -> None:
        progress.notify(text)
        context.log.info(text)

    return Progress(report, notify)
