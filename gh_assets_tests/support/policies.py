"""Retry policies of the tests, apart from the fixtures, which take a new process seconds to import."""

from gh_assets.github.retries import RetryPolicy

QUICK = RetryPolicy(
    attempts=4,
    first_wait=0.001,
    longest_wait=0.002,
    secondary_wait=0.01,
    longest_quota_wait=2.0,
    confirmation_wait=0.01,
    points_a_minute={},
)
"""A policy with the same decisions as the default, but short waits and no pace."""
