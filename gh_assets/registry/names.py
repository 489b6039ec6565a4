"""Names in the registry: those that the product gives to models and aliases, and which names are valid."""

import re

from gh_assets.errors import InputError

RECVAE = "recvae"
HYBRID = "hybrid"

SERVED = (HYBRID, RECVAE)
"""Models that may serve while none has been promoted; all other names are baselines."""

PURPOSE = "recommend repositories"
CHAMPION = "champion"
CANDIDATE = "candidate"


def check_name(label: str, value: object) -> str:
    """Return a name that is safe in paths, queries and on a terminal.

    Raises
    ------
    InputError
        If it is not; the message quotes at most 60 characters.
    """
    text = check_text(label, value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ +=@-]{0,199}", text):
        raise InputError(
            f"The {label} {text[:60]!r} is not valid: use at most 200 letters, digits, '.', '_', '-', '+', '=', '@' or "
            "spaces, beginning with a letter or digit."
        )
    return text


def check_text(label: str, value: object) -> str:
    """Return a string; in a query, ``{"$ne": ""}`` in place of a name would match every model."""
    if not isinstance(value, str):
        raise InputError(f"The {label} must be text, not {type(value).__name__}.")
    return value
