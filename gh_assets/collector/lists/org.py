"""Extract the links of an Org text. Only as much of Org is parsed as this needs.

No maintained Python library parses inline links of Org: orgparse only gives headings and plain text.

Source: orgmode.org/manual/Hyperlinks.html, orgmode.org/worg/org-syntax.html.
"""

import re
from collections.abc import Iterator, Sequence

from gh_assets.collector.lists.links import html_links, without_punctuation

_BLOCK = re.compile(r"\s*#\+begin_(\S+)(.*)", re.IGNORECASE)
_NOT_TEXT = frozenset({"src", "example", "comment", "export", "html", "latex", "ascii"})
_HEADING = re.compile(r"(\*+)\s+(.*)")
_COMMENTED = re.compile(r"(?:[A-Z]+ )?COMMENT\b")
_KEYWORD = re.compile(r"\s*#\+(\w+):\s*(.*)")
_DRAWER = re.compile(r"\s*:(?:properties|logbook):\s*", re.IGNORECASE)
_COMMENT_OR_FIXED_WIDTH = re.compile(r"\s*[#:](?:\s|$)")
MAX_DESCRIPTION = 2000
"""Maximum characters of a link's description."""

_INLINE = re.compile(
    r"""
    # Verbatim and code: white space or punctuation surrounds the markers.
      (?<![^\s\-({'"|]) (?P<marker>[=~]) (?=\S) [^\n]{1,250}? (?<=\S) (?P=marker) (?=$|[\s\-.,:!?;'")}\[|])
    | src_\w{1,100} (?:\[[^\]\n]{0,500}\])? \{[^}\n]{0,2000}\}
    | \[\[ (?P<target>(?:[^\[\]\\]|\\.)+) \] (?:\]|(?P<described>\[))
    | < (?P<angle>https?://[^<>\n]+) >
    | (?<![\w\\]) (?P<bare>https?://[^\s\[\]<>"|{}]+)
    """,
    re.VERBOSE | re.MULTILINE,
)


def org_links(text: str) -> list[str]:
    """Return the targets of all links that Org shows: in brackets, in angle brackets or bare, including relative paths.

    Source and example blocks, verbatim, code, comments and drawers are left out. GitHub shows headings with the tag
    ``noexport``, so their links count.
    """
    lines = text.splitlines()
    abbreviations: dict[str, str] = {}
    for line in lines:
        keyword = _KEYWORD.match(line)
        if keyword is not None and keyword[1].upper() == "LINK":
            name, _, address = keyword[2].partition(" ")
            abbreviations[name] = address.strip()
    links: list[str] = []
    text = "\n".join(_ShownLines(lines, links))
    position = 0
    while (match := _INLINE.search(text, position)) is not None:
        position = match.end()
        if match["described"]:
            # A description is skipped: an address in it is the text shown, such as an image.
            end = text.find("]]", position, position + MAX_DESCRIPTION)
            position = match.start() + 2 if end == -1 else end + 2
            if end == -1:
                continue
        if match["target"] is not None:
            links.append(_target(match["target"], abbreviations))
        elif match["angle"] or match["bare"]:
            links.append(match["angle"] or without_punctuation(match["bare"]))
    return links


class _ShownLines:
    """Iterates over the lines whose text is shown.

    Parameters
    ----------
    lines : sequence of str
    links : list of str
        Receives the targets of links in HTML blocks and keywords.
    """

    def __init__(self, lines: Sequence[str], links: list[str]) -> None:
        self._lines = lines
        self._links = links
        self._next = 0
        self._hidden_level: int | None = None  # of the heading whose subtree is commented out
        self._unclosed: set[str] = set()  # patterns that match none of the remaining lines

    def __iter__(self) -> Iterator[str]:
        while self._next < len(self._lines):
            line = self._lines[self._next]
            self._next += 1
            if self._is_commented_out(line):
                continue
            if (block := _BLOCK.match(line)) is not None:
                self._read_block(block[1].lower(), block[2].strip().lower())
            elif (keyword := _KEYWORD.match(line)) is not None:
                if keyword[1].upper() == "HTML":
                    self._links += html_links(keyword[2]).urls
                elif keyword[1].upper() == "TITLE":
                    yield keyword[2]
            elif _DRAWER.fullmatch(line):
                self._take_until(r"\s*:end:\s*")
            elif not _COMMENT_OR_FIXED_WIDTH.match(line):
                yield line

    def _is_commented_out(self, line: str) -> bool:
        heading = _HEADING.match(line)
        if heading is not None and (self._hidden_level is None or len(heading[1]) <= self._hidden_level):
            self._hidden_level = len(heading[1]) if _COMMENTED.match(heading[2]) else None
        return self._hidden_level is not None

    def _read_block(self, kind: str, parameters: str) -> None:
        """Skip a block that is not text; the lines of any other block are read like those around it."""
        if kind not in _NOT_TEXT:
            return
        content = self._take_until(rf"\s*#\+end_{re.escape(kind)}\s*")
        if kind == "html" or (kind == "export" and parameters.startswith("html")):
            self._links += html_links("\n".join(content)).urls

    def _take_until(self, pattern: str) -> Sequence[str]:
        """Return the lines before the next one that matches and continue after it; none if no line matches."""
        if pattern in self._unclosed:
            return ()
        end, start = re.compile(pattern, re.IGNORECASE), self._next
        for number in range(start, len(self._lines)):
            if end.fullmatch(self._lines[number]):
                self._next = number + 1
                return self._lines[start:number]
        self._unclosed.add(pattern)
        return ()


def _target(target: str, abbreviations: dict[str, str]) -> str:
    target = re.sub(r"\\(.)", r"\1", " ".join(target.split()))
    prefix, colon, rest = target.partition(":")
    if colon and prefix in abbreviations:
        address = abbreviations[prefix]
        return address.replace("%s", rest) if "%s" in address else address + rest
    if prefix == "file":
        target = rest
    return target if "://" in target else target.partition("::")[0]
