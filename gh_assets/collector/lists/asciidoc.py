"""Extract the links of an AsciiDoc text. Only as much of AsciiDoc is parsed as this needs.

No maintained Python library parses current AsciiDoc: ``asciidoc`` reads its dialect of 2013, and pandoc takes 150 MB.

Source: docs.asciidoctor.org/asciidoc/latest/macros/links, …/attributes, …/directives/conditionals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

from gh_assets.collector.lists.links import UnreadableTextError, html_links, without_punctuation

MAX_VALUE = 4096
"""Maximum characters of an attribute's value, as in asciidoctor's ``max-attribute-value-size``."""

MAX_EXPANDED = 2_000_000
"""Maximum characters that attributes may add to a text, against texts that grow exponentially."""

_FENCE = re.compile(r"(-{4,}|\.{4,}|/{4,}|\+{4,})|(`{3,}).*")
_END_OF_PARAGRAPH = re.compile(r"\+?")
_BLOCK_ATTRIBUTES = re.compile(r"\[([^\]]*)\]\s*")
_VERBATIM_STYLE = re.compile(r"(?:source|listing|literal|comment|pass|stem|latexmath|asciimath)(?:[%#.,].*)?")
_LIST_ITEM = re.compile(r"\s+(?:[*\-.]+|\d+\.|[a-zA-Z]\.|<[\d.]+>)\s|.*(?:::|;;)(?:\s|$)")
_ATTRIBUTE = re.compile(r":(!?)([\w-]+)(!?):(?:\s+(.*))?")
_CONDITION = re.compile(r"(ifdef|ifndef|ifeval|endif)::([^\[]*)\[(.*)\]\s*")
_INCLUDE = re.compile(r"include::([^\[]+)\[.*\]\s*")
_BLOCK_TITLE = re.compile(r"\.\.?[^\s.].*")
_DELIMITER = re.compile(r"={4,}|\*{4,}|_{4,}|--")
_TABLE = re.compile(r"[|,:!]={3,}")
_CSV = re.compile(r"(?:.*,)?\s*format=\"?csv\b.*")
_SEPARATOR = re.compile(r"\bseparator=\"?([^\s\"])")
_SHOWN_EMPTY = dict.fromkeys(("blank", "empty", "zwsp", "wj"), "") | dict.fromkeys(("sp", "nbsp"), " ")
_ON_GITHUB = dict.fromkeys(("env-github", "asciidoctor", "backend-html5", "basebackend-html"), "") | {
    "env": "github", "backend": "html5", "basebackend": "html",
}  # fmt: skip
_INLINE = re.compile(
    # Repetitions whose end may be missing are bounded and possessive, against texts that cause quadratic time.
    r"""
    # Passthroughs hold no links except those of HTML; monospaced text may hold links.
      \+\+\+ (?P<html>.*?) \+\+\+
    | (?<!link:) \+\+ .+? \+\+
    | (?<![\w+:]) \+ (?=\S) [^+\n]*? (?<=\S) \+ (?![\w+])
    | pass:\w*\[ (?P<passed>[^\]]{0,2000}+) \]
    | image::? [^\s\[]{1,2000}+ \[ (?P<image>[^\]]{0,2000}+) \]
    | (?P<macro>\\? (?:link|xref)): (?:\+\+(?P<raw>(?:[^\s+]|\+(?!\+)){1,2000}+)\+\+
        | (?P<target>[^\s\[\]]{1,2000}+)) \[
    | << (?P<reference>[^<>\s,\#]+\.[a-z]+) (?:\#[^<>]*|,[^<>]*)? >>
    # The text in brackets after an address is skipped: an address in it is the text shown, such as an image.
    | (?P<italic>_)? (?<![^\W_]) (?<![\\:/=.@-]) (?P<url>https?://[^\s\[\]<>|"`]+) (?P<text>\[ (?:[^\]\\]|\\.)* \]?)?
    """,
    re.VERBOSE,
)
_REFERENCE = re.compile(r"(?<!\\)\{([\w-]+)\}")
_LINK_ATTRIBUTE = re.compile(r"""\blink=(?:"([^"]*)"|'([^']*)'|([^,\s"']+))""")


def asciidoc_links(text: str) -> list[str]:
    """Return the targets of all links that AsciiDoc shows, including relative paths and includes.

    Attributes are resolved and conditionals evaluated as on GitHub, where ``env-github`` is set. Listings, literal
    text, passthroughs and comments are left out.

    Raises
    ------
    UnreadableTextError
        If its attributes expand to more than `MAX_EXPANDED` characters.
    """
    links: list[str] = []
    for line in _ShownLines(text.splitlines(), links):
        for match in _INLINE.finditer(line):
            if match["html"] or match["passed"]:
                links += html_links(match["html"] or match["passed"]).urls
            elif match["image"] is not None:
                links += _links_of_attributes(match["image"])
            elif match["macro"] in ("link", "xref"):
                links.append(match["raw"] or match["target"])
            elif match["reference"]:
                links.append(match["reference"])
            elif match["url"]:
                url = match["url"] if match["text"] else without_punctuation(match["url"].partition(",")[0])
                links.append(url.rstrip("_") if match["italic"] else url)
    return links


def _links_of_attributes(attributes: str) -> list[str]:
    return ["".join(values) for values in _LINK_ATTRIBUTE.findall(attributes)]


class _ShownLines:
    """Iterates over the lines whose text is shown, with attributes resolved.

    Parameters
    ----------
    lines : iterable of str
    links : list of str
        Receives the targets that are not part of a line's text: those of HTML passthroughs, image blocks and includes.
    """

    def __init__(self, lines: Iterable[str], links: list[str]) -> None:
        self._lines = iter(lines)
        self._links = links
        self._values = _SHOWN_EMPTY | _ON_GITHUB
        self._left = MAX_EXPANDED  # characters that attributes may still add
        self._skips: list[bool] = []  # for each open conditional, innermost last, whether its lines are left out
        self._fence: str | None = None  # the line that closes the current verbatim block
        self._fenced: list[str] = []
        self._is_verbatim = False  # applies to the next block, or to the current paragraph
        self._block_may_start = True
        self._image_links: list[str] = []  # from attribute lines above an image block
        self._separator: str | None = None  # between the cells of the current or next CSV table
        self._in_table = False

    def __iter__(self) -> Iterator[str]:
        for raw in self._lines:
            line = raw.rstrip()
            condition = _CONDITION.fullmatch(line)
            if condition is not None:
                line = self._evaluate(condition)
            if any(self._skips) or (condition is not None and not line):
                continue
            if self._fence is not None:
                self._read_fenced(line, self._fence)
            else:
                yield from self._read(line)

    def _resolved(self, text: str) -> str:
        """Return the text with the values of its attributes."""
        return _REFERENCE.sub(self._value, text)

    def _value(self, reference: re.Match[str]) -> str:
        value = self._values.get(reference[1].lower())
        if value is None:
            return reference[0]
        self._left -= len(value)
        if self._left < 0:
            raise UnreadableTextError(f"its attributes expand to more than {MAX_EXPANDED:,} characters")
        return value

    def _evaluate(self, condition: re.Match[str]) -> str:
        """Enter or leave a conditional, and return the text of a single-line one if its condition holds."""
        kind, names, content = condition[1], condition[2], condition[3]
        if kind == "endif":
            if self._skips:
                self._skips.pop()
            return ""
        known = [name.strip().lower() in self._values for name in re.split(r"[,+]", names)]
        # Expressions of ifeval are not evaluated: a superfluous link does less harm than a lost one.
        holds = kind == "ifeval" or (all(known) if "+" in names else any(known)) == (kind == "ifdef")
        if content and kind != "ifeval":
            return content if holds else ""
        self._skips.append(not holds)
        return ""

    def _read_fenced(self, line: str, fence: str) -> None:
        if line != fence:
            self._fenced.append(line)
            return
        if fence.startswith("++"):
            self._links += html_links("\n".join(self._fenced)).urls
        self._fence, self._fenced = None, []
        self._start_block()

    def _read(self, line: str) -> Iterable[str]:
        """Return what is shown of a line outside verbatim blocks."""
        if line.startswith("//") and not _FENCE.fullmatch(line):
            return ()  # a comment
        for pattern, only_at_start, handle in self._HANDLERS:
            match = pattern.fullmatch(line) if self._block_may_start or not only_at_start else None
            if match is not None:
                return handle(self, match) or ()
        return self._read_text(line)

    def _start_block(self) -> None:
        self._is_verbatim, self._block_may_start = False, True

    def _open_fence(self, match: re.Match[str]) -> None:
        self._fence = match[1] or match[2]

    def _end_paragraph(self, _match: re.Match[str]) -> None:
        self._start_block()
        self._image_links = []

    def _set_attribute(self, match: re.Match[str]) -> None:
        name, value = match[2].lower(), match[4] or ""
        while value.endswith("\\") and (following := next(self._lines, None)) is not None:
            value = value[:-1].rstrip(" +") + " " + following.strip()
        if match[1] or match[3]:
            self._values.pop(name, None)
        else:
            self._values[name] = self._resolved(value)[:MAX_VALUE]

    def _read_block_attributes(self, match: re.Match[str]) -> None:
        # An anchor or a role does not change the kind of the block.
        self._is_verbatim = self._is_verbatim or _VERBATIM_STYLE.fullmatch(match[1]) is not None
        self._image_links += _links_of_attributes(self._resolved(match[1]))
        if not self._in_table and _CSV.fullmatch(match[1]) is not None:
            separator = _SEPARATOR.search(match[1])
            self._separator = separator[1] if separator is not None else ","

    def _show_title(self, match: re.Match[str]) -> list[str]:
        return [self._resolved(match[0])]

    def _open_or_close_table(self, match: re.Match[str]) -> None:
        self._in_table = not self._in_table
        self._separator = (self._separator or ("," if match[0][0] == "," else None)) if self._in_table else None
        self._start_block()

    def _open_or_close_block(self, match: re.Match[str]) -> None:
        if match[0] == "--" and self._is_verbatim and self._block_may_start:
            self._fence = "--"
        else:
            self._start_block()

    def _include(self, match: re.Match[str]) -> None:
        self._links.append(self._resolved(match[1]))

    def _read_text(self, line: str) -> list[str]:
        if self._block_may_start:
            # An indented paragraph is literal, unless it is a list item.
            is_literal = not self._in_table and line[0] in " \t" and not _LIST_ITEM.match(line)
            self._is_verbatim = self._is_verbatim or is_literal
            if line.startswith("image::"):
                self._links += self._image_links
        self._block_may_start = False
        if self._is_verbatim:
            return []
        line = self._resolved(line)
        return line.split(self._separator) if self._in_table and self._separator is not None else [line]

    _HANDLERS: ClassVar[Sequence[_Handler]] = (
        # Pattern of a whole line, whether it only counts where a block may start, and what handles the match.
        (_FENCE, False, _open_fence),
        (_END_OF_PARAGRAPH, False, _end_paragraph),
        (_ATTRIBUTE, False, _set_attribute),
        (_BLOCK_ATTRIBUTES, True, _read_block_attributes),
        (_BLOCK_TITLE, True, _show_title),
        (_TABLE, False, _open_or_close_table),
        (_DELIMITER, False, _open_or_close_block),
        (_INCLUDE, False, _include),
    )


_Handler = tuple[re.Pattern[str], bool, Callable[[_ShownLines, re.Match[str]], Iterable[str] | None]]
