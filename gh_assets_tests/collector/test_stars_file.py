"""Files of stars: accepted formats and spellings, and errors about others."""

import datetime as dt
import gzip
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gh_assets.collector.seed_users import read_seeds_file
from gh_assets.collector.stars_file import read_stars
from gh_assets.errors import InputError
from gh_assets_tests.support.paths import CHECKOUT

CASES = CHECKOUT / "gh_assets_tests" / "cases" / "stars"


def read_table_of(path: Path) -> pl.DataFrame:
    return read_stars(path).table


def write(name: str, **columns: Any) -> Path:
    """Write a table, by default with one star, to the test's folder."""
    path, table = Path(name), pl.DataFrame({"repo": ["a/b"], "login": ["x"]} | columns)
    table.write_parquet(path) if path.suffix == ".parquet" else table.write_csv(path)
    return path


def text(content: str | bytes, name: str = "s.csv") -> Path:
    path = Path(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def utc(*moment: int) -> dt.datetime:
    return dt.datetime(*moment, tzinfo=dt.UTC)  # type: ignore[arg-type, misc]


def pairs(path: Path) -> list[tuple[str, str]]:
    return read_table_of(path).select("repo", "login").rows()


def is_read_as(path: Path, *stars: tuple[str, str], skipped: int = 0) -> bool:
    """Whether a file has these stars, and this number of rows that cannot be used."""
    contents = read_stars(path)
    return contents.table.select("repo", "login").rows() == list(stars) and contents.skipped.count == skipped


# -- the examples ------------------------------------------------------------------------------------------------------

FIRST, SECOND, THIRD = utc(2020, 1, 2, 3, 4, 5), utc(2017, 1, 1), utc(2012, 1, 1)

EXAMPLES: dict[str, tuple[tuple[int, int, int], list[dt.datetime]]] = {
    "epoch-milliseconds.csv": ((3, 2, 2), [FIRST, SECOND, THIRD]),
    "epoch-seconds.csv": ((3, 2, 2), [FIRST, SECOND, THIRD]),
    "epoch-floats.csv": ((2, 2, 1), [FIRST, SECOND.replace(microsecond=500_000)]),
    "bigquery.csv": ((2, 2, 1), [FIRST, FIRST.replace(microsecond=250_000)]),
    "digits-only-logins.csv": ((121, 120, 8), []),
    "unused-column-turns-decimal.csv": ((151, 2, 150), []),
    "semicolons.csv": ((2, 2, 2), []),
    "capital-headers.csv": ((2, 2, 2), []),
    "addresses.csv": ((3, 3, 3), []),
    "impossible.csv": ((2, 2, 2), []),
    "one-id-two-names.csv": ((4, 3, 3), []),
}
"""Numbers of stars, repositories and users, and the known times."""

REFUSED = {
    "ambiguous-date.csv": "Row 2 .*ambiguous starred_at '01/02/2020'.* Accepted forms are 2020-01-02T03:04:05Z",
    "huge-ids.csv": "Row 2 .* repo_id '99999999999999999999', which is no whole number from 1 to",
}


def test_every_example_has_an_expected_result() -> None:
    assert {path.name for path in CASES.glob("*.csv")} == {*EXAMPLES, *REFUSED}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_parsed(name: str) -> None:
    table = read_table_of(CASES / name)
    counts = table.height, table["repo_id"].n_unique(), table["user_id"].n_unique()
    assert (counts, table["starred_at"].drop_nulls().to_list()) == EXAMPLES[name]


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_example_is_an_error_that_names_the_row(name: str) -> None:
    with pytest.raises(InputError, match=REFUSED[name]):
        read_table_of(CASES / name)


def test_names_in_the_examples() -> None:
    assert pairs(CASES / "addresses.csv") == [("alpha/one", "ann"), ("alpha/two", "bob"), ("alpha/three", "cid")]
    assert pairs(CASES / "impossible.csv") == [("alpha/one", "ann"), ("alpha/three", "bob")]
    assert read_stars(CASES / "impossible.csv").skipped.sentence() == (
        "6 of 8 rows of impossible.csv were skipped: 2 rows have a repo that is not owner/name; 3 rows have no login; "
        "1 row has a login that is not a GitHub login (row 3: '../..' is not owner/name; "
        "row 4: 'alpha/..' is not owner/name; row 5: the login is empty; …)."
    )
    assert [seed.login for seed in read_seeds_file(CASES / "seed-users-with-bom.txt").seeds] == ["ann", "bob"]


# -- who and what a star is of -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stars.parquet", "stars.csv"])
def test_ids_follow_the_first_appearance_and_duplicates_are_dropped(name: str) -> None:
    path = write(name, repo=["b/x", "A/y", "a/Y", "b/x"], login=["Zoe", "ann", "zoe", "zoe"])
    assert read_table_of(path).rows() == [
        ("b/x", "Zoe", 1, 1, None),
        ("A/y", "ann", 2, 2, None),
        ("A/y", "Zoe", 2, 1, None),
    ]


def test_ids_and_times_of_the_file_are_kept() -> None:
    path = write(
        "s.csv",
        repo=["a/b", "a/b", "a/b"],
        login=["x", "y", "z"],
        repo_id=[9, 9, 9],
        user_id=[4, 5, 6],
        starred_at=["2020-01-02T03:04:05Z", "2020-01-02T03:04:05+01:00", None],
    )
    contents = read_stars(path)
    assert (contents.has_repo_ids, contents.has_user_ids) == (True, True)
    assert contents.table["user_id"].to_list() == [4, 5, 6]
    assert contents.table["starred_at"].to_list() == [FIRST, FIRST - dt.timedelta(hours=1), None]


def test_id_has_its_newest_name_and_two_ids_may_share_a_name() -> None:
    contents = read_stars(CASES / "one-id-two-names.csv")
    assert contents.table.select("repo", "repo_id", "user_id").rows() == [
        ("new/name", 10, 1), ("new/name", 10, 2), ("other/one", 11, 1), ("other/one", 12, 3),
    ]  # fmt: skip
    assert contents.former_names == {10: ["old/name"]}
    path = text(
        "repo,login,repo_id,user_id,starred_at\n"
        "new/name,late,10,1,2021-01-01\nold/name,early,10,1,2019-01-01\nold/name,early,10,2,\n"
    )
    assert read_table_of(path).select("repo", "login", "user_id").rows() == [
        ("new/name", "late", 1), ("new/name", "early", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "written",
    ["alpha/one", "  alpha/one ", "alpha / one", "'alpha/one'", "alpha/one.git", "https://github.com/alpha/one",
     "http://www.github.com/alpha/one/", "github.com/alpha/one", "HTTPS://GitHub.com/alpha/one.git",
     "git@github.com:alpha/one.git", "ssh://git@github.com/alpha/one.git", "git+https://github.com/alpha/one.git",
     "https://github.com/alpha/one/blob/main/README.md?plain=1#usage", "https://api.github.com/repos/alpha/one"],
)  # fmt: skip
def test_spellings_of_a_repository(written: str) -> None:
    assert pairs(write("s.csv", repo=[written])) == [("alpha/one", "x")]


@pytest.mark.parametrize(
    ("written", "login"),
    [("@ann", "ann"), (" ann ", "ann"), ("https://github.com/ann", "ann"), ("github.com/ann/?tab=stars", "ann"),
     ("https://www.github.com/ann#x", "ann"), ("https://api.github.com/users/ann", "ann"), ("007", "007"),
     ("dependabot[bot]", "dependabot[bot]"), ("octo-cat_acme", "octo-cat_acme"), ("null", "null"), ("NaN", "NaN")],
)  # fmt: skip
def test_spellings_of_a_user(written: str, login: str) -> None:
    assert pairs(write("s.csv", login=[written])) == [("a/b", login)]


@pytest.mark.parametrize(
    ("repo", "login"),
    [("../..", "ann"), ("alpha/.", "ann"), ("alpha", "ann"), ("alpha/one/two", "ann"), ("/alpha/one", "ann"),
     ("alpha/.git", "ann"), ("-alpha/one", "ann"), ("https://gitlab.com/alpha/one", "ann"), ("", "ann"),
     ("alpha/" + "n" * 101, "ann"), ("älpha/one", "ann"), ("alpha/öne", "ann"), (None, "ann"), ("alpha/o\0ne", "ann"),
     ("alpha/one", None), ("alpha/one", "  "), ("alpha/one", "-bad-"), ("alpha/one", "a b"), ("alpha/one", "a/b"),
     ("alpha/one", "ann@example.org"), ("alpha/one", "x" * 40), ("alpha/one", "https://github.com/ann/one")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_rows_without_user_or_repository_are_skipped(name: str, repo: str, login: str) -> None:
    path = write(name, repo=["beta/fine", repo], login=["bob", login])
    contents = read_stars(path)
    assert contents.table.select("repo", "login").rows() == [("beta/fine", "bob")]
    assert (contents.skipped.count, contents.skipped.total) == (1, 2)
    assert f"row {3 if name == 's.csv' else 2}: " in contents.skipped.sentence()
    with pytest.raises(InputError, match=r"no star that can be used\. 1 of 1 row of"):
        read_stars(write(f"all-{name}", repo=pl.Series([repo], dtype=pl.String), login=[login or ""]))


# -- times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    ["2020-01-02T03:04:05Z", "2020-01-02 03:04:05", "2020-01-02 03:04:05 UTC", "2020-01-02T03:04:05.000000+00:00",
     "2020-01-02T04:04:05+01:00", "2020-01-02 04:04:05 +0100", "2020-01-02T04:04:05+01", "2020-01-02t03:04:05z",
     "2020-01-02T03:04:05.000000000Z", " 2020-01-02 03:04:05 ", "1577934245", "1577934245000", "1577934245000000",
     "1577934245000000000", "1577934245.0", "1.577934245e9", "1.577934245E+12", "1577934245000.0", "+1577934245"],
)  # fmt: skip
def test_spellings_of_a_time(written: str) -> None:
    path = write("s.csv", repo=["a/b", "a/c"], login=["x", "x"], starred_at=[written, "1483228800123"])
    assert read_table_of(path)["starred_at"].to_list() == [FIRST, SECOND.replace(microsecond=123_000)]


@pytest.mark.parametrize(
    ("written", "expected"),
    [("0", "that is 1970-01-01, before GitHub began"), ("-1", "1969-12-31, before"), ("20200102", "1970-08-22, before"),
     ("4102444800", "2100-01-01, in the future"), ("4102444800000", "2100-01-01, in the future"),
     ("2007-12-31", "2007-12-31, before"), ("2099-01-01T00:00:00Z", "2099-01-01, in the future"),
     ("2020-13-01", "no such day"), ("2020-02-30 10:00:00", "no such day"), ("2020-01-02T25:00:00", "day or time"),
     ("1/2/2020", "ambiguous"), ("01.02.2020 03:04", "ambiguous"), ("01-02-20", "ambiguous"),
     ("13/01/2020", "accepted form"), ("12/31/2019", "accepted form"), ("02.02.2020", "accepted form"),
     ("yesterday", "is not in an accepted form"), ("Jan 2 2020", "accepted form"), ("1e400", "accepted form"),
     ("2020-01-02T03:04:05 CET", "accepted form"), ("99999999999999999999999", "accepted form"),
     ("1.57793E+12", "whose last digits are lost"), ("1.57793E+09", "digits are lost"), ("1.58e15", "digits are lost"),
     ("1.5779342E+18", "digits are lost")],
)  # fmt: skip
def test_impossible_time_is_an_error_that_names_the_row(written: str, expected: str) -> None:
    path = write("s.csv", repo=["a/b", "a/c"], login=["x", "x"], starred_at=["2020-01-02", written])
    with pytest.raises(InputError, match=rf"Row 3 of .*{re.escape(written)}.* Accepted forms are ") as caught:
        read_table_of(path)
    assert expected in str(caught.value)


def test_unknown_time_is_null() -> None:
    path = text("repo,login,starred_at\na/b,x,\na/b,y,NULL\na/b,z,NaT\na/b,w\n")
    assert read_table_of(path)["starred_at"].to_list() == [None] * 4


BERLIN = pl.Series([FIRST]).dt.convert_time_zone("Europe/Berlin")


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [("starred_at", column, FIRST) for column in (
        pl.Series([FIRST.replace(tzinfo=None)]), pl.Series([FIRST.replace(tzinfo=None)], dtype=pl.Datetime("ns")),
        BERLIN, BERLIN.cast(pl.Datetime("ms", "Europe/Berlin")), pl.Series([1577934245], dtype=pl.Int32),
        pl.Series([1577934245000], dtype=pl.UInt64), pl.Series([1577934245.0]),
        pl.Series([Decimal("1577934245.000")]), pl.Series(["2020-01-02 03:04:05"]).cast(pl.Categorical),
        pl.Series([b"2020-01-02T03:04:05Z"]))]
    + [("user_id", column, 8) for column in (
        pl.Series([8], dtype=pl.Int32), pl.Series([8], dtype=pl.UInt64), pl.Series([8.0]), pl.Series([" 8.0 "]),
        pl.Series([Decimal(8)]), pl.Series(["8"]).cast(pl.Categorical))]
    + [("login", column, "1000") for column in (pl.Series([1000]), pl.Series([1000.0]))],
    ids=lambda value: str(getattr(value, "dtype", value)),
)  # fmt: skip
def test_values_of_all_parquet_types(name: str, column: pl.Series, value: object) -> None:
    assert read_table_of(write("s.parquet", **{name: column}))[name].to_list() == [value]
    if name == "user_id":
        assert read_table_of(write("s.csv", **{name: column}))[name].to_list() == [value]


# -- ids ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", ["0", "-5", "1.5", "seven", "9223372036854775808", "99999999999999999999", "1e3", "0x1f"]
)
@pytest.mark.parametrize("column", ["repo_id", "user_id"])
def test_impossible_id_is_an_error_that_names_the_row(column: str, bad: str) -> None:
    path = write("s.csv", repo=["a/b", "a/c"], login=["x", "y"], **{column: ["9223372036854775807", bad]})
    with pytest.raises(InputError, match=rf"Row 3 of .* has the {column} '{bad}', which is no whole number from 1 to"):
        read_table_of(path)


