"""Resources have fields of their own, whose defaults are the settings' values; secrets are named, not shown."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from gh_assets.resources import MongoResource, PolicyResource, build_resources
from gh_assets.resources.base import SettingsResource
from gh_assets.settings import Settings, load_settings

SECRET = "mongodb://user:password@127.0.0.1:1/"


def resource_classes() -> list[type[SettingsResource]]:
    resources = build_resources(load_settings()).values()
    return [type(resource) for resource in resources if isinstance(resource, SettingsResource)]


def test_every_field_is_a_setting_with_its_default_and_description() -> None:
    for resource in resource_classes():
        for name in resource.model_fields.keys() & Settings.model_fields.keys():
            assert resource.model_fields[name].description == Settings.model_fields[name].description, name
        assert resource.of(Settings.model_construct()).home == str(Settings.model_fields["home"].default)


def test_settings_pass_through_a_resource_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GH_ASSETS_REFRESH_AFTER", "12h")
    monkeypatch.setenv("GH_ASSETS_SOURCE", "graphql")
    monkeypatch.setenv("GH_ASSETS_SEED_USERS", "/seeds.csv")
    settings = load_settings()
    through = PolicyResource.of(settings).process_config_and_initialize().settings()
    fields = PolicyResource.model_fields.keys() & Settings.model_fields.keys()
    assert {name: getattr(through, name) for name in fields} == {name: getattr(settings, name) for name in fields}


def test_the_environment_does_not_change_a_configured_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = MongoResource(home="/somewhere", mongo_database="own")
    monkeypatch.setenv("MONGO_URI", SECRET)
    monkeypatch.setenv("MONGO_DATABASE", "other")
    assert resource.settings().mongo_database == "own"
    assert resource.settings().mongo_uri is None


def read_settings(resource: Any, **run_config: Any) -> Settings:
    """Return the settings that an op gets from a resource."""
    seen: list[Settings] = []

    @dg.op
    def read(mongo: MongoResource) -> None:
        seen.append(mongo.settings())

    @dg.job(resource_defs={"mongo": resource})
    def reading() -> None:
        read()

    assert "password" not in dg.serialize_value(reading.get_job_snapshot())
    assert reading.execute_in_process(run_config=run_config).success
    return seen[0]


@pytest.mark.parametrize("by_file", [False, True])
def test_a_secret_is_named_by_its_variable_and_resolved_by_dagster(
    by_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGO_URI", SECRET)
    if by_file:
        monkeypatch.delenv("MONGO_URI")
        (tmp_path / ".env").write_text(f"MONGO_URI={SECRET}\n")
    resources = build_resources(load_settings())
    assert "password" not in repr(resources)
    uri = read_settings(resources["mongo"]).mongo_uri
    assert uri is not None
    assert uri.get_secret_value() == SECRET


def test_a_run_may_configure_a_resource() -> None:
    config = {"mongo": {"config": {"mongo_database": "other"}}}
    assert read_settings(build_resources(load_settings())["mongo"], resources=config).mongo_database == "other"
