"""What the resources share: their fields are settings, by the same names, with the settings' values by default."""

import os
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import Field, SecretStr
from pydantic_core import to_jsonable_python
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from gh_assets.settings import Settings, variable_of


def setting(name: str) -> Any:
    """Return a resource's field with the default and the description of the setting of that name."""
    field = Settings.model_fields[name]
    return Field(default=to_jsonable_python(field.default), description=field.description)


class SettingsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A resource whose fields are settings of the same names."""

    home: str = setting("home")

    @classmethod
    def of(cls, settings: Settings, **dependencies: Any) -> Self:
        """Configure the resource from settings.

        Secrets and paths that are set are named by their variables (`dagster.EnvVar`): the UI shows a resource's
        configuration, and a path holds for one machine only.
        """
        values: dict[str, Any] = {}
        for name in _settings_of(cls):
            value = getattr(settings, name)
            if isinstance(value, SecretStr | Path) and name in settings.model_fields_set:
                values[name] = _environment_variable(name, value)
            else:
                values[name] = to_jsonable_python(value)
        return cls(**values, **dependencies)

    def settings(self) -> Settings:
        """Return settings with the values of these fields; all others have their defaults."""
        return _GivenSettings(**{variable_of(name): getattr(self, name) for name in _settings_of(type(self))})


class _GivenSettings(Settings):
    """Settings that do not read the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _settings_of(resource: type[SettingsResource]) -> list[str]:
    return [name for name in resource.model_fields if name in Settings.model_fields]


def _environment_variable(name: str, value: SecretStr | Path) -> dg.EnvVar:
    """Name a variable that Dagster resolves in each process, and set it if only a `.env` file does so far."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    if os.environ.get(variable_of(name)) != text:
        os.environ[variable_of(name)] = text
    return dg.EnvVar(variable_of(name))
