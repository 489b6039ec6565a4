"""Extract the links of a text in any of the markups that lists are written in.

GitHub renders its own files; this is for local files, and for servers that do not render.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from linkify_it import LinkifyIt
from linkify_it.main import Match
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.linkify import linkify
from markdown_it.token import Token
from mdit_py_plugins.footnote import footnote_plugin

from gh_assets.collector.lists.asciidoc import asciidoc_links
from gh_assets.collector.lists.links import UnreadableTextError, html_links, without_punctuation
from gh_assets.collector.lists.org import org_links

MAX_NESTING = 300
"""Maximum levels of Markdown, two per nested list. GitHub's parser takes 100 lists; Python's stack 1,000 calls."""

MAX_SIZE = 5_000_000
"""Maximum bytes of a list. GitHub renders files of up to half a megabyte."""

MAX_OPEN = 500
"""Maximum unclosed brackets or marks of a paragraph: parsers search the rest of the text for the end of each."""

MAX_WORD = 5000
"""Maximum characters of a word that is searched for bare addresses."""

MAX_ADDRESS = 2000
"""Maximum characters of a bare address; a longer one is cut."""

RST_SETTINGS: dict[str, Any] = {
    # No file but the text itself is read, and errors in it are ignored.
    "raw_enabled": False,
    "file_insertion_enabled": False,
    "_disable_config": True,
    "report_level": 5,
    "halt_level": 6,
    "line_length_limit": 2**31,
    "syntax_highlight": "none",
}

# Tags that GitHub does not pass through as HTML; a parser would take everything after one as its content.
# Source: github.github.com/gfm/#disallowed-raw-html-extension-
_DISALLOWED = re.compile(
    r"<(?=/?(?:title|textarea|style|xmp|iframe|noembed|noframes|script|plaintext)\b)", re.IGNORECASE
)
_LONG_WORD = re.compile(rf"\S{{{MAX_WORD},}}")


class _Autolinks(LinkifyIt):  # type: ignore[misc]
    """Finds bare links as GitHub does: with a scheme or www, but not ``github.com/pkg/errors`` in a sentence."""

    def match(self, text: str) -> list[Match] | None:
        if len(text) > MAX_WORD:
            text = _LONG_WORD.sub(lambda word: " " * len(word[0]), text)
        links = super().match(text) or []
        return [
            _without_punctuation(link)
            for link in links
            if link.schema in ("http:", "https:") or link.text.lower().startswith("www.")
        ] or None

    def match_at_start(self, text: str) -> Match | None:
        link = super().match_at_start(text[:MAX_ADDRESS])
        return None if link is None else _without_punctuation(link)


def _without_punctuation(link: Match) -> Match:
    shorter = without_punctuation(link.url).rstrip("_")
    link.last_index -= len(link.url) - len(shorter)
    link.text = link.text.removesuffix(link.url[len(shorter) :])
    link.url = shorter
    return link


def _linkify(state: StateInline, silent: bool) -> bool:
    # At each colon, the rule searches all of the pending text for the scheme at its end.
    if len(state.pending) > MAX_ADDRESS and not silent:
        scheme = state.pending[-16:]
        state.pending = state.pending[:-16]
        state.pushPending()
        state.pending = scheme
    return linkify(state, silent)


def _refuse_open_brackets(state: StateCore) -> None:
    for token in state.tokens:
        if token.type == "inline" and token.content.count("[") - token.content.count("]") > MAX_OPEN:
            raise UnreadableTextError(f"more than {MAX_OPEN} brackets of a paragraph are not closed")


def _html_as_on_github(
    _renderer: RendererHTML, tokens: Sequence[Token], index: int, _options: object, _env: object
) -> str:
    return _DISALLOWED.sub("&lt;", tokens[index].content)


def markdown_to_html(text: str) -> str:
    """Render GitHub-flavoured Markdown, footnotes included.

    Raises
    ------
    UnreadableTextError
        If it is nested deeper than `MAX_NESTING`, or a paragraph has more than `MAX_OPEN` unclosed brackets.
    """
    parser = MarkdownIt("gfm-like", {"html": True, "maxNesting": MAX_NESTING})
    parser.use(footnote_plugin, inline=False)
    parser.inline.ruler.at("linkify", _linkify)
    parser.core.ruler.before("inline", "open_brackets", _refuse_open_brackets)
    parser.linkify = _Autolinks()
    parser.linkify.set({"fuzzy_email": False})
    for rule in ("html_block", "html_inline"):
        parser.add_render_rule(rule, _html_as_on_github)
    too_deep = UnreadableTextError(f"it is nested deeper than {MAX_NESTING} levels")
    try:
        environment: dict[str, Any] = {}
        tokens = parser.parse(text, environment)
        # The parser leaves out deeper levels.
        if any(token.level >= MAX_NESTING - 1 for token in tokens):
            raise too_deep
        return str(parser.renderer.render(tokens, parser.options, environment))
    except RecursionError:
        raise too_deep from None


def _markdown_links(text: str) -> list[str]:
    return html_links(markdown_to_html(text)).urls


_RST_MARKS = [
    (mark, re.compile(rf"(?<![\w{mark}])[{mark}]+\w"), re.compile(rf"(?<![\s{mark}])[{mark}]+(?!\w)")) for mark in "*`|"
]


def _rst_links(text: str) -> list[str]:
    # Imported here: the server, which imports this module, never needs it.
    from docutils import nodes
    from docutils.core import publish_doctree

    for mark, opened, closed in _RST_MARKS:
        for paragraph in re.split(r"\n\s*\n", text) if text.count(mark) > MAX_OPEN else ():
            if len(opened.findall(paragraph)) - len(closed.findall(paragraph)) > MAX_OPEN:
                raise UnreadableTextError(f"more than {MAX_OPEN} marks {mark} of a paragraph are not closed")
    try:
        tree = publish_doctree(text, settings_overrides=RST_SETTINGS)
    except RecursionError:
        raise UnreadableTextError("it is nested too deep") from None
    references = [node for node in tree.findall(nodes.reference) if "refuri" in node]
    # A substitution counts where it stands, not where it is defined.
    return [node["refuri"] for node in references if not isinstance(node.parent, nodes.substitution_definition)]


_READERS: dict[str, Callable[[str], list[str]]] = {
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mdwn", ".mkd", ".mkdn"), _markdown_links),
    **dict.fromkeys((".rst", ".rest"), _rst_links),
    ".org": org_links,
    **dict.fromkeys((".adoc", ".asciidoc", ".asc"), asciidoc_links),
    **dict.fromkeys((".html", ".htm"), lambda text: html_links(text).urls),
}
_ONLY_GITHUB = {
    ".textile": "Textile", ".rdoc": "RDoc", ".creole": "Creole", ".mediawiki": "MediaWiki", ".wiki": "MediaWiki",
    ".pod": "Pod",
}  # fmt: skip

READABLE_MARKUPS = "Markdown, Org, AsciiDoc or reStructuredText"
"""Markups that are parsed without GitHub, for messages."""

TOO_LARGE = f"it is larger than {MAX_SIZE // 1_000_000} MB: split it into several lists"

MARKUP_SUFFIXES = frozenset({*_READERS, *_ONLY_GITHUB} - {".html", ".htm"})
"""File name suffixes of all markups that GitHub renders, in lower case."""


def suffix_of(name: str) -> str:
    """Return a file name's suffix in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def links_in(text: str, name: str) -> list[str]:
    """Return the targets of all links of a text, in order: addresses, relative paths and anchors.

    Parameters
    ----------
    text : str
    name : str
        The file's name, whose suffix determines the markup; without a known suffix it is Markdown.

    Raises
    ------
    UnreadableTextError
        If only GitHub renders this markup, or the text is larger than `MAX_SIZE`, nested too deeply, or has too many
        unclosed brackets or marks. The message is the reason alone, without the list's name.
    """
    if len(text) > MAX_SIZE:
        raise UnreadableTextError(TOO_LARGE)
    suffix = suffix_of(name)
    if suffix in _ONLY_GITHUB:
        raise UnreadableTextError(
            f"it is written in {_ONLY_GITHUB[suffix]}, which is read only from GitHub, as GitHub renders it: convert "
            f"it to {READABLE_MARKUPS}"
        )
    return _READERS.get(suffix, _markdown_links)(text.removeprefix("\ufeff"))
