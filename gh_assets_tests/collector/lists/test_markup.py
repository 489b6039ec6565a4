"""Links of each markup: Markdown, Org, AsciiDoc, reStructuredText and HTML."""

import re
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.collector.lists.links import repository_of
from gh_assets.collector.lists.markup import MARKUP_SUFFIXES, links_in, markdown_to_html
from gh_assets.errors import InputError
from gh_assets_tests.support.links import linked_repositories

names = st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9]/[a-z][a-z0-9_.-]{0,10}[a-z0-9]", fullmatch=True).filter(
    lambda name: not name.endswith(".git") and repository_of(f"https://github.com/{name}") is not None
)

ORG = """#+TITLE: Tools
#+LINK: gh https://github.com/
* Planning
:PROPERTIES:
:SOURCE: https://github.com/no/property
:END:
  - [[https://github.com/a/described][a description of [a] link]], [[https://github.com/a/plain]]
    - <https://github.com/a/angle>, https://github.com/a/bare. (https://github.com/a/parentheses)
  - [[gh:a/abbreviated][x]] and *https://github.com/a/bold*
  - [[https://github.com/a/wrapped][a description
    of two lines]] :: [[https://github.com/a/picture][https://github.com/no/badge.svg]]
  - =https://github.com/no/verbatim= and ~git clone https://github.com/no/code~
  - [[https://github.com/a/code-in-description][=code=]] and src_sh{git clone https://github.com/no/inline-source}
| cell | https://github.com/a/cell |
# https://github.com/no/comment
: https://github.com/no/fixed-width
#+begin_src sh
git clone https://github.com/no/source
#+end_src
#+BEGIN_EXAMPLE
https://github.com/no/example
#+END_EXAMPLE
#+BEGIN_QUOTE
https://github.com/a/quote
#+END_QUOTE
#+BEGIN_EXPORT html
<a href="https://github.com/a/exported">x</a>
#+END_EXPORT
** COMMENT Drafts
https://github.com/no/commented-tree
*** below it
https://github.com/no/below
** Private :noexport:
https://github.com/a/not-exported-but-shown-by-github
** Last
https://github.com/a/last
#+BEGIN_SRC that never ends
https://github.com/a/unclosed
"""

ADOC = """= Tools
:toc:
:base: https://github.com
:planner: {base}/a/attribute

* https://github.com/a/described[planner^, role=x] and https://github.com/a/bare, <https://github.com/a/angle>
** link:https://github.com/a/macro[Catalog] link:{base}/a/in-macro[x] {planner}[x] {planner}-bare
* {blank}https://github.com/a/blank and *https://github.com/a/bold* and _https://github.com/a/italic_
* image:https://img.example/b.svg[link=https://github.com/a/picture] link:++https://github.com/a/plus++[x]
* https://github.com/a/badge[image:https://github.com/no/badge.svg[x]]
* `https://github.com/a/monospaced` `link:https://github.com/a/code[x]` ``https://github.com/a/double[x]``
* '`https://github.com/a/quoted[x]`' `+https://github.com/no/literal-code+` `pass:[https://github.com/no/code-pass]`
* +https://github.com/no/pass+ pass:[https://github.com/no/pass-macro]
* \\https://github.com/no/escaped and github.com/no/scheme
+
----
git clone https://github.com/no/listing
----
term:: https://github.com/a/definition

// https://github.com/no/comment

[source,sh]
git clone https://github.com/no/source-paragraph

[source,sh]
--
git clone https://github.com/no/open-block
--

....
https://github.com/no/literal
....

////
https://github.com/no/comment-block
////

++++
https://github.com/no/passthrough <a href="https://github.com/a/passthrough">x</a>
++++

 https://github.com/no/indented

____
https://github.com/a/quote
____

|===
|https://github.com/a/cell|https://github.com/a/cell2[x]
|===

ifdef::env-github[]
https://github.com/a/on-github
endif::[]
ifndef::env-github[]
https://github.com/no/elsewhere
endif::[]
ifdef::env-github[https://github.com/a/conditional]
ifdef::asciidoctor[https://github.com/a/asciidoctor]
ifdef::backend-html5[https://github.com/a/html5]

[link=https://github.com/a/linked-image]
image::x.png[]

image::x.png[Alt, link='https://github.com/a/single-quotes']

[%header,format=csv]
|===
https://github.com/a/csv,https://github.com/a/csv2[x]
|===

,===
https://github.com/a/csv3,https://github.com/a/csv4
,===

.Title https://github.com/a/title
[source]
https://github.com/no/source-below-title

.Title
 https://github.com/no/indented-below-title

====
[source]
https://github.com/no/source-in-example
====
====
 https://github.com/no/indented-in-example
====

--
 https://github.com/no/indented-in-block
--

|===
| cell

 https://github.com/a/indented-cell
|===
"""

