"""GitHub as a Dagster resource."""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import ConfigurableResource

from gh_assets.collector.client import GitHubClient
from gh_assets.services import MongoDatabase, awesome_lists, connect_github
from gh_assets.settings import load_settings


class GitHubResource(ConfigurableResource):  # type: ignore[type-arg]
    """GitHub's REST API with the tokens of ``GITHUB_TOKENS``; the project's stand-in if there are none."""

    @contextmanager
    def client(self, database: MongoDatabase | None = None) -> Iterator[GitHubClient]:
        """A client that is closed afterwards, whatever happens: its workers stop with it.

        With a `database` it shares the quota with the other processes that use that.
        """
        with connect_github(load_settings(), database) as client:
            yield client

    def awesome_lists(self, client: GitHubClient) -> list[str]:
        """The lists to read when a run names none."""
        return awesome_lists(load_settings(), client)
