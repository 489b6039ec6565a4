"""The exception hierarchy. Every message says what happened, to what, and what to do next."""


class GhAssetsError(Exception):
    """A failure whose message explains it to the user; the command exits with 1."""


class ConfigurationError(GhAssetsError):
    """A setting is missing, unreadable, or contradicts another one."""


class ServiceUnavailableError(GhAssetsError):
    """MongoDB, Google Cloud Storage, GitHub or an embedded server could not be reached."""


class OutageError(GhAssetsError):
    """GitHub has not answered any request for a while."""


class AuthenticationError(GhAssetsError):
    """A service refused the credentials it was given."""


class RateLimitedError(GhAssetsError):
    """The quota is spent, and it is renewed later than the caller is willing to wait."""


class BudgetSpentError(GhAssetsError):
    """The configured number of requests is reached; the collected data are kept."""


class CancelledError(GhAssetsError):
    """Collecting was cancelled; the collected data are kept."""


class GitHubError(GhAssetsError):
    """GitHub sent a response that the collector cannot use."""


class QueryTooHeavyError(GitHubError):
    """GitHub aborted a GraphQL query; a smaller one may succeed."""


class ResourceLimitsError(QueryTooHeavyError):
    """A GraphQL query exceeded GitHub's resource limits: its size was the reason."""


class GraphQLUnavailableError(GitHubError):
    """The server or the token does not support GraphQL; REST remains."""


class InputError(GhAssetsError):
    """A list, a file or an argument is empty, unreadable or malformed."""


class MissingHourError(InputError):
    """An hour is missing in GH Archive."""

    def __init__(self, location: str) -> None:
        super().__init__(f"GH Archive has no {location}.")
        self.location = location


class UnknownUserError(InputError):
    """A login does not belong to a collected user."""


class UnknownRepositoryError(InputError):
    """The model knows none of the given repositories."""


class WorldMismatchError(GhAssetsError):
    """A home that holds data of one GitHub (real, file or synthetic) cannot collect from another."""


class CheckFailedError(GhAssetsError):
    """A blocking check did not pass; the assets downstream are not materialized."""


class StoredDataError(GhAssetsError):
    """A stored object is missing, corrupt, or of an unexpected kind."""


class ConcurrentWriteError(GhAssetsError):
    """Another process replaced an object between a read and a write (generation precondition failed)."""


class ModelNotFoundError(GhAssetsError):
    """No registered model matches the name and tag."""


class InvalidInteractionsError(GhAssetsError, ValueError):
    """A matrix given to a recommender has the wrong type, shape or values."""
