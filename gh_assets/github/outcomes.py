"""What became of asking for a repository. A restricted repository is neither gone nor starless."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """Outcome of asking GitHub for a repository or for its stars."""

    OK = "ok"
    MOVED = "moved"
    """Reached through a redirect: renamed since it was listed. Its data are as good as those of `OK`."""
    RESTRICTED = "restricted"
    """It exists, but its stargazers may not be listed by these tokens."""
    GONE = "gone"
    """404, and its metadata is 404, too."""
    BLOCKED = "blocked"
    """451, or 403 with a block reason."""
    UNLISTED = "unlisted"
    """No list names it: a partition that a person made, or whose repository left all lists. It is not asked for."""
    UNKNOWN = "unknown"
    """Could not be asked: the network or GitHub kept failing. Asked again next time."""


REACHABLE = frozenset({Outcome.OK, Outcome.MOVED})
"""Outcomes of metadata that make a repository worth collecting."""
