"""The one exception hierarchy. Every message says what happened, to which thing, and what to do next."""

from __future__ import annotations


class GhAssetsError(Exception):
    """A failure that its message explains to the person who runs the project (exit code 1)."""


class ConfigurationError(GhAssetsError):
    """A setting is missing, unreadable, or contradicts another."""


class ServiceUnavailableError(GhAssetsError):
    """MongoDB, Google Cloud Storage, GitHub or an embedded server could not be reached."""


class OutageError(GhAssetsError):
    """GitHub has not answered for a while, whatever was asked."""


class AuthenticationError(GhAssetsError):
    """A service refused the credentials it was given."""


class RateLimitedError(GhAssetsError):
    """The quota is spent and the wait until it is renewed is longer than the caller allows."""


class BudgetSpentError(GhAssetsError):
    """The cap that a person set on requests is reached; what was collected is kept."""


class CancelledError(GhAssetsError):
    """Collecting was stopped from outside; what was collected is kept."""


class GitHubError(GhAssetsError):
    """GitHub answered with something that the collector cannot use."""


class QueryTooHeavyError(GitHubError):
    """GitHub gave up on a GraphQL query; a smaller one may succeed."""


class GraphQLUnavailableError(GitHubError):
    """The server, or the token, has no GraphQL: REST has to do."""


class InputError(GhAssetsError):
    """A list, a file or an argument that a person gave is empty, unreadable or malformed."""


class MissingHourError(InputError):
    """GH Archive does not have an hour."""

    def __init__(self, location: str) -> None:
        super().__init__(f"GH Archive has no {location}.")
        self.location = location


class UnknownUserError(InputError):
    """A login that is not among the collected users."""


class UnknownRepositoryError(InputError):
    """None of the named repositories is known to the model."""


class WorldMismatchError(GhAssetsError):
    """A home that holds the data of one GitHub (real, file or synthetic) was asked to collect from another."""


class CheckFailedError(GhAssetsError):
    """A blocking check did not pass: what follows is not made from what it looked at."""


class StoredDataError(GhAssetsError):
    """A stored object is missing, corrupt, or not of the kind that was asked for."""


class ConcurrentWriteError(GhAssetsError):
    """Another writer replaced an object between our read and our write (generation precondition failed)."""


class ModelNotFoundError(GhAssetsError):
    """No registered model matches the name and tag."""


class InvalidInteractionsError(GhAssetsError, ValueError):
    """A matrix given to a recommender has the wrong type, shape or values."""
