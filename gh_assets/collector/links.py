"""What all readers of links need: those of HTML, such as GitHub makes of a README, and where a bare address ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class HtmlLinks:
    """Links of a document.

    Attributes
    ----------
    urls : list of str
        Targets of ``<a href>``, in order.
    path : str
        The file that GitHub rendered, as it says in ``data-path``; empty where there is none.
    is_plain : bool
        Whether GitHub shows the file as it is, without links, because it is in no markup.
    """

    urls: list[str] = field(default_factory=list)
    path: str = ""
    is_plain: bool = False


def html_links(html: str) -> HtmlLinks:
    """Links of an HTML document or fragment, whatever its depth, however broken."""
    parser = _Parser()
    # A marked section is nothing in HTML, and html.parser raises on one that is malformed.
    parser.feed(html.replace("<![", "&lt;!["))
    parser.close()
    return parser.found


def without_punctuation(url: str) -> str:
    """A bare address without what belongs to the sentence around it."""
    while True:
        shorter = url.rstrip(".,;:!?'\"*/+~=")
        if shorter.endswith(")") and shorter.count(")") > shorter.count("("):
            shorter = shorter[:-1]
        if shorter == url:
            return url
        url = shorter


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found = HtmlLinks()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in reversed(attrs)}  # the first of two counts
        if tag == "a" and attributes.get("href"):
            self.found.urls.append(attributes["href"])
        elif tag == "div" and not self.found.path:
            self.found.path = attributes.get("data-path", "")
        elif tag == "div" and not self.found.urls and attributes.get("class") == "plain":
            self.found.is_plain = True
