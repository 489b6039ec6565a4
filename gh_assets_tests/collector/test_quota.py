"""The quota that automation may spend."""

import datetime as dt
from typing import Any

import pytest

from gh_assets.collector.quota import quota_of
from gh_assets.collector.star_sources.base import SOURCES
from gh_assets.settings import load_settings

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)


def test_quota_is_the_sum_of_all_accounts_less_a_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    def budget(left: int, minutes: int, resource: str = "graphql", limit: int = 5000) -> dict[str, Any]:
        reset = (NOW + dt.timedelta(minutes=minutes)).isoformat()
        return {"account": "a", "resource": resource, "limit": limit, "left": left, "reset": reset}

    source, reserve = load_settings().source, load_settings().quota_reserve
    known = [budget(100, 20), budget(1900, 10), budget(7, 50, "core")]
    quota = quota_of(source, reserve, known, NOW)
    assert (quota.left, quota.limit, quota.reserved, quota.spendable, quota.pages) == (2000, 10_000, 2000, 0, 0)
    assert quota.summary() == "2,000 of 10,000 GraphQL points left until 12:10 UTC, 2,000 of them reserved for people"
    over = quota_of(source, reserve, [budget(100, -1), budget(1900, 10)], NOW)
    assert over.spendable == 5000 + 1900 - 2000, "a window that has ended is full again"
    assert quota_of(source, reserve, [], NOW).pages is None, "unknown before the first run"
    assert quota_of(source, reserve, [budget(4_999_999, 10, limit=5_000_000)], NOW).pages is None
    monkeypatch.setenv("GH_ASSETS_SOURCE", "stargazers")
    for other in ("file", "gharchive"):
        free = quota_of(other, reserve, [budget(0, 10)], NOW)
        assert (free.resource, free.pages) == (None, None), "a source without cost has no limit"
        assert free.resource is SOURCES[other].resource
    by_rest = quota_of(load_settings().source, reserve, [budget(3000, 10, "core")], NOW)
    assert by_rest.pages == 2000, "by REST, a page is a request"
