"""Rendering of Markdown and reStructuredText as GitHub's HTML; worlds contain the HTML of other markups."""

from html import escape

from docutils.core import publish_parts

from gh_assets.collector.lists.markup import MARKUP_SUFFIXES, RST_SETTINGS, markdown_to_html, suffix_of

_MARKDOWN = (".md", ".markdown", ".mdown", ".mdwn", ".mkd", ".mkdn")
_RST = (".rst", ".rest")


def render(path: str, text: str) -> str | None:
    """Return the HTML of a file, or None for a markup that is not rendered here."""
    suffix = suffix_of(path)
    if suffix in _MARKDOWN:
        return markdown_to_html(text)
    if suffix in _RST:
        return str(publish_parts(text, writer="html5", settings_overrides=RST_SETTINGS)["body"])
    if suffix in MARKUP_SUFFIXES:
        return None
    return f'<div class="plain"><pre style="white-space: pre-wrap">{escape(text)}</pre></div>'


def wrap(html: str, path: str, kind: str) -> str:
    """Wrap HTML as GitHub's API does; `kind` is ``readme`` or ``file``."""
    name = suffix_of(path).removeprefix(".") or "txt"
    if html.startswith('<div class="plain">'):
        return f'<div id="{kind}" class="{name}" data-path="{escape(path)}">{html}</div>'
    return (
        f'<div id="{kind}" class="{name}" data-path="{escape(path)}"><article class="markdown-body entry-content '
        f'container-lg" itemprop="text">{html}</article></div>'
    )
