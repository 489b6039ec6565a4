"""Visitors of the pages: a random id in a cookie, under which hidden repositories are kept, and signatures of forms.

The cookie does not identify anyone. Browsers send it with requests of this site's pages only (SameSite), and each form
that changes something contains a signature of it (a CSRF token), which no other site can make.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from gh_assets.local.locks import create_once

COOKIE = "visitor"
DAYS = 180

_VISITOR_ID = re.compile(r"[A-Za-z0-9_-]{22}")


@dataclass(frozen=True)
class Visitor:
    """A visitor of the pages.

    Attributes
    ----------
    visitor_id : str
    known : bool
        Whether the browser sent the id; otherwise it is new.
    token : str
        CSRF token for the visitor's forms.
    """

    visitor_id: str
    known: bool
    token: str


class Visitors:
    """Identify visitors and verify their forms.

    Parameters
    ----------
    folder : Path
        Folder of the key of the signatures, created once, so that forms stay valid when the server restarts.
    """

    def __init__(self, folder: Path) -> None:
        self._secret = create_once(folder / "form-secret", secrets.token_bytes(32))

    def of(self, request: Request) -> Visitor:
        """Return the visitor who sends a request; a new one if the cookie is missing or malformed."""
        visitor_id = request.cookies.get(COOKIE, "")
        known = _VISITOR_ID.fullmatch(visitor_id) is not None
        if not known:
            visitor_id = secrets.token_urlsafe(16)
        return Visitor(visitor_id, known, self._sign(visitor_id))

    def set_cookie(self, response: Response, visitor: Visitor, *, secure: bool, path: str = "/") -> None:
        """Set the cookie with the visitor's id, for the pages below a path."""
        response.set_cookie(
            COOKIE,
            visitor.visitor_id,
            max_age=DAYS * 86_400,
            httponly=True,
            samesite="strict",
            secure=secure,
            path=path,
        )

    def verify(self, visitor: Visitor, token: str) -> bool:
        """Whether a token is the one of this visitor's forms."""
        return visitor.known and hmac.compare_digest(visitor.token.encode(), token.encode())

    def _sign(self, visitor_id: str) -> str:
        return hmac.new(self._secret, visitor_id.encode(), hashlib.sha256).hexdigest()
