"""Links of an Org text, as far as a list of links needs them; anything else of Org is left unread.

No maintained Python library reads inline links of Org: orgparse, the one that is, gives headings and plain text.

Source: orgmode.org/manual/Hyperlinks.html, orgmode.org/worg/org-syntax.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gh_assets.collector.lists.links import html_links, without_punctuation

_BLOCK = re.compile(r"\s*#\+begin_(\S+)(.*)", re.IGNORECASE)
_NOT_TEXT = frozenset({"src", "example", "comment", "export", "html", "latex", "ascii"})
_HEADING = re.compile(r"(\*+)\s+(.*)")
_COMMENTED = re.compile(r"(?:[A-Z]+ )?COMMENT\b")
_KEYWORD = re.compile(r"\s*#\+(\w+):\s*(.*)")
_DRAWER = re.compile(r"\s*:(?:properties|logbook):\s*", re.IGNORECASE)
_COMMENT_OR_FIXED_WIDTH = re.compile(r"\s*[#:](?:\s|$)")
MAX_DESCRIPTION = 2000
"""Characters of a link's description."""

_INLINE = re.compile(
    r"""
    # Verbatim and code: the markers stand beside white space or punctuation.
      (?<![^\s\-({'"|]) (?P<marker>[=~]) (?=\S) [^\n]{1,250}? (?<=\S) (?P=marker) (?=$|[\s\-.,:!?;'")}\[|])
    | src_\w{1,100} (?:\[[^\]\n]{0,500}\])? \{[^}\n]{0,2000}\}
    | \[\[ (?P<target>(?:[^\[\]\\]|\\.)+) \] (?:\]|(?P<described>\[))
    | < (?P<angle>https?://[^<>\n]+) >
    | (?<![\w\\]) (?P<bare>https?://[^\s\[\]<>"|{}]+)
    """,
    re.VERBOSE | re.MULTILINE,
)


def org_links(text: str) -> list[str]:
    """Targets of all links that Org shows: in brackets, angle brackets or bare; relative paths among them.

    Not in source and example blocks, verbatim and code, comments and drawers. Headings with the tag ``noexport`` are
    shown by GitHub, so their links count.
    """
    lines = text.splitlines()
    abbreviations: dict[str, str] = {}
    for line in lines:
        keyword = _KEYWORD.match(line)
        if keyword is not None and keyword[1].upper() == "LINK":
            name, _, address = keyword[2].partition(" ")
            abbreviations[name] = address.strip()
    found: list[str] = []
    shown: list[str] = []
    for line in _shown(lines, found):
        shown.append(line)
    text = "\n".join(shown)
    position = 0
    while (match := _INLINE.search(text, position)) is not None:
        position = match.end()
        if match["described"]:
            # A description is skipped: an address in it is what is shown, such as a picture.
            end = text.find("]]", position, position + MAX_DESCRIPTION)
            position = match.start() + 2 if end == -1 else end + 2
            if end == -1:
                continue
        if match["target"] is not None:
            found.append(_target(match["target"], abbreviations))
        elif match["angle"] or match["bare"]:
            found.append(match["angle"] or without_punctuation(match["bare"]))
    return found


def _shown(lines: list[str], html: list[str]) -> Iterator[str]:
    """Lines whose text is shown; links of blocks that are HTML go to `html`."""
    number = 0
    hidden: int | None = None  # level of the heading whose subtree is commented out
    unclosed: set[str] = set()  # what has no end in all that follows
    while number < len(lines):
        line = lines[number]
        number += 1
        heading = _HEADING.match(line)
        if heading is not None and (hidden is None or len(heading[1]) <= hidden):
            hidden = len(heading[1]) if _COMMENTED.match(heading[2]) else None
        if hidden is not None:
            continue
        block, keyword = _BLOCK.match(line), _KEYWORD.match(line)
        if block is not None:
            kind = block[1].lower()
            if kind not in _NOT_TEXT or kind in unclosed:
                continue
            end = _end_of(lines, number, rf"\s*#\+end_{re.escape(kind)}\s*")
            if end is None:
                unclosed.add(kind)
                continue
            if kind == "html" or (kind == "export" and block[2].strip().lower().startswith("html")):
                html += html_links("\n".join(lines[number:end])).urls
            number = end + 1
        elif keyword is not None:
            if keyword[1].upper() == "HTML":
                html += html_links(keyword[2]).urls
            elif keyword[1].upper() == "TITLE":
                yield keyword[2]
        elif _DRAWER.fullmatch(line):
            end = None if ":end:" in unclosed else _end_of(lines, number, r"\s*:end:\s*")
            if end is None:
                unclosed.add(":end:")
            number = number if end is None else end + 1
        elif not _COMMENT_OR_FIXED_WIDTH.match(line):
            yield line


def _end_of(lines: list[str], start: int, pattern: str) -> int | None:
    end = re.compile(pattern, re.IGNORECASE)
    return next((number for number in range(start, len(lines)) if end.fullmatch(lines[number])), None)


def _target(target: str, abbreviations: dict[str, str]) -> str:
    target = re.sub(r"\\(.)", r"\1", " ".join(target.split()))
    prefix, colon, rest = target.partition(":")
    if colon and prefix in abbreviations:
        address = abbreviations[prefix]
        return address.replace("%s", rest) if "%s" in address else address + rest
    if prefix == "file":
        target = rest
    return target if "://" in target else target.partition("::")[0]