RST = """
Tools
=====

* `planner <https://github.com/a/embedded>`_, `probe <https://github.com/a/anonymous>`__ and Catalog_
* https://github.com/a/bare. See |badge| and `one of two words`_

.. _Catalog: https://github.com/a/target
.. _one of two words: https://github.com/a/words
.. |unused| image:: https://img.example/b.svg
   :target: https://github.com/no/unused

.. |badge| image:: https://img.example/b.svg
   :target: https://github.com/a/picture

.. code-block:: sh

   git clone https://github.com/no/code-block

Text::

   https://github.com/no/literal

``https://github.com/no/inline-literal``

.. https://github.com/no/comment

.. unknown-directive:: x

.. raw:: html

   <a href="https://github.com/no/raw">x</a>

.. include:: /etc/passwd
"""


@pytest.mark.parametrize(("text", "name"), [(ORG, "list.org"), (ADOC, "list.adoc"), (RST, "list.rst")])
def test_all_links_of_a_markup_are_found_and_nothing_else(text: str, name: str) -> None:
    expected = [line_part for line_part in _repositories(text) if line_part.startswith("a/")]
    found = linked_repositories(text, name)
    assert [repository for repository in found if not repository.startswith("a/")] == []
    assert set(expected) - set(found) == set()


def _repositories(text: str) -> list[str]:
    return re.findall(r"(?:github\.com/|gh:|\{base\}/)(a/[a-z0-9-]+)", text)


@pytest.mark.parametrize(
    ("name", "text", "links"),
    [
        ("x.org", "[[file:lists/one.org][x]] [[./lists/two.org::*Head]]", ["lists/one.org", "./lists/two.org"]),
        (
            "x.adoc",
            "link:lists/one.adoc[x] xref:lists/two.adoc[x] <<lists/three.adoc#,x>>\ninclude::lists/four.adoc[]",
            ["lists/one.adoc", "lists/two.adoc", "lists/three.adoc", "lists/four.adoc"],
        ),
        ("x.rst", "`x <lists/one.rst>`_", ["lists/one.rst"]),
        ("x.md", "[x](lists/one.md)", ["lists/one.md"]),
    ],
)
def test_links_to_other_files_are_found(name: str, text: str, links: list[str]) -> None:
    assert links_in(text, name) == links


