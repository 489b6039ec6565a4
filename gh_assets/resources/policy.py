"""How much is collected and when, as a Dagster resource."""

import datetime as dt
from dataclasses import fields
from typing import Literal

from gh_assets.collector.plan import RefreshPolicy
from gh_assets.collector.quota import Quota, quota_of
from gh_assets.github.ledger import MongoLedger
from gh_assets.resources.base import SettingsResource, setting
from gh_assets.settings import StarSourceName
from gh_assets.storage.mongo import Collections, MongoDatabase

CELERY_SHARES = 16
"""Steps that a collection is divided into by default when Celery workers execute them."""


class PolicyResource(SettingsResource):
    """Limits of the collection, and the conditions on which sensors start runs."""

    source: StarSourceName = setting("source")
    max_pages: int = setting("max_pages")
    max_users: int = setting("max_users")
    target_share: float = setting("target_share")
    seed_users: str | None = setting("seed_users")
    workers: int = setting("workers")
    archive: str = setting("archive")
    retire: bool = setting("retire")
    executor: Literal["in_process", "multiprocess", "celery", "kubernetes"] = setting("executor")
    quota_reserve: float = setting("quota_reserve")
    counts_after: str = setting("counts_after")
    refresh_after: str = setting("refresh_after")
    moved_after: str = setting("moved_after")
    retry_after: str = setting("retry_after")
    least_news: int = setting("least_news")
    retrain_share: float = setting("retrain_share")

    def refresh_policy(self) -> RefreshPolicy:
        """Return when a repository is due again."""
        names = {field.name for field in fields(RefreshPolicy)}
        return RefreshPolicy(**self.settings().model_dump(include=names))

    def quota(self, database: MongoDatabase, now: dt.datetime, source: StarSourceName | None = None) -> Quota:
        """Return what automation may spend of GitHub's quota now, by default of that of the configured source."""
        known = MongoLedger(database[Collections.GITHUB_BUDGETS]).known()
        return quota_of(source or self.source, self.quota_reserve, known, now)

    @property
    def shares(self) -> int:
        """Number of steps that a collection is divided into by default."""
        return CELERY_SHARES if self.executor == "celery" else 1