def test_column_of_ids_is_complete_or_empty() -> None:
    path = text("repo,login,user_id\na/b,x,7\na/b,y,\na/b,-,\n")
    with pytest.raises(InputError, match=r"Row 3 of .* has no user_id, while other rows have one \(1 of 2 have none\)"):
        read_table_of(path)
    contents = read_stars(text("repo,login,user_id\na/b,x,\na/b,y,\n"))
    assert (contents.has_user_ids, contents.table["user_id"].to_list()) == (False, [1, 2])


# -- files -------------------------------------------------------------------------------------------------------------

PLAIN = "repo,login,note\nalpha/one,ann,x\nalpha/two,bob,y\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [("s.csv", PLAIN.encode("utf-8-sig")), ("s.csv", PLAIN.replace("\n", "\r\n").encode()),
     ("s.csv", PLAIN.replace("\n", "\r").encode()), ("s.csv", PLAIN.encode("utf-16")),
     ("s.csv", PLAIN.encode("utf-16-le")), ("s.csv", PLAIN.encode("utf-16-be")),
     ("s.csv", PLAIN.replace("x", "caf\xe9").encode("latin-1")),
     ("S.CSV", PLAIN.encode()), ("s.tsv", PLAIN.replace(",", "\t").encode()), ("s.tsv", PLAIN.encode()),
     ("s.csv", PLAIN.replace(",", "\t").encode()), ("s.csv", PLAIN.replace(",", ";").encode()),
     ("s.csv", PLAIN.replace(",", "|").encode()), ("s.csv", b"sep=;\r\n" + PLAIN.replace(",", ";").encode()),
     ("s.csv.gz", gzip.compress(PLAIN.encode())), ("S.TSV.GZ", gzip.compress(PLAIN.encode())),
     ("s.csv", gzip.compress(PLAIN.encode())), ("s.csv", b"\n\n" + PLAIN.encode() + b"\n\n"),
     ("s.csv", PLAIN.replace("repo,login,note", ' "Repo" , LOGIN ,"a;b;repo;login"').encode()),
     ("s.csv", PLAIN.replace("x", '"1\n2, ""3"" "').encode()), ("s.csv", PLAIN.replace(",x", "").encode()),
     ("s.csv", PLAIN.replace(",y", ",y,, ,").encode()), ("s.csv", PLAIN.replace(",ann", ', "ann"').encode()),
     ("s.csv", PLAIN.replace("x", "\0").encode()), ("s.csv", PLAIN.rstrip().encode())],
    ids=range(25),
)  # fmt: skip
def test_text_formats(name: str, content: bytes) -> None:
    assert is_read_as(text(content, name), ("alpha/one", "ann"), ("alpha/two", "bob"))


