"""Files as HTML, as GitHub renders them: Markdown and reStructuredText. Other markups are given with their HTML."""

from __future__ import annotations

from html import escape

from docutils.core import publish_parts

from gh_assets.collector.lists.markup import RST_SETTINGS, markdown_to_html, suffix_of

_MARKDOWN = (".md", ".markdown", ".mdown", ".mdwn", ".mkd", ".mkdn")
_RST = (".rst", ".rest")
_NEED_THEIR_HTML = (".org", ".adoc", ".asciidoc", ".asc", ".textile", ".rdoc", ".creole", ".mediawiki", ".wiki", ".pod")


def rendered(path: str, text: str) -> str | None:
    """The HTML of a file; None if it is in a markup that is not rendered here."""
    suffix = suffix_of(path)
    if suffix in _MARKDOWN:
        return markdown_to_html(text)
    if suffix in _RST:
        return str(publish_parts(text, writer="html5", settings_overrides=RST_SETTINGS)["body"])
    if suffix in _NEED_THEIR_HTML:
        return None
    return f'<div class="plain"><pre style="white-space: pre-wrap">{escape(text)}</pre></div>'


def wrapped(html: str, path: str, kind: str) -> str:
    """HTML as GitHub's API answers with it; `kind` is ``readme`` or ``file``."""
    name = suffix_of(path).removeprefix(".") or "txt"
    if html.startswith('<div class="plain">'):
        return f'<div id="{kind}" class="{name}" data-path="{escape(path)}">{html}</div>'
    return (
        f'<div id="{kind}" class="{name}" data-path="{escape(path)}"><article class="markdown-body entry-content '
        f'container-lg" itemprop="text">{html}</article></div>'
    )
