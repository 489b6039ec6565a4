"""Sizes of GraphQL queries that GitHub could process, kept for the next run."""

from gh_assets.github.graphql import QuerySize
from gh_assets.storage.mongo import Collections, MongoDatabase

_DOCUMENT_ID = "graphql query sizes"


class QuerySizeStore:
    """Sizes by kind of list, in the collection ``meta``.

    Parameters
    ----------
    database : pymongo database
    """

    def __init__(self, database: MongoDatabase) -> None:
        self._meta = database[Collections.META]
        self._known = (self._meta.find_one({"_id": _DOCUMENT_ID}) or {}).get("sizes", {})
        self._used: dict[str, QuerySize] = {}

    def of(self, kind: str) -> QuerySize:
        """Return the size for a kind of list, which begins with the one that fitted last time."""
        known = self._known.get(kind)
        return self._used.setdefault(kind, QuerySize() if known is None else QuerySize.resumed(int(known)))

    def save(self) -> None:
        """Store the sizes that were found."""
        limits = {kind: size.limit for kind, size in self._used.items() if size.limit is not None}
        sizes = {kind: size for kind, size in self._known.items() if kind not in self._used} | limits
        if sizes != self._known:
            self._meta.update_one({"_id": _DOCUMENT_ID}, {"$set": {"sizes": sizes}}, upsert=True)
