"""Names of repositories and users: which texts GitHub can know them by."""

import re

RESERVED_OWNERS = frozenset(
    [
        "about", "account", "apps", "codespaces", "collections", "contact", "customer-stories", "dashboard",
        "discussions", "education", "enterprise", "events", "explore", "features", "gist", "issues", "join",
        "login", "logout", "marketplace", "notifications", "orgs", "organizations", "pricing", "pulls",
        "readme", "resources", "search", "security", "sessions", "settings", "signup", "site", "solutions",
        "sponsors", "stars", "topics", "trending", "users",
    ]
)  # fmt: skip
"""First path segments of github.com that are pages of GitHub itself, not owners of repositories.

Only certain ones are listed: a page mistaken for a repository costs one request and ends as "gone"; a repository
mistaken for a page would be lost.
"""

NAME = r"[A-Za-z0-9._-]{1,100}"
"""Pattern of a repository's name."""

OWNER = r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}"
"""Pattern of an owner in an address, with room for the longer logins of enterprise-managed users."""

LOGIN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,38}"
"""Pattern of a login on github.com; ``_`` is in logins of enterprise-managed users."""

_FULL_NAME = re.compile(f"{OWNER}/{NAME}")
_ANY_LOGIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,98}[A-Za-z0-9_])?")


def is_full_name(text: str) -> bool:
    """Return whether a text has the form ``owner/name``."""
    return _FULL_NAME.fullmatch(text) is not None


def is_login(text: str) -> bool:
    """Return whether a user could have this login, on github.com or on an Enterprise server."""
    return _ANY_LOGIN.fullmatch(text) is not None
