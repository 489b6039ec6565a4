"""MongoDB: types, names of the collections, and error messages without data of documents."""

from enum import StrEnum
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError, WriteConcernError

MongoDatabase = Database[dict[str, Any]]
Documents = Collection[dict[str, Any]]


class Collections(StrEnum):
    """Names of the project's collections."""

    DEAD_LETTERS = "dead_letters"
    FEEDBACK = "feedback"
    GITHUB_BUDGETS = "github_budgets"
    META = "meta"
    MODELS = "models"
    REPOS = "repos"
    STARGAZER_PAGES = "stargazer_pages"
    STARGAZER_STATE = "stargazer_state"
    STARRED_STATE = "starred_state"
    STAR_HISTORY_STATE = "star_history_state"
    UNSTARS = "unstars"
    USERS = "users"


class MetaId(StrEnum):
    """Ids of single documents in the collection `Collections.META`."""

    RESTORED = "restored"
    RESTORING = "restoring"
    SCHEMA = "schema"
    WORLD = "world"


_SAFE_ERROR_CODES = {13, 18, 20, 59, 64, 72, 79, 91, 100, 115, 189, 8000, 10107, 11600}
"""Codes of errors about rights, commands, write concerns and the server's state, never about a document."""


def mongo_reason(error: PyMongoError) -> str:
    """Return name and code of an error and, where it cannot quote a document, its message."""
    if not isinstance(error, OperationFailure):
        return type(error).__name__
    details = error.details or {}
    concern = details.get("writeConcernError") if isinstance(error, WriteConcernError) else None
    response = concern if isinstance(concern, dict) else details
    name = str(response.get("codeName") or type(error).__name__)
    message = str(response.get("errmsg") or "").split("\n")[0][:200].rstrip(".")
    # The message about a duplicate key or an invalid document quotes it, and that may be about a person.
    quoted = f": {message}" if message and error.code in _SAFE_ERROR_CODES else ""
    return f"{name}{'' if error.code is None else f' (code {error.code})'}{quoted}"
