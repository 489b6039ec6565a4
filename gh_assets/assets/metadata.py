"""Metadata that the UI shows: tables, figures, and what several assets report."""

import base64
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg
import numpy as np
import polars as pl

from gh_assets.collector.collection import CollectionResult
from gh_assets.collector.state import RepositoryState
from gh_assets.github.names import is_full_name
from gh_assets.registry import RegisteredModel
from gh_assets.registry.documents import leaderboard
from gh_assets.schemas import TableSchema

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from gh_assets.instance.internals import RawMetadataValue

MAX_REASON = 300
"""Characters of a reason in a partition's metadata."""

SAFE_MARKDOWN = re.compile(r"(?!.*www\.)(?:[^\W_]|[ .,%+/-])*", re.IGNORECASE)
"""Text that Markdown leaves as it is: no emphasis (`_a_`) and no link (`www.`)."""


def table_metadata(schema: TableSchema) -> dict[str, Any]:
    """Return the metadata of the definition of an asset that stores a table: its columns, as Dagster shows them."""
    columns = [
        dg.TableColumn(
            name,
            type=str(column.dtype),
            description=column.description,
            constraints=dg.TableColumnConstraints(nullable=column.nullable),
        )
        for name, column in schema.columns.items()
    ]
    return {"dagster/column_schema": dg.TableSchema(columns=columns)}


def preview(table: pl.DataFrame, rows: int = 8) -> dg.MarkdownMetadataValue:
    """Return the first rows as a Markdown table."""
    return markdown_table(table.columns, table.head(rows).rows())


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> dg.MarkdownMetadataValue:
    """Return a Markdown table; all cells but links are text, whatever they contain."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


@dataclass(frozen=True)
class Link:
    """A cell of a table that links to a page."""

    text: str
    address: str


def github_link(full_name: str, web_url: str | None) -> Link | str:
    """Return a link to a repository's page; its name alone if there is no page.

    Parameters
    ----------
    full_name : str
    web_url : str or None
        Address of GitHub's pages.
    """
    if web_url is None or not is_full_name(full_name):
        return full_name
    return Link(full_name, f"{web_url}/{full_name}")


def _cell(value: Any) -> str:
    if isinstance(value, Link):
        return f"[{_cell(value.text)}]({quote(value.address, safe=':/')})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_cell(entry) for entry in value)
    if value is None:
        return ""
    # Descriptions are other people's text: the UI must not render their Markdown or HTML. Within a code span, nothing
    # has a meaning but the end of the span and of the cell.
    text = " ".join(str(value).split())[:120]
    if SAFE_MARKDOWN.fullmatch(text):
        return text
    return "`" + text.replace("`", "'").replace("\\", "/").replace("|", "¦") + "`"


def learning_curve(history: Sequence[Mapping[str, float]], metric: str) -> dg.MarkdownMetadataValue:
    """Return a plot of the loss and the validation metric by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left = figure.add_subplot()
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["loss"] for row in history], color="tab:gray", label="training loss")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss")
    if history and metric in history[0]:
        right = left.twinx()
        values = [row[metric] for row in history]
        best = max(range(len(values)), key=values.__getitem__)
        right.plot(epochs, values, color="tab:blue")
        right.plot(epochs[best], values[best], "o", color="tab:blue")
        right.annotate(f"{values[best]:.4f}", (epochs[best], values[best]), xytext=(6, -12), textcoords="offset points")
        right.set_ylabel(f"validation {metric}", color="tab:blue")
    return figure_metadata(figure, "Learning curve")


def length_histogram(values: "NDArray[np.int64]", label: str, title: str) -> dg.MarkdownMetadataValue:
    """Return a histogram of lengths with logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.add_subplot()
    if len(values):
        axes.hist(values, bins=np.geomspace(1, max(10, int(values.max()) + 1), 40).tolist(), color="tab:blue")
        axes.axvline(float(np.median(values)), color="tab:orange", linestyle="--", label="median")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.legend()
    axes.set_xlabel(label)
    return figure_metadata(figure, title)


def figure_metadata(figure: "Figure", title: str) -> dg.MarkdownMetadataValue:
    """Return a matplotlib figure as an image that the UI shows."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{encoded})")


def model_metadata(model: RegisteredModel, history: Sequence[Mapping[str, float]]) -> "dict[str, RawMetadataValue]":
    """Return the metadata of a registered model, with its learning curve if it was trained in epochs."""
    board = leaderboard(model)
    header = ["model", *next(iter(board.values()))]
    metrics = {name.replace("@", "_at_").replace(" ", "_"): float(value) for name, value in model.metrics.items()}
    return {
        "model": model.name,
        "version": model.version,
        "tag": model.tag,
        "score": float(model.score or 0.0),
        "metric": model.metric,
        "uri": dg.MetadataValue.path(model.uri),
        "bytes": model.size,
        "sha256": model.sha256,
        "leaderboard": markdown_table(header, [(name, *values.values()) for name, values in board.items()]),
        **({"learning_curve": learning_curve(history, model.metric), "epochs": len(history)} if history else {}),
        **metrics,
    }


def partition_metadata(state: RepositoryState) -> dict[str, str | int]:
    """Return the metadata of a partition of `stargazers`: few, because a run writes them for thousands."""
    metadata = {
        "outcome": state.outcome.value,
        "dagster/row_count": state.stars,
        "source": state.source,
        "reason": state.reason[:MAX_REASON] if state.reason else None,
    }
    return {name: value for name, value in metadata.items() if value is not None}


def collection_metadata(result: CollectionResult, source: str) -> "dict[str, RawMetadataValue]":
    """Return the metadata of a run that collected stars."""
    report = result.report
    metadata: dict[str, RawMetadataValue | None] = {
        "run_source": source,
        "run_forecast": result.forecast.summary(),
        "run_repositories_asked": report.asked,
        "run_pages": report.pages,
        "run_pages_not_modified": report.pages_not_modified,
        "run_requests": result.requests,
        "run_graphql_points": result.points,
        "run_stars": report.stars,
        "run_stars_taken_back": report.unstarred,
        "run_lists_closed": report.closed,
        "run_outcomes": ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.most_common()),
        **{f"run_quota_left_{resource}": left for resource, left in result.quota_left.items()},
        "run_users_asked": None if result.users is None else result.users.collected,
        "run_rows_left_out": " ".join(result.notes) or None,
        "run_stopped": report.stopped,
    }
    return {name: value for name, value in metadata.items() if value is not None}


@contextmanager
def measure_seconds() -> Iterator[dict[str, dg.FloatMetadataValue]]:
    """Yield metadata that hold the duration of the block once it has ended."""
    metadata: dict[str, dg.FloatMetadataValue] = {}
    started = time.perf_counter()
    yield metadata
    metadata["seconds"] = dg.MetadataValue.float(round(time.perf_counter() - started, 2))
