"""Texts from outside are made harmless, numbers short and links complete."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.web.rendering import count, link, plain


@given(st.text(max_size=300))
def test_plain_text_has_no_control_or_direction_characters(text: str) -> None:
    cleaned = plain(text)
    assert len(cleaned) <= 400
    assert not set(cleaned) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\n\r\t\x00\x1b")
    assert plain(cleaned) == cleaned


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, ""), (0, "0"), (999, "999"), (1234, "1.2k"), (34_567, "35k"), (5_600_000, "5.6M"), (12_000_000, "12M")],
)
def test_numbers_are_abbreviated(number: int | None, text: str) -> None:
    assert count(number) == text


def test_link_encodes_its_parameters() -> None:
    assert link("/for", []) == "/for"
    assert link("/for", [("repo", "a/b"), ("repo", "c&d")]) == "/for?repo=a%2Fb&repo=c%26d"
