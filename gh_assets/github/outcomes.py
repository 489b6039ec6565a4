"""Outcomes of requests for a repository. A restricted repository is neither gone nor without stars."""

from enum import StrEnum


class Outcome(StrEnum):
    """Outcome of requesting a repository or its stars."""

    OK = "ok"
    MOVED = "moved"
    """Reached through a redirect: renamed since a list named it. Its data are valid."""
    RESTRICTED = "restricted"
    """It exists, but these tokens may not list its stargazers."""
    GONE = "gone"
    """Both it and its metadata have status 404."""
    BLOCKED = "blocked"
    """Status 451, or 403 with a block reason."""
    UNLISTED = "unlisted"
    """No list names it: a partition added by hand, or whose repository left all lists. It is not requested."""
    UNAVAILABLE = "unavailable"
    """It exists, but this GitHub does not have what was requested: GitHub Enterprise has no star histories."""
    UNKNOWN = "unknown"
    """The network or GitHub kept failing. It is requested again by the next run."""


REACHABLE = frozenset({Outcome.OK, Outcome.MOVED})
"""Outcomes of the metadata of repositories that can be collected."""
