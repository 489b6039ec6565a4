"""Logs of the server: one JSON object per line, without anything that tells who requested what."""

import datetime as dt
import logging
from types import TracebackType

import orjson

QUIET = ("urllib3", "google", "pymongo", "asyncio", "uvicorn.access", "dagster")
"""Loggers that write only warnings and errors."""


class JsonLines(logging.Formatter):
    """Format records as JSON; the entries of a record's attribute ``fields`` are added to the line."""

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
            # Without the message: those of libraries contain addresses, and sometimes credentials.
            line["error"] = type(record.exc_info[1]).__name__
            line["where"] = _location(record.exc_info[2])
        return orjson.dumps(line, default=str).decode()


def _location(trace: TracebackType | None) -> str | None:
    """File and line of the innermost frame."""
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"


def log_json() -> None:
    """Write all logs of this process as JSON lines to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
