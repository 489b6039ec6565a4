"""Reading input tables, Parquet or delimited text: the wanted columns, each as text or as times.

The meaning of the values is in `gh_assets.collector.stars_file` and `gh_assets.collector.seed_users`.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gh_assets.errors import InputError

DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|", ".tab": "\t,;|"}
"""Possible delimiters by file suffix, the most likely first. The header decides."""

_HEAD = 64 * 1024
_PARQUET = b"PAR1"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class InputTable:
    """Wanted columns of a file.

    Attributes
    ----------
    frame : polars.DataFrame
        The wanted columns that the file has, by their names in lower case: text, or times (Date or Datetime) where
        Parquet has them in a column that is not required. The column ``row`` is the line of a text file (the header is
        line 1) or the row of a Parquet file, from 1. Empty lines are left out.
    header : sequence of str
        All column names of the file.
    ragged : sequence of (int, int)
        Rows that are not in the frame because they have more non-empty fields than the header, so that values cannot be
        assigned to columns: the row, and its number of fields.
    """

    frame: pl.DataFrame
    header: Sequence[str]
    ragged: Sequence[tuple[int, int]] = ()


def is_table(path: Path) -> bool:
    """Return whether a path has the suffix of a table."""
    return _suffix(path) in (".parquet", *DELIMITERS)


def _suffix(path: Path) -> str:
    """Return the suffix in lower case, without the one of compression."""
    return (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()


def read_table(path: Path, wanted: Sequence[str], required: Collection[str], what: str) -> InputTable:
    """Read some columns of a Parquet file or delimited text.

    Parameters
    ----------
    path : Path
        Ends in ``.parquet``, ``.csv``, ``.tsv`` or ``.tab``, in any case; text files may also end in ``.gz``. Text is
        UTF-8 or UTF-16; its columns are separated by commas, semicolons, tabs or vertical bars.
    wanted : sequence of str
        Column names in lower case; the file may have them in any case, with spaces around them.
    required : collection of str
        Column names that must be present.
    what : str
        Name of the file in errors, such as ``stars file``.

    Raises
    ------
    InputError
        If the file cannot be read, or a column is missing, repeated, or of a type that cannot be converted to text.
    """
    title = f"The {what} {path}"
    suffix = _suffix(path)
    if suffix != ".parquet" and suffix not in DELIMITERS:
        raise InputError(
            f"{title} has none of the endings .parquet, {', '.join(DELIMITERS)} (a text may also end in .gz)."
        )
    with naming_errors(title, f" as {suffix[1:]}"):
        with path.open("rb") as file:
            is_parquet = file.read(4) == _PARQUET
        if is_parquet or suffix == ".parquet":
            return _read_parquet(path, wanted, required, title)
        return _read_text(read_text(path), DELIMITERS[suffix], wanted, required, title)


@contextmanager
def naming_errors(title: str, form: str = "") -> Iterator[None]:
    """Raise errors of reading a file as an `InputError` of one sentence, without the text of a library."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{title} does not exist.") from None
    except IsADirectoryError:
        raise InputError(f"{title} is a folder: name the file in it.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{title} cannot be read{form}: its gzip compression is broken or cut off.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{title} cannot be read{form}: it is no text in UTF-8 or UTF-16.") from error
    except OSError as error:
        raise InputError(f"{title} cannot be read{form}: {error.strerror or 'it could not be opened'}.") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise InputError(f"{title} cannot be read{form}: its content is of another form, or cut off.") from error


def _read_parquet(path: Path, wanted: Sequence[str], required: Collection[str], title: str) -> InputTable:
    header = list(pl.read_parquet_schema(path))
    places = _places(header, wanted, required, title)
    frame = pl.read_parquet(path, columns=[header[place] for place in places.values()])
    columns = [_as_text(frame[header[place]], title, name in required).alias(name) for name, place in places.items()]
    return InputTable(pl.DataFrame(columns).with_row_index("row", offset=1), header)


def read_text(path: Path) -> bytes:
    """Read text, which may be UTF-16 or compressed by gzip; see `as_utf8`."""
    content = path.read_bytes()
    return as_utf8(gzip.decompress(content) if content.startswith(_GZIP) else content)


