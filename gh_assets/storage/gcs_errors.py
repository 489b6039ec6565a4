"""Errors of Cloud Storage: which are retried, and how they become the project's own, which say what to do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from google.api_core import exceptions as google
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage.exceptions import DataCorruption

from gh_assets import errors
from gh_assets.local.network import UNTRUSTED_HELP, is_untrusted
from gh_assets.storage.google_internals import google_retries

ROLE_HELP = "Give the account the role 'Storage Object Admin' on the bucket."

ROLE_REASONS = ("", "forbidden", "insufficientPermissions")
"""Google's reasons for a refusal that a role may change."""


def is_retryable(error: BaseException) -> bool:
    """Whether another attempt may succeed, as Google recommends, but never for an untrusted certificate."""
    return not is_untrusted(error) and (is_truncated(error) or google_retries(error))


def is_truncated(error: BaseException) -> bool:
    """Whether a response was cut off within its JSON."""
    return isinstance(error, json.JSONDecodeError)


@contextmanager
def translated_errors(uri: str, *, writing: bool = False) -> Iterator[None]:
    """Raise the errors of Google's client as the project's own.

    Parameters
    ----------
    uri : str
        The object, for the message.
    writing : bool
        Whether a missing object can only mean that the bucket is missing.
    """
    try:
        yield
    except Exception as error:
        translated = _translate(error, uri, writing=writing)
        if translated is None:
            raise
        raise translated from error


def _translate(error: Exception, uri: str, *, writing: bool) -> errors.GhAssetsError | None:
    match error:
        case google.PreconditionFailed() | google.Conflict():
            return errors.ConcurrentWriteError(f"{uri} was written by another process meanwhile. Run again.")
        case google.NotFound() if writing:
            return errors.ConfigurationError(f"The bucket of {uri} does not exist: create it.")
        case google.NotFound():
            return errors.StoredDataError(f"There is no object {uri}.")
        case _ if is_untrusted(error):
            return errors.ConfigurationError(
                f"The server certificate for {uri} is not signed by a known authority. {UNTRUSTED_HELP}"
            )
        case DataCorruption() | google.DataLoss():
            return errors.StoredDataError(f"{uri} arrived damaged: its checksum does not match.")
        case google.Forbidden() | google.Unauthorized() | GoogleAuthError():
            return errors.AuthenticationError(f"Google Cloud Storage refused access to {uri}. {_reason(error)}")
        case google.ClientError() if not isinstance(error, google.TooManyRequests):
            return errors.ConfigurationError(f"Google Cloud Storage refused {uri}. {_reason(error)}")
        case google.GoogleAPICallError() | google.RetryError() | requests.RequestException() | ConnectionError():
            return errors.ServiceUnavailableError(
                f"Google Cloud Storage did not serve {uri} ({type(error).__name__}). Run again: nothing is lost."
            )
    return None


def _reason(error: Exception) -> str:
    """Return Google's reason for a refusal, and the missing role if it is about one."""
    message, reason = str(getattr(error, "message", "") or ""), ""
    response = getattr(error, "response", None)
    try:
        content = {"errors": getattr(error, "errors", [])} if response is None else response.json()["error"]
        message, reason = str(content.get("message", message)), str(content["errors"][0]["reason"])
    except (AttributeError, ValueError, KeyError, IndexError, TypeError):
        pass  # the response is not Google's, but the page of a proxy, or it is truncated
    message = message.split("\n")[0][:300].rstrip(".")
    quoted = f"It says: {message}{f' ({reason})' if reason else ''}." if message else ""
    about_roles = isinstance(error, google.Unauthorized | GoogleAuthError) or reason in ROLE_REASONS
    lacks_role = about_roles and "billing" not in message.lower()
    return f"{quoted} {ROLE_HELP}".strip() if lacks_role else quoted
