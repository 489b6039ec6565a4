"""Tests of the rendering of files as GitHub's HTML."""

import pytest

from gh_assets.embedded.standin.rendering import render, wrap


@pytest.mark.parametrize(
    ("path", "text", "html"),
    [
        ("README.md", "[a](https://github.com/a/b)", '<a href="https://github.com/a/b">a</a>'),
        ("README.RST", "`a <https://github.com/a/b>`_", 'href="https://github.com/a/b">a</a>'),
        ("notes.txt", "<a & b>", "&lt;a &amp; b&gt;"),
    ],
)
def test_markup_is_rendered_by_its_suffix(path: str, text: str, html: str) -> None:
    assert html in (render(path, text) or "")


def test_other_markup_is_not_rendered() -> None:
    assert render("README.org", "* A heading") is None


def test_rendered_markup_is_an_article_and_plain_text_is_not() -> None:
    assert '<div id="readme" class="md" data-path="README.md"><article' in wrap("<p>a</p>", "README.md", "readme")
    assert "<article" not in wrap(render("LICENSE", "a") or "", "LICENSE", "file")