def as_utf8(content: bytes) -> bytes:
    """Convert text, which may be UTF-16, to UTF-8 without byte order mark and with line feeds."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        content = content.decode("utf-16").encode()
    elif b"\0" in content[:2] and content[:2] != b"\0\0":  # ASCII as UTF-16 without its mark
        content = content.decode("utf-16-be" if content[0] == 0 else "utf-16-le").encode()
    content = content.removeprefix(b"\xef\xbb\xbf")
    # Carriage returns are line ends only if the first line has one; otherwise they are part of a value.
    if b"\r" in content.partition(b"\n")[0].rstrip(b"\r"):
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return content


def _read_text(
    content: bytes, delimiters: str, wanted: Sequence[str], required: Collection[str], title: str
) -> InputTable:
    # Spreadsheets may write empty lines before the header, or a line that names the delimiter.
    before = re.match(rb"\s*(?:sep=(.)[ \t\r]*\n)?\s*", content)
    assert before is not None
    if before[1]:
        delimiters = before[1].decode("latin-1")
    rest = content[before.end() :]
    if not rest:
        raise InputError(f"{title} is empty.")
    head = _plain_line_ends(rest[:_HEAD])
    headers = [_header(head, delimiter) for delimiter in delimiters]
    header, lines, delimiter = max(headers, key=lambda entry: len(_known(entry[0], wanted)))
    places = _places(header, wanted, required, title)
    body = b"".join(rest.split(b"\n", lines)[lines:])
    first = 1 + content[: before.end()].count(b"\n") + lines
    if b'"' in body:
        return _with_quotes(body, delimiter, header, places, first, title)
    return _without_quotes(body, delimiter, header, places, first)


def _plain_line_ends(content: bytes) -> str:
    """Decode text, with line feeds and without other carriage returns, which `csv` rejects."""
    return content.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", " ")


def _header(head: str, delimiter: str) -> tuple[list[str], int, str]:
    """Return the column names with this delimiter, their number of lines, and the delimiter."""
    reader = csv.reader(io.StringIO(head), delimiter=delimiter)
    return next(reader), reader.line_num, delimiter


def _without_quotes(
    body: bytes, delimiter: str, header: Sequence[str], places: Mapping[str, int], first: int
) -> InputTable:
    """Parse text in which each line is a row."""
    text = body.decode("utf-8", "replace").encode()
    lines = pl.read_lines(text, row_index_name="row", row_index_offset=first).cast({"row": pl.Int64})
    fields = pl.col("line").str.split(delimiter).alias("fields")
    rows = lines.filter(pl.col("line").str.strip_chars() != "").with_columns(fields)
    surplus = pl.col("fields").list.slice(len(header)).list.join("").str.strip_chars() != ""
    ragged = rows.filter(surplus).select("row", pl.col("fields").list.len()).rows()
    values = [pl.col("fields").list.get(place, null_on_oob=True).alias(name) for name, place in places.items()]
    return InputTable(rows.filter(~surplus).select("row", *values), header, ragged)


def _with_quotes(
    body: bytes, delimiter: str, header: Sequence[str], places: Mapping[str, int], first: int, title: str
) -> InputTable:
    """Parse text by Python's `csv`, with rows numbered by their first line.

    `csv` treats a quote inside an unquoted field as a character, as in ``5'10" tall``; polars would read all up to the
    next quote as one field.
    """
    text = _plain_line_ends(body)
    text += "" if text.endswith("\n") or not text else "\n"
    end = text.count("\n")
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    # The added line is a row of its own unless a quote is still open there.
    reader = csv.reader(io.StringIO(text + "end"), delimiter=delimiter)
    rows: list[tuple[int | str | None, ...]] = []
    ragged: list[tuple[int, int]] = []
    begins = 0
    try:
        for fields in reader:
            line, begins = begins, reader.line_num
            if line == end:
                break
            if begins > end:
                raise InputError(
                    f"{title} has a quote that is never closed, in the row that begins at line {line + first}: close "
                    "it, or remove it."
                )
            if any(field.strip() for field in fields[len(header) :]):
                ragged.append((line + first, len(fields)))
            elif len(fields) > 1 or "".join(fields).strip():
                values = (fields[place] if place < len(fields) else None for place in places.values())
                rows.append((line + first, *values))
    except csv.Error as error:
        raise InputError(f"{title} cannot be parsed from line {begins + first} on: correct that line.") from error
    schema = {"row": pl.Int64(), **dict.fromkeys(places, pl.String())}
    return InputTable(pl.DataFrame(rows, schema=schema, orient="row"), header, ragged)


def _known(header: Sequence[str], wanted: Sequence[str]) -> dict[str, list[int]]:
    """Return the positions of the wanted columns."""
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
            names = " and ".join(sorted(required, key=list(wanted).index))
            raise InputError(
                f"{title} has no column {name!r}; it has: {shown}. Its first line must name the "
                f"column{'s' if len(required) > 1 else ''} {names}."
            )
        if len(known.get(name, ())) > 1:
            raise InputError(f"{title} has the column {name!r} {len(known[name])} times: rename all but one.")
    return {name: known[name][0] for name in wanted if name in known}


def _as_text(column: pl.Series, title: str, is_required: bool) -> pl.Series:
    """Convert a column to text, unless it holds times and is not a required one."""
    dtype = column.dtype
    if dtype == pl.String or (not is_required and dtype in (pl.Date, pl.Datetime)):
        return column
    if dtype == pl.Binary:
        values = [None if value is None else value.decode("utf-8", "replace") for value in column.to_list()]
        return pl.Series(values, dtype=pl.String)
    if dtype.is_float():
        # Some programs write integers as decimals if one of them is missing.
        whole = column.cast(pl.Int64, strict=False)
        return whole.cast(pl.String).zip_with((whole == column).fill_null(value=False), column.cast(pl.String))
    if dtype.is_numeric() or dtype == pl.Null or isinstance(dtype, pl.Categorical | pl.Enum):
        return column.cast(pl.String)
    raise InputError(f"The column {column.name!r} of {title[0].lower() + title[1:]} is {dtype}, not text.")