@pytest.mark.parametrize(
    "kind",
    [lambda table: table.to_arrow(), lambda table: table.cast(pl.Categorical).to_arrow(),
     lambda table: table.cast(pl.Binary).to_arrow(), lambda table: table.to_arrow(compat_level=pl.CompatLevel.oldest()),
     lambda table: table.rename({"repo": "Repo", "login": " LOGIN "}).to_arrow()],
    ids=["view", "dictionary", "binary", "large string", "headers"],
)  # fmt: skip
def test_text_of_all_parquet_types(kind: Callable[[pl.DataFrame], Any]) -> None:
    import pyarrow.parquet

    table = pl.DataFrame({"repo": ["alpha/one", "alpha/two"], "login": ["ann", "bob"]})
    pyarrow.parquet.write_table(kind(table), "S.PARQUET")
    assert pairs(Path("S.PARQUET")) == [("alpha/one", "ann"), ("alpha/two", "bob")]


NANOSECONDS = 1577934245 * 10**9


@pytest.mark.parametrize(
    ("column", "expected"),
    [(pl.Series([dt.date(1970, 1, 1)]), "1970-01-01, before GitHub began"), (pl.Series([True]), "is Boolean, not text"),
     (pl.Series([dt.time(1)]), "is Time, not text"), (pl.Series([2**52]).cast(pl.Datetime("us")), "in the future"),
     (pl.Series([[1]]), "is List.*, not text"), (pl.Series([float("inf")]), "accepted form"),
     (pl.Series([NANOSECONDS]).cast(pl.Datetime("ms")), f"starred_at {NANOSECONDS}, .* a number of milliseconds"),
     (pl.Series([NANOSECONDS]).cast(pl.Datetime("ms", "Asia/Kolkata")), f"starred_at {NANOSECONDS}, "),
     (pl.Series([NANOSECONDS]).cast(pl.Datetime("us", "UTC")), f"starred_at {NANOSECONDS}, .* of microseconds"),
     (pl.Series([1577934245], dtype=pl.Int32).cast(pl.Date), "starred_at 1577934245, .* range as a number of days")],
)  # fmt: skip
def test_types_without_times_are_errors(column: pl.Series, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_table_of(write("s.parquet", starred_at=column))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"repo": [dt.date(2020, 1, 1)]}, "column 'repo' .* is Date, not text"),
        ({"repo": [["a/b"]]}, "column 'repo' .* is List.*, not text"),
        ({"repo": ["ab"]}, "'ab' is not owner/name"),
        ({"user_id": [dt.date(2020, 1, 1)]}, "'user_id' .* is Date, not whole"),
        ({"Repo": ["a/c"]}, "has the column 'repo' 2 times"),
    ],
)
def test_invalid_file_is_one_error(columns: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_table_of(write("s.parquet", **columns))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [("stars.xlsx", b"", r"none of the endings \.parquet, \.csv, \.tsv, \.tab \(a text may also end in \.gz\)"),
     ("bad.parquet", b"not parquet", r"read as parquet: its content is of another form"),
     ("none.csv", b"", "is empty"), ("none.csv", b" \n\n", "is empty"), ("none.csv", b"\xef\xbb\xbf", "is empty"),
     ("head.csv", b"repo,login\n", "has no stars in it"), ("head.csv", b"repo,login", "has no stars in it"),
     ("bare.csv", b"alpha/one,ann\n", "no column 'repo'; it has: alpha/one, ann"),
     ("half.csv", b"repo\na/b\n", "'login'; it has: repo. Its first line must name the columns repo and login"),
     ("two.csv", b"repo,login,login\na/b,x,y\n", "has the column 'login' 2 times"),
     ("bad.csv.gz", b"\x1f\x8bno", "cannot be read as csv: its gzip compression is broken"),
     ("open.csv", b'repo,login\na/b,"x\na/c,y\na/d,z\n', "a quote that is never closed, .* at line 2: close"),
     ("bytes.csv", bytes(range(1, 256)), "no column 'repo'"),
     ("bytes.csv", bytes(range(256)), "read as csv: it is no text in UTF-8 or UTF-16"),
     ("other.json.gz", b"\x1f\x8b", "none of the endings")],
)  # fmt: skip
def test_error_names_an_unreadable_file(name: str, content: bytes, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        read_table_of(text(content, name))
    assert name in str(caught.value)


def test_error_names_a_missing_file_and_a_folder() -> None:
    with pytest.raises(InputError, match=r"gone\.csv does not exist"):
        read_table_of(Path("gone.csv"))
    Path("folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder\.csv is a folder: name the file in it"):
        read_table_of(Path("folder.csv"))


def test_empty_lines_are_no_rows_but_lines_of_delimiters_are() -> None:
    contents = read_stars(text("repo,login\n\na/b,x\n,\n\na/c,-\n"))
    assert (contents.table.height, contents.skipped.count, contents.skipped.total) == (1, 2, 3)
    assert "row 4: the repo is empty; row 6: '-' is not a GitHub login" in contents.skipped.sentence()


def test_rows_are_numbered_by_their_first_line() -> None:
    content = '\n"re\npo",repo,login\n1,a/b,x\n"\n\n",a/b,y\n\n3,a/b,-\n"\n",,\n,,\n5,a/b,-2\n'
    contents = read_stars(text(content))
    assert (contents.table.height, contents.skipped.count, contents.skipped.total) == (2, 4, 6)
    assert contents.skipped.named == (
        ["row 9: '-' is not a GitHub login", "row 10: the repo is empty", "row 12: the repo is empty"]
    )


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "notes",
    [("5'10\" tall", "plain", '6" long'), ('12" disk', '24" disk', ""), ('say "hi" now', "", ""),
     ('"a "quoted" word"', "x", "y"), ('"a \\"q\\" b"', "x", "y"), ('5" disk', "", ""),
     ('"two\nlines, ""so"""', '"', '"')],
)  # fmt: skip
def test_quote_inside_a_value_does_not_span_rows(notes: tuple[str, ...], end: str) -> None:
    rows = ["repo,login,note", *(f"a/{n},u{n},{note}" for n, note in enumerate(notes))]
    if notes[1] == '"':
        rows[2:] = ["a/1,u1,x", "a/2,u2,y"]
    assert is_read_as(text(end.join(rows) + end), ("a/0", "u0"), ("a/1", "u1"), ("a/2", "u2"))
    first = 'note,repo,login\nthe 5" one,a/b,ann\nx,a/c,bob\na 3" one,a/d,cid\n'
    assert pairs(text(first)) == [("a/b", "ann"), ("a/c", "bob"), ("a/d", "cid")]


