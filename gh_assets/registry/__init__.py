"""The model registry: a file in Cloud Storage and a document in Mongo for each model. See `store`."""

from gh_assets.registry.aliases import Decision, Move, Promotion
from gh_assets.registry.archives import extract_archive, write_archive
from gh_assets.registry.documents import ModelCard, RegisteredModel
from gh_assets.registry.functions import configured_registry, download_file, file_to_storage, open_registry
from gh_assets.registry.loading import load_weights
from gh_assets.registry.names import CANDIDATE, CHAMPION, HYBRID, PURPOSE, RECVAE, SERVED
from gh_assets.registry.objects import GRACE
from gh_assets.registry.store import ModelRegistry
from gh_assets.storage.mongo import Documents

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "GRACE",
    "HYBRID",
    "PURPOSE",
    "RECVAE",
    "SERVED",
    "Decision",
    "Documents",
    "ModelCard",
    "ModelRegistry",
    "Move",
    "Promotion",
    "RegisteredModel",
    "configured_registry",
    "download_file",
    "extract_archive",
    "file_to_storage",
    "load_weights",
    "open_registry",
    "write_archive",
]
