"""Reading MongoDB in tests."""

from typing import Any

from gh_assets.storage.mongo import Documents


def the_document(documents: Documents, **query: Any) -> dict[str, Any]:
    """Return the first document that matches, which must exist."""
    document = documents.find_one(query)
    assert document is not None, f"no document has {query}"
    return document
