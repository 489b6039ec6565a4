"""The cap on requests."""

from __future__ import annotations

import threading

from pydantic import SecretStr

from gh_assets.errors import (
    BudgetSpentError,
)
from gh_assets.github.client import GitHubClient
from gh_assets_tests.conftest import QUICK
from gh_assets_tests.support.worlds import world_of


def test_cap_on_requests_is_never_exceeded(serve_world) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}))
    client = GitHubClient(url, [SecretStr("token")], policy=QUICK, max_requests=7)
    spent = []

    def work() -> None:
        try:
            for _ in range(5):
                client.get("/repos/a/b")
        except BudgetSpentError as error:
            spent.append(str(error))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    client.close()
    assert sum(standin.served.values()) == 7
    assert len(spent) == 4
    assert "reached: 7 were sent" in spent[0]
