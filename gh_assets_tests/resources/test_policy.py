"""The policy: what it derives from its fields."""

import datetime as dt
from typing import Any

import pytest

from gh_assets.github.rate_limits import Resource
from gh_assets.resources import PolicyResource
from gh_assets.storage.mongo import Collections, MongoDatabase


@pytest.mark.parametrize(("executor", "shares"), [("in_process", 1), ("multiprocess", 1), ("celery", 16)])
def test_celery_workers_share_a_collection_by_default(executor: Any, shares: int) -> None:
    assert PolicyResource(executor=executor).shares == shares


def test_the_refresh_policy_has_the_values_of_the_fields() -> None:
    policy = PolicyResource(refresh_after="12h", moved_after="PT1H", least_news=7, max_pages=3).refresh_policy()
    assert (policy.refresh_after, policy.moved_after) == (dt.timedelta(hours=12), dt.timedelta(hours=1))
    assert (policy.least_news, policy.max_pages) == (7, 3)


def test_the_quota_leaves_the_reserve_to_people(database: MongoDatabase) -> None:
    now = dt.datetime.now(dt.UTC)
    budget = {"_id": "account graphql", "limit": 5000, "remaining": 3000, "reset": None}
    database[Collections.GITHUB_BUDGETS].insert_one(budget)
    quota = PolicyResource(source="graphql", quota_reserve=0.2).quota(database, now)
    assert (quota.resource, quota.reserved) == (Resource.GRAPHQL, 1000)
    assert PolicyResource(source="file").quota(database, now).pages is None
