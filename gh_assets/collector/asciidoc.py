"""Links of an AsciiDoc text, as far as a list of links needs them; anything else of AsciiDoc is left unread.

No maintained Python library reads today's AsciiDoc: ``asciidoc`` is its dialect of 2013, and pandoc weighs 150 MB.

Source: docs.asciidoctor.org/asciidoc/latest/macros/links, …/attributes, …/directives/conditionals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gh_assets.collector.links import html_links, without_punctuation

_FENCE = re.compile(r"(-{4,}|\.{4,}|/{4,}|\+{4,}|`{3,})(.*)")
_STYLE = re.compile(r"\[([^\]]*)\]\s*")
_VERBATIM_STYLE = re.compile(r"(?:source|listing|literal|comment|pass|stem|latexmath|asciimath)(?:[%#.,].*)?")
_LIST_ITEM = re.compile(r"\s+(?:[*\-.]+|\d+\.|[a-zA-Z]\.|<[\d.]+>)\s|.*(?:::|;;)(?:\s|$)")
_ATTRIBUTE = re.compile(r":(!?)([\w-]+)(!?):(?:\s+(.*))?")
_CONDITION = re.compile(r"(ifdef|ifndef|ifeval|endif)::([^\[]*)\[(.*)\]\s*")
_INCLUDE = re.compile(r"include::([^\[]+)\[.*\]\s*")
_SHOWN_EMPTY = dict.fromkeys(("blank", "empty", "zwsp", "wj"), "") | dict.fromkeys(("sp", "nbsp"), " ")
_INLINE = re.compile(
    r"""
    # Monospaced text and passthroughs are no links, but for HTML.
      `[^`\n]+`
    | \+\+\+ (?P<html>.*?) \+\+\+
    | (?<!link:) \+\+ .+? \+\+
    | (?<![\w+:]) \+ (?=\S) [^+\n]*? (?<=\S) \+ (?![\w+])
    | pass:\w*\[ [^\]]* \]
    | image::? [^\s\[]+ \[ (?P<image>[^\]]*) \]
    | (?P<macro>\\? (?:link|xref)): (?:\+\+(?P<raw>.+?)\+\+ | (?P<target>[^\s\[\]]{1,2000})) \[
    | << (?P<reference>[^<>\s,\#]+\.[a-z]+) (?:\#[^<>]*|,[^<>]*)? >>
    # The text in brackets after an address is skipped: an address in it is what is shown, such as a picture.
    | (?P<italic>_)? (?<![^\W_]) (?<![\\:/=.@-]) (?P<url>https?://[^\s\[\]<>|"]+) (?P<text>\[ (?:[^\]\\]|\\.)* \]?)?
    """,
    re.VERBOSE,
)
_LINK_ATTRIBUTE = re.compile(r"""\blink=(?:"([^"]*)"|([^,\s"]+))""")


def asciidoc_links(text: str) -> list[str]:
    """Targets of all links that AsciiDoc shows, relative paths and includes among them.

    Attributes are resolved and conditionals evaluated as on GitHub, where ``env-github`` is set. Not in listings,
    literal text, passthroughs, comments and monospaced text.
    """
    found: list[str] = []
    for line in _shown(text.splitlines(), found):
        for match in _INLINE.finditer(line):
            if match["html"]:
                found += html_links(match["html"]).urls
            elif match["image"] is not None:
                found += [quoted or plain for quoted, plain in _LINK_ATTRIBUTE.findall(match["image"])]
            elif match["macro"] in ("link", "xref"):
                found.append(match["raw"] or match["target"])
            elif match["reference"]:
                found.append(match["reference"])
            elif match["url"]:
                url = match["url"] if match["text"] else without_punctuation(match["url"].partition(",")[0])
                found.append(url.rstrip("_") if match["italic"] else url)
    return found


def _shown(lines: list[str], found: list[str]) -> Iterator[str]:
    """Lines whose text is shown, with attributes resolved; links of HTML and includes go to `found`."""
    attributes = _SHOWN_EMPTY | {"env-github": ""}
    skipping: list[bool] = []  # a conditional each, innermost last
    fence: str | None = None
    inside: list[str] = []
    verbatim = False  # the next block, or the present paragraph, is not text
    starts = True  # a block may start here
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
        elif line == "--" and verbatim:
            fence = line
        elif not line or line == "+":
            verbatim, starts = False, True
        elif line.startswith("//"):
            continue
        elif (entry := _ATTRIBUTE.fullmatch(line)) is not None:
            value = entry[4] or ""
            while value.endswith("\\") and number < len(lines):
                value = value[:-1].rstrip(" +") + " " + lines[number].strip()
                number += 1
            if entry[1] or entry[3]:
                attributes.pop(entry[2].lower(), None)
            else:
                attributes[entry[2].lower()] = _resolved(value, attributes)
        elif starts and (style := _STYLE.fullmatch(line)) is not None:
            # An anchor or a role leaves the kind of block as it is.
            verbatim = verbatim or _VERBATIM_STYLE.fullmatch(style[1]) is not None
        elif (include := _INCLUDE.fullmatch(line)) is not None:
            found.append(_resolved(include[1], attributes))
        else:
            # An indented paragraph is literal, unless it is an item of a list.
            verbatim = verbatim or (starts and line[0] in " \t" and not _LIST_ITEM.match(line))
            starts = False
            if not verbatim:
                yield _resolved(line, attributes)


def _conditional(condition: re.Match[str], attributes: dict[str, str], skipping: list[bool]) -> str:
    """Enter or leave a conditional; the text of one that is a single line, if it holds."""
    kind, names, content = condition[1], condition[2], condition[3]
    if kind == "endif":
        if skipping:
            skipping.pop()
        return ""
    known = [name.strip().lower() in attributes for name in re.split(r"[,+]", names)]
    # An expression of ifeval is not evaluated: rather a link too many than one lost.
    holds = kind == "ifeval" or (all(known) if "+" in names else any(known)) == (kind == "ifdef")
    if content and kind != "ifeval":
        return content if holds else ""
    skipping.append(not holds)
    return ""


def _resolved(text: str, attributes: dict[str, str]) -> str:
    return re.sub(r"(?<!\\)\{([\w-]+)\}", lambda match: attributes.get(match[1].lower(), match[0]), text)