def test_long_values_and_carriage_returns_in_other_columns_are_ignored() -> None:
    long = "x" * 200_000
    content = f'repo,login,note\na/b,ann,"{long}"\na/c,bob,one\rtwo\na/d,cid,"one\rtwo"\n'
    assert pairs(text(content)) == [("a/b", "ann"), ("a/c", "bob"), ("a/d", "cid")]
    assert pairs(text(content.replace('"', ""))) == [("a/b", "ann"), ("a/c", "bob"), ("a/d", "cid")]
    mixed = "repo,login\ra/b,ann\r\na/c,bob\n"
    assert pairs(text(mixed)) == [("a/b", "ann"), ("a/c", "bob")]


@pytest.mark.parametrize("quote", ["", '"'])
def test_rows_with_more_values_than_columns_are_skipped_and_reported(quote: str) -> None:
    content = f"name,repo,login\n{quote}js{quote},a/b,ann\nSmith, J,a/b,js\nx,a/c,bob,, \nDoe, a/c,bob,x\ny,-,cid\n"
    contents = read_stars(text(content))
    assert contents.table.select("repo", "login").rows() == [("a/b", "ann"), ("a/c", "bob")]
    assert contents.skipped.sentence() == (
        "3 of 5 rows of s.csv were skipped: 2 rows have more fields than the header; 1 row has a repo that is not "
        "owner/name (row 3 has 4 fields, the header 3; row 5 has 4 fields, the header 3; row 6: '-' is not owner/name)."
    )
    with pytest.raises(InputError, match=r"can be used\. 1 of 1 row of .* \(row 2 has 3 fields, the header 2"):
        read_stars(text(f"repo,login\na/b,ann,{quote}extra{quote}"))
    users = read_seeds_file(text(f"login,name\nann,{quote}Ann{quote}\nSmith, bob,Bob\n"))
    assert [seed.login for seed in users.seeds] == ["ann"]
    assert "row 3 has 3 fields, the header 2" in users.skipped.sentence()


