"""GitHub as a Dagster resource."""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import ConfigurableResource

from gh_assets.github.client import GitHubClient
from gh_assets.services.connections import awesome_lists, connect_github
from gh_assets.services.world import has_only_archive
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import MongoDatabase


class GitHubResource(ConfigurableResource):  # type: ignore[type-arg]
    """GitHub's REST API with the tokens of ``GITHUB_TOKENS``; the project's stand-in if there are none."""

    @contextmanager
    def client(
        self, database: MongoDatabase | None = None, *, max_requests: int | None = None
    ) -> Iterator[GitHubClient]:
        """A client that is closed afterwards, whatever happens: its workers stop with it.

        With a `database` it shares the quota with the other processes that use that.
        """
        with connect_github(load_settings(), database, max_requests=max_requests) as client:
            yield client

    @contextmanager
    def client_if_any(
        self, database: MongoDatabase, *, max_requests: int | None = None
    ) -> Iterator[GitHubClient | None]:
        """As `client`; None where there is only GH Archive."""
        if self.has_only_archive():
            yield None
        else:
            with self.client(database, max_requests=max_requests) as client:
                yield client

    def has_only_archive(self) -> bool:
        """Whether there is no GitHub to ask, only hours of GH Archive."""
        return has_only_archive(load_settings())

    def awesome_lists(self, client: GitHubClient) -> list[str]:
        """The lists to read when a run names none."""
        return awesome_lists(load_settings(), client)
