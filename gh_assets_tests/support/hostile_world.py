"""Repositories whose every text tries to break out of the page that shows it."""

from typing import Any

from gh_assets_tests.support.served_home import name_of

HOSTILE_TEXTS = (
    "<script>window.broken=1</script>",
    '"><img src=x onerror=window.broken=1>',
    "'-window.broken-'",
    "{{7*7}}${7*7}<%=7*7%>",
    "javascript:window.broken=1",
    "\u202egnirts desrever\u202c",
    "a\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307",
    "zero\u200bwidth\u2066\u2069",
    "new\nline\r\n\x00\x1b[31mred",
)


def hostile_changes() -> dict[int, dict[str, Any]]:
    """Changes of `rows_of` that make every third repository hostile in each field."""
    return {
        place: {
            "full_name": f"painters/{HOSTILE_TEXTS[place % len(HOSTILE_TEXTS)]}" if place % 6 == 0 else name_of(place),
            "description": " ".join(HOSTILE_TEXTS),
            "language": HOSTILE_TEXTS[place % len(HOSTILE_TEXTS)],
            "topics": list(HOSTILE_TEXTS),
        }
        for place in range(0, 60, 3)
    }
