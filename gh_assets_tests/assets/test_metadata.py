"""Tables in Dagster's metadata: other people's text stays text, whatever it looks like."""

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from gh_assets.assets.metadata import github_link, markdown_table

HARMLESS = {
    "table_open", "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close", "tr_open", "tr_close",
    "th_open", "th_close", "td_open", "td_close", "inline", "text", "code_inline",
}  # fmt: skip


def tokens(markdown: str) -> list[Token]:
    parsed = MarkdownIt("gfm-like", {"html": True}).parse(markdown)
    return [inner for token in parsed for inner in (token, *(token.children or ()))]


@given(st.text() | st.text(alphabet="_*~`|\\[]()<>!#+-w./0a \n"))
@example("_0_")
@example("Www.example.org")
@example("<script>alert(1)</script>")
@example("[here](javascript:alert(1))")
@example("![](http://127.0.0.1/x.png)")
@example("a | b | c")
@example("a\n\n# b")
@example("`` ` ``")
@example("\\` | x")
@example("www.example.org and user@example.org")
@example("*_~~{{ 1 }}~~_*")
def test_a_cell_is_text_and_one_cell(text: str) -> None:
    markdown = markdown_table(["what"], [(text,), ("next",)]).value
    assert markdown is not None
    parsed = tokens(markdown)
    assert {token.type for token in parsed} <= HARMLESS
    assert sum(token.type == "td_open" for token in parsed) == 2


def test_a_link_leads_to_the_repository_and_nowhere_else() -> None:
    web_url = "https://github.com"
    assert github_link("a/b", None) == "a/b", "the stand-in has no pages"
    markdown = markdown_table(["what"], [(github_link("a_b/c.d", web_url),), (github_link("a/b)(x", web_url),)]).value
    links = [token.attrGet("href") for token in tokens(str(markdown)) if token.type == "link_open"]
    assert links == ["https://github.com/a_b/c.d"]
