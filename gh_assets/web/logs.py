"""Logs of the server: one JSON object a line, without anything of what people ask for."""

from __future__ import annotations

import datetime as dt
import logging
import sys
from typing import IO

import orjson

QUIET = ("urllib3", "google", "pymongo", "asyncio", "uvicorn.access", "dagster")
"""Loggers of which only warnings are of interest."""


class JsonLines(logging.Formatter):
    """Records as JSON; a record's attribute ``fields`` adds its own."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line |= fields
        if record.exc_info and record.exc_info[1] is not None:
            # Where it happened, not what it said: messages of libraries repeat addresses and more.
            line["error"] = type(record.exc_info[1]).__name__
            line["where"] = _innermost(record)
        return orjson.dumps(line, default=str).decode()


def _innermost(record: logging.LogRecord) -> str | None:
    trace = record.exc_info[2] if record.exc_info else None
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"


def log_json(level: int = logging.INFO, stream: IO[str] | None = None) -> None:
    """Send all logs of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
