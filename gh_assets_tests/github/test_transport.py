"""The cap on requests."""

from gh_assets.errors import BudgetSpentError
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.github import in_threads
from gh_assets_tests.support.worlds import world_of


def test_cap_on_requests_is_never_exceeded(github_of: GitHubOf) -> None:
    standin, client = github_of(world_of({"a/b": [0]}), max_requests=7)
    spent = []

    def work() -> None:
        try:
            for _ in range(5):
                client.get("/repos/a/b")
        except BudgetSpentError as error:
            spent.append(str(error))

    in_threads(work, 4)
    assert sum(standin.served.values()) == 7
    assert len(spent) == 4
    assert "reached: 7 were sent" in spent[0]
