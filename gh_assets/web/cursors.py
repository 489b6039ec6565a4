"""Where a list goes on: what was shown already, as text that fits into an address.

A page number would repeat or skip when the model, the data or somebody's verdicts change between two pages. This does
not: whatever the list is by then, it goes on with what was not shown.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection

from gh_assets.errors import InputError
from gh_assets.serving.requests import MAX_PAGED_RECOMMENDATIONS

LONGEST = 8 * MAX_PAGED_RECOMMENDATIONS


def write_cursor(shown: Collection[int]) -> str:
    """Ids as text: sorted, their differences in groups of seven bits."""
    content = bytearray()
    before = 0
    for repo_id in sorted(set(shown)):
        step, before = repo_id - before, repo_id
        while step >= 0x80:
            content.append(step & 0x7F | 0x80)
            step >>= 7
        content.append(step)
    return base64.urlsafe_b64encode(bytes(content)).decode().rstrip("=")


def read_cursor(text: str) -> tuple[int, ...]:
    """The ids, ascending.

    Raises
    ------
    InputError
        If it is no cursor.
    """
    wrong = InputError("The cursor is none that this server gave: leave it out to begin at the top.")
    if len(text) > LONGEST:
        raise wrong
    try:
        content = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise wrong from None
    found: list[int] = []
    value = shift = before = 0
    for byte in content:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            before += value
            found.append(before)
            value = shift = 0
        elif shift > 63:
            raise wrong
    if shift or len(found) > MAX_PAGED_RECOMMENDATIONS or (found and found[-1] >= 2**63):
        raise wrong
    return tuple(found)
