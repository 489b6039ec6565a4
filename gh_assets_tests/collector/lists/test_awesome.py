"""Which repositories a list names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.collector.lists.awesome import linked_repositories, repository_of
from gh_assets.collector.lists.sources import read_list
from gh_assets.errors import InputError
from gh_assets_tests.support.worlds import LIST, world_of


@pytest.mark.parametrize(
    "url",
    [
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
    ],
)
def test_forms_of_a_repository_address(url: str) -> None:
    assert repository_of(url) == "owner/name"


@pytest.mark.parametrize(
    "url",
    [
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
    ],
)
def test_what_is_no_repository(url: str) -> None:
    assert repository_of(url) is None


def test_all_kinds_of_links_are_found_and_pictures_are_not() -> None:
    text = """
# Awesome [![Badge](https://github.com/badge/picture/raw/main/b.svg)](https://github.com/linked/badge)

- [inline](https://github.com/a/inline) and [again, other case](https://github.com/A/Inline/)
- [reference][ref], bare https://github.com/a/bare. <https://github.com/a/auto>
- ![only a picture](https://github.com/a/picture/logo.png)
- `https://github.com/a/code`
- words such as github.com/a/words are no link

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
def test_any_name_in_any_form_is_read_back(name: str, prefix: str, suffix: str) -> None:
    assert repository_of(prefix + name + suffix) == name


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    for name in linked_repositories(text):
        assert name.count("/") == 1


@given(st.lists(names, min_size=1, max_size=20))
def test_a_list_names_each_repository_once(wanted: list[str]) -> None:
    found = linked_repositories("\n".join(f"- [x](https://github.com/{name})" for name in [*wanted, *wanted]))
    assert len(found) == len({name.lower() for name in wanted})
    assert {name.lower() for name in found} == {name.lower() for name in wanted}


def test_a_list_is_read_from_a_file_or_from_github(github_of, tmp_path: Path) -> None:
    _, client = github_of(world_of({"a/b": [0]}))
    assert read_list(LIST, client).repositories == ["a/b"]
    file = tmp_path / "list.md"
    file.write_text("[x](https://github.com/c/d)")
    assert read_list(str(file), client).repositories == ["c/d"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nobody/nothing", "nobody/nothing cannot be read from GitHub .status 404."),
        ("missing.md", "neither a file that exists nor owner/name"),
        ("./a/b", "neither a file that exists nor owner/name"),
        ("just-a-word", "neither a file that exists nor owner/name"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(github_of, source: str, words: str) -> None:
    _, client = github_of(world_of({"a/b": [0]}))
    with pytest.raises(InputError, match=words):
        read_list(source, client)


def test_a_list_file_that_is_not_text_is_named(github_of, tmp_path: Path) -> None:
    _, client = github_of(world_of({"a/b": [0]}))
    file = tmp_path / "binary.md"
    file.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match=r"binary\.md cannot be read: it is not UTF-8: save it as UTF-8\."):
        read_list(str(file), client)