@pytest.mark.parametrize(
    ("rows", "time"),
    [(["", "2020-01-02T03:04:05Z"], FIRST), (["", "2020-01-02T03:04:05Z", "2017-01-01"], FIRST),
     (["2017-01-01", "", "2020-01-02"], SECOND), (["", ""], None)],
)  # fmt: skip
def test_repeated_star_keeps_its_time(rows: list[str], time: dt.datetime | None) -> None:
    content = "repo,login,starred_at\n" + "".join(f"a/b,ann,{row}\nc/{n},ann,\n" for n, row in enumerate(rows))
    table = read_table_of(text(content))
    assert table["repo"].to_list() == ["a/b", *(f"c/{n}" for n in range(len(rows)))]
    assert table["starred_at"].to_list() == [time, *([None] * len(rows))]


@pytest.mark.parametrize(
    ("repo", "login"),
    [(f"https://github.com/{page}", "bob") for page in ("topics/python", "orgs/x", "Sponsors/x", "stars/ann/lists/x")]
    + [("a/b", "https://github.com/stars"), ("a/b", "github.com/topics/")],
)
def test_pages_of_github_are_neither_repositories_nor_logins(repo: str, login: str) -> None:
    path = text(f"repo,login\na/b,ann\ntopics/python,stars\n{repo},{login}\n")
    assert is_read_as(path, ("a/b", "ann"), ("topics/python", "stars"), skipped=1)


