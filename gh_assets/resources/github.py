"""GitHub as a Dagster resource."""

from contextlib import AbstractContextManager, nullcontext

from gh_assets.github.client import GitHubClient
from gh_assets.resources.base import SettingsResource, setting
from gh_assets.services.connections import awesome_lists, connect_github
from gh_assets.services.world import claim_world, github_site, has_only_archive
from gh_assets.storage.mongo import MongoDatabase


class GitHubResource(SettingsResource):
    """GitHub's API with the configured tokens or app; the project's stand-in if there are none."""

    github_tokens_text: str | None = setting("github_tokens_text")
    github_tokens_file: str | None = setting("github_tokens_file")
    github_app_id: str | None = setting("github_app_id")
    github_app_installations_text: str | None = setting("github_app_installations_text")
    github_app_private_key_file: str | None = setting("github_app_private_key_file")
    github_api_url: str = setting("github_api_url")
    awesome_text: str | None = setting("awesome_text")
    workers: int = setting("workers")

    def client(self, database: MongoDatabase, *, max_requests: int | None = None) -> GitHubClient:
        """Return a client for the length of a `with` block; its threads end with it.

        Parameters
        ----------
        database : pymongo database
            Shares the quota with all processes that use the same database.
        max_requests : int, optional
            Maximum number of requests.
        """
        return connect_github(self.settings(), database, max_requests=max_requests)

    def client_if_any(
        self, database: MongoDatabase, *, max_requests: int | None = None
    ) -> AbstractContextManager[GitHubClient | None]:
        """Return a client as `client` does; None for a home that has GH Archive only."""
        return nullcontext() if self.has_only_archive() else self.client(database, max_requests=max_requests)

    def has_only_archive(self) -> bool:
        """Whether the home has no GitHub, only hours of GH Archive."""
        return has_only_archive(self.settings())

    def awesome_lists(self, client: GitHubClient) -> list[str]:
        """Return the lists to read when a run names none."""
        return awesome_lists(self.settings(), client)

    def claim_world(self, database: MongoDatabase) -> None:
        """Make sure that the database holds data of this GitHub only.

        Raises
        ------
        WorldMismatchError
            If it holds data of another.
        """
        claim_world(self.settings(), database)

    def web_url(self) -> str | None:
        """Return the address of GitHub's pages; None if the repositories are synthetic."""
        return github_site(self.settings())
