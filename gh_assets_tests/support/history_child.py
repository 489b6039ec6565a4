"""A reader of star histories in a process of its own, to be killed: ``python -m …history_child '{…}'``."""

import json
import sys

from pydantic import SecretStr

from gh_assets.collector.history_collection import read_histories
from gh_assets.collector.star_sources.base import RepositoryRef
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.services.connections import connect_gcs, open_mongo
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.policies import QUICK


def main() -> int:
    """Read the histories that the argument names; return 3 if one of them could not be read."""
    arguments = json.loads(sys.argv[1])
    settings = load_settings().model_copy(update={"mongo_database": arguments["database"]})
    store = AssetStore(ObjectStore(connect_gcs(settings), arguments["bucket"], create=True), 4)
    refs = [RepositoryRef(n, name, name, count, Outcome.OK) for n, name, count in arguments["repositories"]]
    with open_mongo(settings) as database, GitHubClient(arguments["url"], [SecretStr("token")], policy=QUICK) as client:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        report = read_histories(refs, client, database, store, max_pages=20, workers=4)
    return 0 if report.outcomes["ok"] == len(refs) else 3


if __name__ == "__main__":
    sys.exit(main())