WRITTEN = {
    "list.md": ["[x](https://github.com/{})", "<https://github.com/{}>", "https://github.com/{}.", "www.github.com/{}"],
    "list.org": ["[[https://github.com/{}][x]]", "[[https://github.com/{}]]", "<https://github.com/{}>",
                 "https://github.com/{}, x"],
    "list.adoc": ["https://github.com/{}[x]", "link:https://github.com/{}[x]", "<https://github.com/{}>",
                  "https://github.com/{}.", "{{hub}}/{}[x]"],
    "list.rst": ["`x <https://github.com/{}>`__", "https://github.com/{}.", "<https://github.com/{}>"],
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
@given(data=st.data(), wanted=st.lists(names, min_size=1, max_size=12, unique=True))
def test_links_of_any_form_at_any_depth_are_found(name: str, data: st.DataObject, wanted: list[str]) -> None:
    lines, depth = [":hub: https://github.com\n"] if name == "list.adoc" else [], 0
    for repository in wanted:
        depth = data.draw(st.integers(0, depth + 1)) if lines and depth < 8 else 0
        link = data.draw(st.sampled_from(WRITTEN[name])).format(repository)
        if name == "list.rst" and re.search(r"_[.-]", repository):
            # In a bare address "a_." is a reference to "a", for docutils as on GitHub.
            link = WRITTEN[name][0].format(repository)
        if name == "list.md" and re.search(r"\.\.[_.-]", repository):
            # The library that finds bare addresses ends them before "..", unless a letter or a digit follows.
            link = WRITTEN[name][0].format(repository)
        before = data.draw(st.sampled_from(["", "see ", "text and ", "("]))
        after = ")" if before == "(" else data.draw(st.sampled_from(["", " - some text", "\n"]))
        marker = "*" * (depth + 1) if name == "list.adoc" else "  " * depth + "-"
        # A list of another level is a block of its own in reStructuredText.
        lines.append(f"{marker} {before}{link}{after}" + ("\n" if name == "list.rst" else ""))
    assert set(linked_repositories("\n".join(lines), name)) == set(wanted)


@pytest.mark.parametrize("suffix", sorted(MARKUP_SUFFIXES | {"", ".txt", ".html"}))
@given(
    text=st.text(alphabet=st.sampled_from(list("ab:/[]<>()*_`~=+|#{}.,-\\\n \"'!%\t")) | st.characters(), max_size=300)
)
def test_arbitrary_text_in_any_markup_is_read_or_refused(suffix: str, text: str) -> None:
    try:
        links_in(text, f"list{suffix}")
    except InputError:
        assert suffix in (".textile", ".rdoc", ".creole", ".mediawiki", ".wiki", ".pod")


@pytest.mark.parametrize("depth", [24, 60, 140])
def test_nested_lists_of_markdown_are_read(depth: int) -> None:
    text = "\n".join(f"{'  ' * level}- [x](https://github.com/deep/level{level})" for level in range(depth))
    assert linked_repositories(text) == [f"deep/level{level}" for level in range(depth)]


BARE = """
- www.github.com/garden/planner
- https://www.github.com/soil/probe.
- (www.github.com/a/parentheses), **www.github.com/a/bold**; www.github.com/a/question?
- github.com/no/scheme //github.com/no/protocol someone@github.com/no/mail
- `www.github.com/no/code` [x](https://example.com/www.github.com/no/path)
"""
# GitHub shows these tags as text.
FILTERED = (
    "<title>\n\nwords <script> https://github.com/a/one\n\n<!-- x -->\n\n<xmp> <a href='https://github.com/a/two'>x</a>"
)
FOOTNOTES = (
    "[x](https://github.com/m/a)",
    "www.github.com/m/a",
    "**https://github.com/m/a**",
    "\n    [x](https://github.com/m/a)",
    "one\n\n    https://github.com/m/a",
)


@pytest.mark.parametrize(
    ("text", "repositories"),
    [
        ("> " * 60 + "https://github.com/a/b", ["a/b"]),
        ("> - " * 30 + "https://github.com/a/b", ["a/b"]),
        ("1. " * 40 + "[x](https://github.com/a/b)", ["a/b"]),
        ("<details>" * 5000 + "\n\nhttps://github.com/a/b", ["a/b"]),
        ("*" * 200 + " https://github.com/a/b", ["a/b"]),
        (BARE, ["garden/planner", "soil/probe", "a/parentheses", "a/bold", "a/question"]),
        (FILTERED, ["a/one", "a/two"]),
        *[(f"x[^1] https://github.com/first/one\n\n[^1]: {note}", ["first/one", "m/a"]) for note in FOOTNOTES],
    ],
)
def test_links_of_markdown_are_those_that_github_shows(text: str, repositories: list[str]) -> None:
    assert linked_repositories(text) == repositories


def test_unclosed_brackets_do_not_crash_the_parser() -> None:
    with suppress(InputError):
        markdown_to_html("[" * 5000 + "x")


DOUBLING = ":a0: https://github.com/m/a\n" + "".join(f":a{n}: {{a{n - 1}}} {{a{n - 1}}}\n" for n in range(1, 41))


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        *[(".adoc", part) for part in ("image:a", "image:a[", "pass:[", "link:a", "link:++a", "`a ", "https://a[")],
        *[(".org", part) for part in ("[[a]", "[[a][b ", "=a ", "src_a[", "<https://", ":properties:\n")],
        *[(".html", part) for part in ('<a href="', "<!--", "<a ", "</", "<", "<script>")],
        *[(".md", part) for part in ("[", "![", '<a href="', "<!--", "https://a.", "https://a", "www.a.b/", "[^a]: ")],
        *[(".rst", part) for part in ("*a ", "`a ", "|a ")],
        (".adoc", DOUBLING + "{a40}"),
    ],
)
def test_a_text_crafted_to_be_slow_is_read_or_refused_in_seconds(suffix: str, text: str) -> None:
    started = time.process_time()
    with suppress(InputError):
        links_in(text * (100_000 // len(text)), f"list{suffix}")
    assert time.process_time() - started < 6, "about a second; a minute where time grows with the square"


def test_attributes_of_asciidoc_may_grow_to_a_limit() -> None:
    assert linked_repositories(DOUBLING + "{a40}", "list.adoc") == ["m/a"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.md", "> " * 5000 + "x", "nested deeper than 300 levels"),
        ("list.md", "- " * 5000 + "x", "nested deeper than 300 levels"),
        ("list.md", "x" * 5_000_001, "larger than 5 MB: split it into several lists"),
        ("list.adoc", DOUBLING + "{a40}\n" * 1000, "its attributes expand to more than 2,000,000 characters"),
        ("list.TEXTILE", '"x":https://github.com/a/b', "written in Textile, which is read only from GitHub"),
    ],
    ids=["quotes", "lists", "size", "attributes", "markup"],
)
def test_a_text_that_cannot_be_read_is_refused_with_a_reason(name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        links_in(text, name)
