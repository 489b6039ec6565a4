"""Cursors: the repositories that earlier pages of a list showed, as text that fits into a URL.

With page numbers a list would repeat or skip entries when the model, the data or a visitor's feedback changes between
two pages. With a cursor the next page holds the best repositories that were not shown.
"""

import base64
import binascii
from collections.abc import Collection

from gh_assets.errors import InputError
from gh_assets.serving.requests import MAX_PAGED_RECOMMENDATIONS

MAX_CURSOR_LENGTH = 8 * MAX_PAGED_RECOMMENDATIONS
"""Maximum number of characters of a cursor."""


def write_cursor(shown: Collection[int]) -> str:
    """Encode ids: sorted, delta-encoded as LEB128, then base64url without padding."""
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
    """Decode a cursor to ids in ascending order.

    Raises
    ------
    InputError
        If the text is not a cursor.
    """
    invalid = InputError("The cursor is not valid. Leave it out to start at the top of the list.")
    if len(text) > MAX_CURSOR_LENGTH:
        raise invalid
    try:
        content = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise invalid from None
    ids: list[int] = []
    value = shift = before = 0
    for byte in content:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            before += value
            ids.append(before)
            value = shift = 0
        elif shift > 63:
            raise invalid
    if shift or len(ids) > MAX_PAGED_RECOMMENDATIONS or (ids and ids[-1] >= 2**63):
        raise invalid
    return tuple(ids)
