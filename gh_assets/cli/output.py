"""What commands print: tables and JSON documents on stdout, messages and progress on stderr."""

import codecs
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.markup import escape as escape
from rich.table import Column
from rich.table import Table as Table

from gh_assets.local.progress import Progress

stderr = Console(stderr=True, highlight=False)

PLAIN_CHARACTERS = {"★": "*", "×": "x", "–": "-", "…": "...", "→": "->", "’": "'", "“": '"', "”": '"', "·": "-"}
"""Replacements for characters that a terminal's encoding lacks."""

WIDTH_WITHOUT_TERMINAL = 200
"""Columns of a table in a file or a pipe, which has no edge to wrap at."""

SECONDS_BETWEEN_LINES = 5.0
"""Shortest time between two lines of progress of one asset where stderr is no terminal."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


def stdout() -> Console:
    """Return a console for results."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)


def wrapping(name: str) -> Column:
    """Return a table column that wraps long values instead of cutting them off."""
    return Column(name, overflow="fold")


def counts(numbers: Mapping[str, int]) -> str:
    """Format counts by name, the largest first: ``12 ok, 3 gone``."""
    return ", ".join(f"{count:,} {name}" for name, count in sorted(numbers.items(), key=lambda entry: -entry[1]))


def models_table(models: list[dict[str, Any]]) -> Table:
    """Return the table of registered models; see `gh_assets.cli.documents.model_json`."""
    columns = ("", "model", "version", "tags", "score", "metric", "time (UTC)", "MB", "SHA-256")
    table = Table(*columns, title="Models", title_justify="left")
    for model in models:
        table.add_row(
            "★" if "champion" in model["aliases"] else "",
            model["name"],
            str(model["version"] or ""),
            ", ".join(model["tags"]),
            "" if model["score"] is None else f"{model['score']:.4f}",
            model["metric"],
            model["time"][:19].replace("T", " "),
            "" if model["size"] is None else f"{model['size'] / 1e6:.1f}",
            (model["sha256"] or "")[:12],
        )
    return table


def findings_table(subject: str, findings: Sequence[tuple[bool, str, str]]) -> Table:
    """Return the table of what checks found: whether it is right, what was checked, and the finding."""
    table = Table("", subject, wrapping("finding"))
    for ok, checked, finding in findings:
        table.add_row("[green]ok[/]" if ok else "[red]wrong[/]", checked, escape(finding))
    return table


def print_json(document: Any) -> None:
    """Print a JSON document, in ASCII where stdout's encoding is not Unicode."""
    unicode = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    click.echo(json.dumps(document, ensure_ascii=not unicode, indent=2))


def report(document: Any, text: RenderableType, as_json: bool) -> None:
    """Print the result of a command as a JSON document, or as text or a table."""
    if as_json:
        print_json(document)
    else:
        stdout().print(text)


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Show a progress bar per asset on a terminal, and occasional lines elsewhere."""
    from rich import progress as bars

    if not stderr.is_terminal:
        last: dict[str, float] = {}

        def print_line(asset: str, done: int, total: int, text: str) -> None:
            if done >= total or time.monotonic() - last.get(asset, 0.0) >= SECONDS_BETWEEN_LINES:
                last[asset] = time.monotonic()
                stderr.print(f"{asset}: {done} of {total} {text}".rstrip())

        yield Progress(print_line, stderr.print)
        return
    columns = (
        bars.TextColumn("{task.description:<18}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("{task.fields[text]}"),
    )
    with bars.Progress(*columns, console=stderr) as display:
        tasks: dict[str, bars.TaskID] = {}

        def update_bar(asset: str, done: int, total: int, text: str) -> None:
            if asset not in tasks:
                tasks[asset] = display.add_task(asset, total=total, text=text)
            display.update(tasks[asset], completed=done, total=total, text=text)

        yield Progress(update_bar, stderr.print)


def prepare_terminal() -> None:
    """Replace characters that a terminal's encoding lacks instead of failing on them."""
    codecs.register_error("gh_assets.transliterate", _transliterate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="gh_assets.transliterate")


def _transliterate(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN_CHARACTERS.get(character, "?") for character in text), error.end


def discard_output() -> None:
    """Keep Python from trying again, when it exits, to write what could not be written."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
            continue
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