# -- every spelling of the same stars ----------------------------------------------------------------------------------

LOGIN = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9-]{0,12}", fullmatch=True)
NAME = st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True).filter(
    lambda name: name not in (".", "..") and not name.lower().endswith(".git")
)
MOMENT = st.datetimes(dt.datetime(2008, 1, 1), dt.datetime(2025, 12, 31)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=dt.UTC)
)
STAR = st.tuples(st.tuples(LOGIN, NAME).map("/".join), LOGIN, st.integers(1, 2**63 - 1), MOMENT)

PARTS = (lambda star: star[0].lower(), lambda star: star[1].lower(), lambda star: star[2])

SPELL_REPO: list[Callable[[str], str]] = [
    str,
    "https://github.com/{}".format,
    " {} ".format,
    "https://github.com/{}/issues".format,
]
SPELL_LOGIN: list[Callable[[str], str]] = [str, "@{}".format, "https://github.com/{}".format]
SPELL_TIME: list[Callable[[dt.datetime], object]] = [
    dt.datetime.isoformat,
    lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S.%f UTC"),
    lambda moment: moment.astimezone(dt.timezone(dt.timedelta(hours=-5, minutes=-30))).isoformat(),
    lambda moment: round(moment.timestamp() * 1000),
    lambda moment: round(moment.timestamp() * 1000) * 1000,
    lambda moment: round(moment.timestamp() * 1000) * 1_000_000,
    lambda moment: f"{moment.timestamp():.3f}",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(stars=st.lists(STAR, min_size=1, max_size=8, unique_by=PARTS), data=st.data())
def test_result_does_not_depend_on_the_format(tmp_path: Path, stars: list[Any], data: st.DataObject) -> None:
    def draw(options: Sequence[Any]) -> Any:
        return data.draw(st.sampled_from(options))

    spelled = [
        (draw(SPELL_REPO)(repo), draw(SPELL_LOGIN)(login), str(user_id), str(draw(SPELL_TIME)(moment)))
        for repo, login, user_id, moment in stars
    ]
    table = pl.DataFrame(spelled, schema=["repo", "login", "user_id", "starred_at"], orient="row")
    table = table.select(data.draw(st.permutations(table.columns)))
    ending = draw([".csv", ".tsv", ".csv.gz", ".parquet"])
    path = tmp_path / f"s{ending}"
    if ending == ".parquet":
        table.write_parquet(path)
    else:
        quotes = draw(["necessary", "always"])
        content = table.write_csv(separator=draw(",;\t|"), line_terminator=draw(["\n", "\r\n"]), quote_style=quotes)
        encoded = content.encode(draw(["utf-8", "utf-8-sig", "utf-16"]))
        path.write_bytes(gzip.compress(encoded) if ending.endswith(".gz") else encoded)
    contents = read_stars(path)
    assert contents.table.select("repo", "login", "user_id", "starred_at").rows() == stars
    assert contents.skipped.count == 0
