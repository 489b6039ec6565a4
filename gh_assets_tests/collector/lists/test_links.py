"""Links of HTML, addresses of repositories, and the repositories that a text names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.collector.lists.links import html_links, repository_of
from gh_assets_tests.support.links import linked_repositories

ADDRESSES = [
    "https://github.com/owner/name",
    "http://github.com/owner/name",
    "https://www.github.com/owner/name",
    "https://GitHub.com/owner/name/",
    "https://github.com/owner/name.git",
    "https://github.com/owner/name#readme",
    "https://github.com/owner/name?tab=readme-ov-file",
    "https://github.com/owner/name/tree/main/docs",
    "https://github.com/owner/name/blob/main/README.md#L3",
    "https://github.com//owner//name",
    "//github.com/owner/name",
    "git@github.com:owner/name.git",
    "git+https://github.com/owner/name.git",
    "  https://github.com/owner/name  ",
    "https://github.com/owner/na%6De",
]
OTHERS = [
    "https://gist.github.com/owner/0123456789abcdef",
    "https://raw.githubusercontent.com/owner/name/main/logo.png",
    "https://owner.github.io/name",
    "https://github.com/owner",
    "https://github.com/",
    "https://github.com/topics/python",
    "https://github.com/orgs/owner/repositories",
    "https://github.com/sponsors/owner",
    "https://github.com/marketplace/actions/checkout",
    "https://github.com/trending/python",
    "https://github.com/search?q=x",
    "https://github.com/-bad/name",
    "https://github.com/owner/..",
    "https://github.com.evil.example/owner/name",
    "https://example.com/github.com/owner/name",
    "mailto:someone@github.com",
    "javascript:github.com/owner/name",
    "https://[github.com/owner/name",
    "#contents",
    "",
]


@pytest.mark.parametrize("url", [*ADDRESSES, *OTHERS])
def test_only_addresses_in_a_repository_name_it(url: str) -> None:
    assert repository_of(url) == ("owner/name" if url in ADDRESSES else None)


def test_all_kinds_of_links_are_found_but_images_are_not() -> None:
    text = """
# Awesome [![Badge](https://github.com/badge/picture/raw/main/b.svg)](https://github.com/linked/badge)

- [inline](https://github.com/a/inline) and [again, other case](https://github.com/A/Inline/)
- [reference][ref], bare https://github.com/a/bare. <https://github.com/a/auto>
- ![only a picture](https://github.com/a/picture/logo.png)
- `https://github.com/a/code`
- text such as github.com/a/text is not a link

<p><a href="https://github.com/a/html">x</a> <a>none</a></p>

| table | link |
|---|---|
| x | [cell](https://github.com/a/cell) |

```
https://github.com/a/fenced
```

[ref]: https://github.com/a/reference "title"
"""
    assert linked_repositories(text) == [
        "linked/badge", "a/inline", "a/reference", "a/bare", "a/auto", "a/html", "a/cell",
    ]  # fmt: skip


names = st.from_regex(
    r"[A-Za-z0-9][A-Za-z0-9-]{0,15}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,15}[A-Za-z0-9_]", fullmatch=True
).filter(lambda name: not name.lower().endswith(".git") and repository_of(f"https://github.com/{name}") is not None)


@given(
    name=names,
    prefix=st.sampled_from(["https://github.com/", "http://www.github.com/", "git@github.com:"]),
    suffix=st.sampled_from(["", "/", ".git", "#readme", "/issues/1", "?a=b", "/tree/main/x"]),
)
def test_a_repository_name_survives_every_form_of_its_address(name: str, prefix: str, suffix: str) -> None:
    assert repository_of(prefix + name + suffix) == name


@given(st.text())
def test_arbitrary_text_yields_only_well_formed_names(text: str) -> None:
    for name in linked_repositories(text):
        assert name.count("/") == 1


@given(st.lists(names, min_size=1, max_size=20))
def test_each_repository_of_a_list_is_named_once(wanted: list[str]) -> None:
    found = linked_repositories("\n".join(f"- [x](https://github.com/{name})" for name in [*wanted, *wanted]))
    assert len(found) == len({name.lower() for name in wanted})
    assert {name.lower() for name in found} == {name.lower() for name in wanted}


@given(st.text(alphabet=st.sampled_from(list("<>a /!-[]=\"'&;hrefdivsciptCDATA?")), max_size=200))
def test_arbitrary_html_is_read(text: str) -> None:
    html_links(text)


def test_deep_and_malformed_html_is_read() -> None:
    link = '<a href="https://github.com/a/b">'
    for html in (
        "<div>" * 100_000 + link,
        "<ul><li>" * 50_000 + link + "</li></ul>" * 3,
        f"<![x[{link}",
        f"</p>< {link}",
    ):
        assert html_links(html).urls == ["https://github.com/a/b"]


def test_anchors_without_a_target_are_not_links_and_the_path_is_taken_from_github() -> None:
    found = html_links('<div id="readme" data-path="docs/README.org"><a id="x">h</a><a HREF=\'y&amp;z\'>y</a></div>')
    assert (found.urls, found.path, found.is_plain) == (["y&z"], "docs/README.org", False)
