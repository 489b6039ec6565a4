"""Models that can't be lost: a file in Cloud Storage and a document in Mongo for each. See `store`."""

from gh_assets.registry.aliases import CANDIDATE, CHAMPION, PURPOSE, SERVED, Move
from gh_assets.registry.archives import extract_archive, write_archive
from gh_assets.registry.decisions import Decision
from gh_assets.registry.documents import RegisteredModel
from gh_assets.registry.functions import configured_registry, download_file, file_to_storage
from gh_assets.registry.loading import load_weights
from gh_assets.registry.store import GRACE, ModelRegistry
from gh_assets.storage.mongo import Documents

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "GRACE",
    "PURPOSE",
    "SERVED",
    "Decision",
    "Documents",
    "ModelRegistry",
    "Move",
    "RegisteredModel",
    "configured_registry",
    "download_file",
    "extract_archive",
    "file_to_storage",
    "load_weights",
    "write_archive",
]
