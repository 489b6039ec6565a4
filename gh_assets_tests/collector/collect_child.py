"""A collector in a process of its own, to be killed: ``python -m gh_assets_tests.collector.collect_child '{…}'``."""

import json
import sys
from dataclasses import replace

from pydantic import SecretStr

from gh_assets.collector.collection import collect
from gh_assets.collector.star_sources.base import CollectionOptions, RepositoryRef
from gh_assets.github.client import GitHubClient
from gh_assets.github.ledger import MongoLedger
from gh_assets.github.outcomes import Outcome
from gh_assets.services.connections import connect_gcs, open_mongo
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.policies import QUICK


def main() -> int:
    arguments = json.loads(sys.argv[1])
    settings = load_settings().model_copy(update={"mongo_database": arguments["database"]})
    store = AssetStore(ObjectStore(connect_gcs(settings), arguments["bucket"], create=True), 4)
    refs = [RepositoryRef(n, name, name, count, Outcome.OK) for n, name, count in arguments["repositories"]]
    tokens = [SecretStr(token) for token in arguments["tokens"]]
    with open_mongo(settings) as database:
        ledger = MongoLedger(database["github_budgets"])
        # With other collectors and faults, seconds may pass without a valid response.
        policy = replace(QUICK, longest_quota_wait=120.0)
        with GitHubClient(arguments["url"], tokens, policy=policy, ledger=ledger) as client:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            options = CollectionOptions(arguments["source"], 20, workers=4)
            collected = collect(options, refs, client, database, store)
    unclear = collected.report.outcomes[Outcome.UNKNOWN.value] + collected.report.unproven + collected.forks_unread
    unclear += collected.users.unread if collected.users is not None else 0
    return 3 if unclear else 0


if __name__ == "__main__":
    sys.exit(main())
