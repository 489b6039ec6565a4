"""Links of an AsciiDoc text, as far as a list of links needs them; anything else of AsciiDoc is left unread.

No maintained Python library reads today's AsciiDoc: ``asciidoc`` is its dialect of 2013, and pandoc weighs 150 MB.

Source: docs.asciidoctor.org/asciidoc/latest/macros/links, …/attributes, …/directives/conditionals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gh_assets.collector.lists.links import html_links, without_punctuation
from gh_assets.errors import InputError

MAX_VALUE = 4096
"""Characters of an attribute's value, as in asciidoctor's ``max-attribute-value-size``."""

MAX_EXPANDED = 2_000_000
"""Characters that attributes may add to a text, so that a small one does not become an endless one."""

_FENCE = re.compile(r"(-{4,}|\.{4,}|/{4,}|\+{4,}|`{3,})(.*)")
_STYLE = re.compile(r"\[([^\]]*)\]\s*")
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
    # What may have no end is bounded and never tried again, so that a text made to be slow is not.
    r"""
    # Passthroughs are no links, but for HTML; monospaced text may have links.
      \+\+\+ (?P<html>.*?) \+\+\+
    | (?<!link:) \+\+ .+? \+\+
    | (?<![\w+:]) \+ (?=\S) [^+\n]*? (?<=\S) \+ (?![\w+])
    | pass:\w*\[ (?P<passed>[^\]]{0,2000}+) \]
    | image::? [^\s\[]{1,2000}+ \[ (?P<image>[^\]]{0,2000}+) \]
    | (?P<macro>\\? (?:link|xref)): (?:\+\+(?P<raw>(?:[^\s+]|\+(?!\+)){1,2000}+)\+\+
        | (?P<target>[^\s\[\]]{1,2000}+)) \[
    | << (?P<reference>[^<>\s,\#]+\.[a-z]+) (?:\#[^<>]*|,[^<>]*)? >>
    # The text in brackets after an address is skipped: an address in it is what is shown, such as a picture.
    | (?P<italic>_)? (?<![^\W_]) (?<![\\:/=.@-]) (?P<url>https?://[^\s\[\]<>|"`]+) (?P<text>\[ (?:[^\]\\]|\\.)* \]?)?
    """,
    re.VERBOSE,
)
_LINK_ATTRIBUTE = re.compile(r"""\blink=(?:"([^"]*)"|'([^']*)'|([^,\s"']+))""")


def asciidoc_links(text: str) -> list[str]:
    """Targets of all links that AsciiDoc shows, relative paths and includes among them.

    Attributes are resolved and conditionals evaluated as on GitHub, where ``env-github`` is set. Not in listings,
    literal text, passthroughs and comments.

    Raises
    ------
    InputError
        If its attributes expand to more than `MAX_EXPANDED` characters.
    """
    found: list[str] = []
    for line in _shown(text.splitlines(), found):
        for match in _INLINE.finditer(line):
            if match["html"] or match["passed"]:
                found += html_links(match["html"] or match["passed"]).urls
            elif match["image"] is not None:
                found += _links_of_attributes(match["image"])
            elif match["macro"] in ("link", "xref"):
                found.append(match["raw"] or match["target"])
            elif match["reference"]:
                found.append(match["reference"])
            elif match["url"]:
                url = match["url"] if match["text"] else without_punctuation(match["url"].partition(",")[0])
                found.append(url.rstrip("_") if match["italic"] else url)
    return found


class _Attributes:
    """Attributes of a document, and how much they may still add to its text."""

    _reference = re.compile(r"(?<!\\)\{([\w-]+)\}")

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values
        self.left = MAX_EXPANDED

    def resolved(self, text: str) -> str:
        return self._reference.sub(self._value, text)

    def _value(self, reference: re.Match[str]) -> str:
        value = self.values.get(reference[1].lower())
        if value is None:
            return reference[0]
        self.left -= len(value)
        if self.left < 0:
            raise InputError(f"its attributes expand to more than {MAX_EXPANDED:,} characters")
        return value


def _links_of_attributes(attributes: str) -> list[str]:
    return ["".join(values) for values in _LINK_ATTRIBUTE.findall(attributes)]


def _shown(lines: list[str], found: list[str]) -> Iterator[str]:
    """Lines whose text is shown, with attributes resolved; links of HTML and includes go to `found`."""
    attributes = _Attributes(_SHOWN_EMPTY | _ON_GITHUB)
    skipping: list[bool] = []  # a conditional each, innermost last
    fence: str | None = None
    inside: list[str] = []
    verbatim = False  # the next block, or the present paragraph, is not text
    starts = True  # a block may start here
    links_of_block: list[str] = []  # of the attributes above an image
    separator: str | None = None  # of a table's cells, in or above one that is CSV
    in_table = False
    number = 0
    while number < len(lines):
        line = lines[number].rstrip()
        number += 1
        condition = _CONDITION.fullmatch(line)
        if condition is not None:
            line = _conditional(condition, attributes, skipping)
        if (not line and condition is not None) or any(skipping):
            continue
        if fence is not None:
            if line == fence:
                if fence.startswith("++"):
                    found += html_links("\n".join(inside)).urls
                fence, inside, verbatim, starts = None, [], False, True
            else:
                inside.append(line)
            continue
        opened = _FENCE.fullmatch(line)
        if opened is not None and (not opened[2] or opened[1][0] == "`"):
            fence = opened[1]
        elif line == "--" and verbatim and starts:
            fence = line
        elif not line or line == "+":
            verbatim, starts, links_of_block = False, True, []
        elif line.startswith("//"):
            continue
        elif (entry := _ATTRIBUTE.fullmatch(line)) is not None:
            value = entry[4] or ""
            while value.endswith("\\") and number < len(lines):
                value = value[:-1].rstrip(" +") + " " + lines[number].strip()
                number += 1
            if entry[1] or entry[3]:
                attributes.values.pop(entry[2].lower(), None)
            else:
                attributes.values[entry[2].lower()] = attributes.resolved(value)[:MAX_VALUE]
        elif starts and (style := _STYLE.fullmatch(line)) is not None:
            # An anchor or a role leaves the kind of block as it is.
            verbatim = verbatim or _VERBATIM_STYLE.fullmatch(style[1]) is not None
            links_of_block += _links_of_attributes(attributes.resolved(style[1]))
            if not in_table and _CSV.fullmatch(style[1]) is not None:
                given = _SEPARATOR.search(style[1])
                separator = given[1] if given is not None else ","
        elif starts and _BLOCK_TITLE.fullmatch(line) is not None:
            yield attributes.resolved(line)
        elif _TABLE.fullmatch(line) is not None:
            in_table = not in_table
            separator = (separator or ("," if line[0] == "," else None)) if in_table else None
            verbatim, starts = False, True
        elif _DELIMITER.fullmatch(line) is not None:
            verbatim, starts = False, True
        elif (include := _INCLUDE.fullmatch(line)) is not None:
            found.append(attributes.resolved(include[1]))
        else:
            # An indented paragraph is literal, unless it is an item of a list.
            verbatim = verbatim or (starts and not in_table and line[0] in " \t" and not _LIST_ITEM.match(line))
            if starts and line.startswith("image::"):
                found += links_of_block
            starts = False
            if not verbatim:
                line = attributes.resolved(line)
                yield from line.split(separator) if in_table and separator is not None else [line]


def _conditional(condition: re.Match[str], attributes: _Attributes, skipping: list[bool]) -> str:
    """Enter or leave a conditional; the text of one that is a single line, if it holds."""
    kind, names, content = condition[1], condition[2], condition[3]
    if kind == "endif":
        if skipping:
            skipping.pop()
        return ""
    known = [name.strip().lower() in attributes.values for name in re.split(r"[,+]", names)]
    # An expression of ifeval is not evaluated: rather a link too many than one lost.
    holds = kind == "ifeval" or (all(known) if "+" in names else any(known)) == (kind == "ifdef")
    if content and kind != "ifeval":
        return content if holds else ""
    skipping.append(not holds)
    return ""
