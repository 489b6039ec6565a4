"""Reading tables that people give, Parquet or delimited text: the wanted columns, each as text or as times.

What the values mean is no business of this module; see `gh_assets.collector.stars_file` and `read_seeds_file`.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gh_assets.errors import InputError

DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|", ".tab": "\t,;|"}
"""What may separate columns, likeliest first, by the name's ending. The header decides."""

UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError)
"""What reading a text may raise."""

_HEAD = 64 * 1024
_PARQUET = b"PAR1"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class InputTable:
    """The wanted columns of a file.

    Attributes
    ----------
    frame : polars.DataFrame
        The wanted columns that the file has, by their names in lower case: text, or times (Date or Datetime) where
        Parquet has them, and ``row``: for a text the line (the header is line 1, as an editor and a spreadsheet count),
        for Parquet the row from 1. Lines without any value are left out.
    header : sequence of str
        All column names, as the file has them.
    """

    frame: pl.DataFrame
    header: Sequence[str]


def is_table(path: Path) -> bool:
    """Whether the name is one of a table, not of another text."""
    return _suffix(path) in (".parquet", *DELIMITERS)


def _suffix(path: Path) -> str:
    """The name's ending in lower case, without that of compression."""
    return (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()


def read_table(path: Path, wanted: Sequence[str], required: Collection[str], what: str) -> InputTable:
    """Read some columns of a Parquet file or delimited text.

    Parameters
    ----------
    path : Path
        Ends in ``.parquet``, ``.csv``, ``.tsv`` or ``.tab``, in any case, a text also in ``.gz``. A text is UTF-8 or
        UTF-16; its columns are separated by commas, semicolons, tabs or bars.
    wanted : sequence of str
        Names of columns in lower case: the file may write them in any case, with spaces around them.
    required : collection of str
        Those that must be there.
    what : str
        What errors call the file, such as ``stars file``.

    Raises
    ------
    InputError
        If the file cannot be read, or a column is missing, there twice, or of a kind that is no text.
    """
    title = f"The {what} {path}"
    suffix = _suffix(path)
    if suffix != ".parquet" and suffix not in DELIMITERS:
        raise InputError(f"{title} is neither .parquet nor .csv or .tsv.")
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == _PARQUET
        if is_parquet or suffix == ".parquet":
            return _read_parquet(path, wanted, required, title)
        return _read_text(read_text(path), DELIMITERS[suffix], wanted, required, title)
    except FileNotFoundError:
        raise InputError(f"{title} does not exist.") from None
    except IsADirectoryError:
        raise InputError(f"{title} is a folder: name the file in it.") from None
    except (*UNREADABLE, csv.Error, pl.exceptions.PolarsError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0].rstrip(".") if lines else type(error).__name__
        raise InputError(f"{title} cannot be read as {suffix[1:]}: {reason}.") from error


def _read_parquet(path: Path, wanted: Sequence[str], required: Collection[str], title: str) -> InputTable:
    header = list(pl.read_parquet_schema(path))
    places = _places(header, wanted, required, title)
    frame = pl.read_parquet(path, columns=[header[place] for place in places.values()])
    columns = [_as_text(frame[header[place]], title).alias(name) for name, place in places.items()]
    return InputTable(pl.DataFrame(columns).with_row_index("row", offset=1), header)


def read_text(path: Path) -> bytes:
    """A text as UTF-8 without byte order mark, lines ended by line feeds; it may be UTF-16, or compressed by gzip."""
    content = path.read_bytes()
    if content.startswith(_GZIP):
        content = gzip.decompress(content)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        content = content.decode("utf-16").encode()
    elif b"\0" in content[:2] and content[:2] != b"\0\0":  # ASCII as UTF-16 without its mark
        content = content.decode("utf-16-be" if content[0] == 0 else "utf-16-le").encode()
    content = content.removeprefix(b"\xef\xbb\xbf")
    return content if b"\n" in content else content.replace(b"\r", b"\n")


def _read_text(
    content: bytes, delimiters: str, wanted: Sequence[str], required: Collection[str], title: str
) -> InputTable:
    # Spreadsheets may leave lines empty before the header, or name the delimiter in a line of its own.
    before = re.match(rb"\s*(?:sep=(.)[ \t\r]*\n)?\s*", content)
    assert before is not None
    if before[1]:
        delimiters = before[1].decode("latin-1")
    rest = content[before.end() :]
    if not rest:
        raise InputError(f"{title} is empty.")
    head = rest[:_HEAD].decode("utf-8", "replace")
    headers = [_header(head, delimiter) for delimiter in delimiters]
    header, lines, delimiter = max(headers, key=lambda entry: len(_known(entry[0], wanted)))
    places = _places(header, wanted, required, title)
    # Plain names in their place: what quotes and spaces mean in a header is decided once, here.
    plain = delimiter.join(f"column{place}" for place in range(len(header)))
    body = b"".join(rest.split(b"\n", lines)[lines:])
    frame = pl.read_csv(
        plain.encode() + b"\n" + body,
        separator=delimiter,
        columns=[f"column{place}" for place in places.values()],
        infer_schema=False,
        encoding="utf8-lossy",
        truncate_ragged_lines=True,
    )
    frame = frame.select(pl.col(f"column{place}").alias(name) for name, place in places.items())
    rows = _lines(body, delimiter, frame.height)
    blank = _blank(frame, rows, body)
    first = 1 + content[: before.end()].count(b"\n") + lines
    return InputTable(frame.select((rows + first).alias("row"), pl.all()).filter(~blank), header)


def _header(head: str, delimiter: str) -> tuple[list[str], int, str]:
    """Names of the columns if this is the delimiter, and how many lines they take."""
    reader = csv.reader(io.StringIO(head), delimiter=delimiter)
    return next(reader), reader.line_num, delimiter


def _lines(body: bytes, delimiter: str, height: int) -> pl.Series:
    """The line, from 0, at which each row begins."""
    lines = list(range(height))
    if body.count(b"\n") + (not body.endswith(b"\n")) > height:  # values hold line feeds
        reader = csv.reader(io.StringIO(body.decode("utf-8", "replace"), newline=""), delimiter=delimiter)
        with suppress(csv.Error):
            begun = [0, *(reader.line_num for _ in reader)]
            lines = begun[:height] if len(begun) > height else lines
    return pl.Series(lines, dtype=pl.Int64)


def _blank(frame: pl.DataFrame, rows: pl.Series, body: bytes) -> pl.Series:
    """Which rows are lines without anything in them; those of delimiters alone, or with values elsewhere, are not."""
    blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    if blank.any():
        lines = body.split(b"\n")
        return pl.Series(
            [empty and not lines[row].strip() for row, empty in zip(rows, blank, strict=True)], dtype=pl.Boolean
        )
    return blank


def _known(header: Sequence[str], wanted: Sequence[str]) -> dict[str, list[int]]:
    """Places of the wanted columns."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(header):
        plain = name.strip(" \t\r\n\"'\ufeff").lower()
        if plain in wanted:
            places.setdefault(plain, []).append(place)
    return places


def _places(header: Sequence[str], wanted: Sequence[str], required: Collection[str], title: str) -> dict[str, int]:
    known = _known(header, wanted)
    for name in wanted:
        if name in required and name not in known:
            shown = ", ".join(repr(column)[1:-1][:40] for column in header[:20]) or "none"
            raise InputError(
                f"{title} has no column {name!r}; it has: {shown}. Its first line must name the columns "
                f"{' and '.join(sorted(required, key=list(wanted).index))}."
            )
        if len(known.get(name, ())) > 1:
            raise InputError(f"{title} has the column {name!r} {len(known[name])} times: rename all but one.")
    return {name: known[name][0] for name in wanted if name in known}


def _as_text(column: pl.Series, title: str) -> pl.Series:
    """The column as text, or as it is if it holds times."""
    dtype = column.dtype
    if dtype in (pl.String, pl.Date) or isinstance(dtype, pl.Datetime):
        return column
    if dtype == pl.Binary:
        values = [None if value is None else value.decode("utf-8", "replace") for value in column.to_list()]
        return pl.Series(values, dtype=pl.String)
    if dtype.is_float():
        # Programs make decimals of whole numbers as soon as one of them is missing.
        whole = column.cast(pl.Int64, strict=False)
        return whole.cast(pl.String).zip_with((whole == column).fill_null(value=False), column.cast(pl.String))
    if dtype.is_numeric() or dtype == pl.Null or isinstance(dtype, pl.Categorical | pl.Enum):
        return column.cast(pl.String)
    raise InputError(f"The column {column.name!r} of {title[0].lower() + title[1:]} is {dtype}, not text.")
