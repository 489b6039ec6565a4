"""Repositories that get more stars than usual."""

import polars as pl

from gh_assets.collector.star_history import Trend
from gh_assets.schemas import STAR_TRENDS
from gh_assets.services.connections import asset_store as asset_store_of
from gh_assets.serving.rising import RisingRepository, read_rising
from gh_assets.storage.asset_store import AssetStore
from gh_assets_tests.support.served_home import FIRST, ServedHome, name_of, opened
from gh_assets_tests.support.waiting import until


def test_without_histories_nothing_is_rising(asset_store: AssetStore) -> None:
    assert read_rising(asset_store) == []


def test_the_largest_ratio_comes_first_and_what_is_as_usual_is_left_out(asset_store: AssetStore) -> None:
    rows = [(1, 100, 50.0), (2, 100, 90.0), (3, 30, 2.0), (4, 100, None), (5, 9, 0.0)]
    asset_store.write_table("star_trends", pl.DataFrame(rows, schema=STAR_TRENDS.dtypes, orient="row"))
    assert read_rising(asset_store) == [RisingRepository(3, Trend(30, 2.0)), RisingRepository(1, Trend(100, 50.0))]


def test_a_damaged_table_prevents_nothing(asset_store: AssetStore) -> None:
    asset_store.objects.write("assets/star_trends.parquet", b"PAR1", content_type="text/plain")
    assert read_rising(asset_store) == []


def test_the_page_and_the_api_name_them_as_soon_as_there_are_histories(own_served_home: ServedHome) -> None:
    archived, known, elsewhere, usual = FIRST + 16, FIRST + 3, 1, FIRST + 4
    rows = [(archived, 900, 1.0), (known, 60, 20.0), (elsewhere, 900, 1.0), (usual, 60, 60.0)]
    store = asset_store_of(own_served_home.settings)
    store.write_table("star_trends", STAR_TRENDS.empty())
    with opened(own_served_home.settings) as server:
        assert server.get("/api/v1/rising").json() == []
        assert "Rising" not in server.get("/").text
        trends = pl.DataFrame(rows, schema=STAR_TRENDS.dtypes, orient="row")
        store.write_table("star_trends", trends)
        (entry,) = until(lambda: server.get("/api/v1/rising").json())
        assert (entry["repo_id"], entry["full_name"]) == (known, name_of(3))
        assert (entry["stars_last_30_days"], entry["usual_30_days"], entry["ratio"]) == (60, 20.0, 2.6)
        schemas = server.get("/api/v1/openapi.json").json()["components"]["schemas"]
        assert set(entry) == set(schemas["RisingOut"]["properties"])
        page = server.get("/").text
        assert f'Rising this month: <a href="/r/{name_of(3)}">' in page
        assert server.get("/api/v1/rising?n=0").status_code == 422
