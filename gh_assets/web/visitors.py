"""Who looks at the page: a random id in a cookie, so that what is hidden stays hidden; and what forms are signed with.

The cookie says nothing of who it is. It goes along with requests of this site's own pages only (SameSite), and a form
that changes something carries a signature of it, which no other site can make.
"""

from __future__ import annotations

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

_VISITOR = re.compile(r"[A-Za-z0-9_-]{22}")


@dataclass(frozen=True)
class Visitor:
    """Attributes: the id, whether the browser brought it, and the signature for forms."""

    person: str
    known: bool
    token: str


class Visitors:
    """Gives visitors ids, and knows the forms that they got.

    Parameters
    ----------
    secret : bytes
        Signs forms.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of_home(cls, folder: Path) -> Visitors:
        """With the home's secret, made once: forms outlive the server's restart."""
        return cls(create_once(folder / "form-secret", secrets.token_bytes(32)))

    def of(self, request: Request) -> Visitor:
        """Whoever asks; somebody new, if no cookie says."""
        person = request.cookies.get(COOKIE, "")
        known = _VISITOR.fullmatch(person) is not None
        if not known:
            person = secrets.token_urlsafe(16)
        return Visitor(person, known, self._sign(person))

    def keep(self, response: Response, visitor: Visitor, *, secure: bool, path: str = "/") -> None:
        """Let the browser keep the id, for addresses below a path."""
        response.set_cookie(
            COOKIE,
            visitor.person,
            max_age=DAYS * 86_400,
            httponly=True,
            samesite="strict",
            secure=secure,
            path=path,
        )

    def signed(self, visitor: Visitor, token: str) -> bool:
        """Whether a form was made for this visitor."""
        return visitor.known and hmac.compare_digest(visitor.token.encode(), token.encode())

    def _sign(self, person: str) -> str:
        return hmac.new(self._secret, person.encode(), hashlib.sha256).hexdigest()
