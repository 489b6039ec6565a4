"""Code and documents use the field's terms; the private words that stood for them may only become fewer."""

import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

from gh_assets_tests.support.paths import CHECKOUT

ABSENT = (
    *("desk", "keeper", "everybody", "stranger", "strangers", "so many", "of one that", "fame", "hears"),
    "stands for",
)
MAXIMUM: dict[str, int] = dict.fromkeys(ABSENT, 0) | {
    **{"asking": 1, "told": 4, "whoever": 2, "nobody": 6, "somebody": 1, "anybody": 1, "said": 8, "of whom": 1},
    **{"alike": 1, "is told": 1, "words": 25},
}
"""Largest allowed number of uses of each word: as a whole word or a part of an identifier, in any case."""

MAXIMUM_NAMES: dict[str, int] = {"worth": 0}
"""The same for words that are private terms only in identifiers."""

STORED_KEYS = {
    "fame": ("gh_assets/recommender/models/hybrid.py", "gh_assets_tests/recommender/models/test_hybrid.py"),
    "said": (
        "gh_assets/storage/migrations.py",
        "gh_assets/web/feedback.py",
        "gh_assets_tests/serving/test_refresher.py",
        "gh_assets_tests/web/test_api.py",
        "gh_assets_tests/web/test_feedback.py",
        "gh_assets_tests/web/test_pages_in_browser.py",
        "benchmarks/kills.py",
    ),
    "words": (
        "gh_assets/cli/doctor.py",
        "gh_assets/registry/aliases.py",
        "gh_assets_tests/cli/test_failures.py",
        "gh_assets_tests/local/test_network.py",
        "gh_assets_tests/registry/test_aliases.py",
    ),
}
"""Files that use a stored or public key, which stays; there, the quoted key does not count."""

FOLDERS = ("gh_assets", "gh_assets_tests", "benchmarks", "docs")
SUFFIXES = (".py", ".html", ".js", ".md")


@cache
def texts() -> dict[str, str]:
    """Return the contents of code, templates and documents by path, without stored keys."""
    paths = [path for folder in FOLDERS for path in (CHECKOUT / folder).rglob("*") if path.suffix in SUFFIXES]
    paths += [path for path in CHECKOUT.glob("*.md") if path.name != "CHANGELOG.md"]
    paths.remove(Path(__file__))
    contents = {path.relative_to(CHECKOUT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    for key, names in STORED_KEYS.items():
        for name in names:
            if name in contents:
                contents[name] = re.sub(rf"(?<=[\"']){key}(?=[\"'.])", "", contents[name])
    return contents


def pattern(word: str) -> re.Pattern[str]:
    """Return a pattern of a word or phrase; an underscore is no letter, so parts of identifiers match as well."""
    return re.compile(r"(?<![a-z])" + word.replace(" ", r"[\s_]+") + r"(?![a-z])", re.IGNORECASE)


def uses(word: str) -> list[str]:
    """Return the places of a word as ``path:line``."""
    places = []
    for name, text in texts().items():
        for match in pattern(word).finditer(text):
            line = 1 + text.count("\n", 0, match.start())
            places.append(f"{name}:{line}")
    return places


def uses_as_name(word: str) -> list[str]:
    """Return the places of identifiers that contain a word."""
    return [
        f"{name}:{token.start[0]}"
        for name, text in texts().items()
        if name.endswith(".py")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.NAME and pattern(word).search(token.string)
    ]


@pytest.mark.parametrize("word", MAXIMUM)
def test_private_word_does_not_spread(word: str) -> None:
    places = uses(word)
    assert len(places) <= MAXIMUM[word], f"use the field's term instead of {word!r}: {', '.join(places)}"


@pytest.mark.parametrize("word", MAXIMUM_NAMES)
def test_private_name_does_not_spread(word: str) -> None:
    places = uses_as_name(word)
    assert len(places) <= MAXIMUM_NAMES[word], f"use the field's term instead of {word!r}: {', '.join(places)}"


@pytest.mark.parametrize(
    ("text", "count"), [("so many", 1), ("test_so_many", 1), ("So\n    many", 1), ("also many", 0), ("so manyfold", 0)]
)
def test_words_are_found_whole_in_any_form(text: str, count: int) -> None:
    assert len(pattern("so many").findall(text)) == count
