"""What the assets share: names, the partitions, and metadata that a person reads."""

import base64
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import dagster as dg
import numpy as np
import polars as pl
from dagster._core.events import DagsterEvent, DagsterEventBatchMetadata
from dagster._core.execution.context.metadata_logging import (
    AssetMetadataHandle,
    OutputMetadataAccumulator,
    OutputMetadataHandle,
)

from gh_assets.collector.lists.awesome import is_full_name
from gh_assets.schemas import TableSchema
from gh_assets.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

OWNERS = ["team:recommender"]

COLLECTION = "collection"
RECOMMENDER = "recommender"

REPO_PARTITIONS = dg.DynamicPartitionsDefinition(name="repo")
"""One partition a repository, keyed by the name under which it was first seen."""

LOG_SECONDS = 5.0

SAFE_MARKDOWN = re.compile(r"(?!.*www\.)(?:[^\W_]|[ .,%+/-])*", re.IGNORECASE)
"""Text of which Markdown makes nothing else: no emphasis (`_a_`) and no link (`www.`)."""


def column_schema(schema: TableSchema) -> dg.TableSchema:
    """The table's columns as Dagster shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name,
                type=str(column.dtype),
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for name, column in schema.columns.items()
        ]
    )


def table_metadata(schema: TableSchema) -> dict[str, Any]:
    """Metadata of an asset's definition."""
    return {"dagster/column_schema": column_schema(schema)}


def preview(table: pl.DataFrame, rows: int = 8) -> dg.MarkdownMetadataValue:
    """The first rows as a Markdown table."""
    return markdown_table(table.columns, table.head(rows).rows())


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> dg.MarkdownMetadataValue:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads somewhere."""

    text: str
    address: str


def github_link(full_name: str, settings: Settings) -> Link | str:
    """A repository's page, where there is a GitHub that people can look at."""
    if settings.uses_standin or not is_full_name(full_name):
        return full_name
    host = urlsplit(settings.github_api_url)
    place = "github.com" if host.hostname == "api.github.com" else host.netloc
    return Link(full_name, f"{host.scheme}://{place}/{full_name}")


def _cell(value: Any) -> str:
    if isinstance(value, Link):
        return f"[{_cell(value.text)}]({quote(value.address, safe=':/')})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_cell(entry) for entry in value)
    if value is None:
        return ""
    # Descriptions come from strangers: what Markdown or HTML would make of them must not happen in the UI. Within a
    # code span nothing means anything but its end, and the end of the cell.
    text = " ".join(str(value).split())[:120]
    if SAFE_MARKDOWN.fullmatch(text):
        return text
    return "`" + text.replace("`", "'").replace("\\", "/").replace("|", "¦") + "`"


def learning_curve(history: Sequence[Mapping[str, float]], metric: str) -> dg.MarkdownMetadataValue:
    """Loss and validation metric by epoch, as a picture."""
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
    """How long something is, from one to many, as a picture with logarithmic axes."""
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
    """A matplotlib figure that the UI shows within the metadata."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{encoded})")


def add_partition_metadata(context: dg.AssetExecutionContext, metadata: Mapping[str, Mapping[str, str | int]]) -> None:
    """Give each partition of a run its own metadata.

    Dagster's `context.add_asset_metadata(..., partition_key=...)` does the same for one partition, but reads all
    partitions from the database and copies all metadata so far at each call: 88 s for 4,761 partitions, against
    milliseconds for setting them at once. It has no public call for many.
    """
    step = context.get_step_execution_context()
    handles: dict[OutputMetadataHandle | AssetMetadataHandle, Mapping[str, Any]] = {
        AssetMetadataHandle(asset_key=context.asset_key, partition_key=key): entries
        for key, entries in metadata.items()
    }
    step._metadata_accumulator = OutputMetadataAccumulator(
        per_output_metadata={**step._metadata_accumulator.per_output_metadata, **handles}
    )


def report_materializations(
    context: dg.OpExecutionContext, asset_key: dg.AssetKey, metadata: Mapping[str, Mapping[str, Any]]
) -> None:
    """Report from an op that partitions of an asset were materialized, however many and scattered they are.

    `context.log_event` does the same for one, in transactions of its own: 9 ms each. Dagster writes events of one
    batch together, but says so only to its own code.
    """
    step = context.get_step_execution_context()
    batch = secrets.token_hex(8)
    for number, (partition, entries) in enumerate(metadata.items(), start=1):
        DagsterEvent.asset_materialization(
            step,
            dg.AssetMaterialization(asset_key, partition=partition, metadata=dict(entries)),
            DagsterEventBatchMetadata(batch, is_end=number == len(metadata)),
        )


@contextmanager
def measure_seconds() -> Iterator[dict[str, dg.FloatMetadataValue]]:
    """Gives metadata that hold the seconds of the block when it has ended."""
    metadata: dict[str, dg.FloatMetadataValue] = {}
    started = time.perf_counter()
    yield metadata
    metadata["seconds"] = dg.MetadataValue.float(round(time.perf_counter() - started, 2))


def throttled(log: Callable[[str], None], seconds: float = LOG_SECONDS) -> Callable[[str], None]:
    """A log that takes one message in so many seconds and drops those between: events are dear in Dagster."""
    last = time.monotonic()

    def write(message: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            log(message)

    return write
