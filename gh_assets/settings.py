"""Every setting of the project, in one place. Nothing else in the package reads the environment.

With no variable set, everything runs on this machine under ``.gh_assets/`` through the embedded servers.
``MONGO_URI``, ``GCS_BUCKET`` and ``GITHUB_TOKENS`` each switch one service to the real thing, alone.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from gh_assets.errors import ConfigurationError

GITHUB_COM_API = "https://api.github.com"

MAX_PAGES = 10_000
"""A million stars a repository: more than any has."""

StarSourceName = Literal["auto", "stargazers", "graphql", "starred", "gharchive", "file"]

DEFAULT_AWESOME_LISTS = ("sindresorhus/awesome", "vinta/awesome-python", "avelino/awesome-go")
"""Read when GitHub is the real one and no list is named."""

_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


def _span(value: object) -> object:
    """``30d``, ``12 h``, ``45min``, ``90s``; what else there is goes to pydantic as it is."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d)\s*", value) if isinstance(value, str) else None
    return value if found is None else dt.timedelta(**{_UNITS[found[2]]: float(found[1])})


Span = Annotated[dt.timedelta, BeforeValidator(_span), Field(ge=dt.timedelta(0))]
"""A length of time, written as ``30d``, ``12h``, ``45min`` or ``90s``."""


class Settings(BaseSettings):
    """Settings from environment variables, or from a ``.env`` file in the working directory."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    home: Path = Field(
        default=Path(".gh_assets"),
        validation_alias="GH_ASSETS_HOME",
        description="Folder of the embedded servers' data, Dagster's history and the model cache.",
    )
    mongo_uri: SecretStr | None = Field(
        default=None,
        validation_alias="MONGO_URI",
        description="Connection string of a MongoDB; unset: the embedded SecantusDB server.",
    )
    mongo_database: str = Field(
        default="gh_assets",
        validation_alias="MONGO_DATABASE",
        description="Database that holds `repos`, `users`, `models` and the collector's state.",
    )
    gcs_bucket: str | None = Field(
        default=None,
        validation_alias="GCS_BUCKET",
        description="Bucket for the assets' data; unset: the embedded server.",
    )
    gcs_model_bucket: str = Field(
        default="model-save",
        validation_alias="GCS_MODEL_BUCKET",
        description="Bucket for models.",
    )
    gcs_project: str | None = Field(
        default=None,
        validation_alias="GCS_PROJECT",
        description="Google Cloud project; unset: the one of Google's own credentials.",
    )
    github_tokens_text: SecretStr | None = Field(
        default=None,
        validation_alias="GITHUB_TOKENS",
        description="Tokens of the operator's own users or apps, separated by commas or white space; "
        "unset: the project's GitHub stand-in with a synthetic world.",
    )
    github_tokens_file: Path | None = Field(
        default=None,
        validation_alias="GITHUB_TOKENS_FILE",
        description="File with one token a line, instead of GITHUB_TOKENS.",
    )
    github_app_id: str | None = Field(
        default=None,
        validation_alias="GITHUB_APP_ID",
        description="Id of a GitHub App of the operator's, to ask with its installations (beside or without tokens).",
    )
    github_app_installations_text: str | None = Field(
        default=None,
        validation_alias="GITHUB_APP_INSTALLATIONS",
        description="Ids of the app's installations, separated by commas: each has a quota of its own.",
    )
    github_app_private_key_file: Path | None = Field(
        default=None,
        validation_alias="GITHUB_APP_PRIVATE_KEY_FILE",
        description="The app's private key (PEM), with which its tokens are renewed every hour.",
    )
    github_api_url: str = Field(
        default=GITHUB_COM_API,
        validation_alias="GITHUB_API_URL",
        description="Base address of the REST API, for GitHub Enterprise.",
    )
    awesome_text: str | None = Field(
        default=None,
        validation_alias="GH_ASSETS_AWESOME",
        description="Awesome lists, each `owner/name`, `owner/name/path` or an address on GitHub, or a file, "
        "separated by commas or white space; unset: three well-known ones, or the stand-in's own.",
    )
    max_pages: int = Field(
        default=10,
        ge=1,
        le=MAX_PAGES,
        validation_alias="GH_ASSETS_MAX_PAGES",
        description="At most this many pages of 100 stars a repository or user (1 to 10,000).",
    )
    source: StarSourceName = Field(
        default="auto",
        validation_alias="GH_ASSETS_SOURCE",
        description="Where stars come from: `auto`, `stargazers`, `graphql`, `starred`, `gharchive` or `file`.",
    )
    max_users: int = Field(
        default=5000,
        ge=1,
        validation_alias="GH_ASSETS_MAX_USERS",
        description="At most so many users are asked for their starred lists, where repositories' own are closed.",
    )
    seed_users: Path | None = Field(
        default=None,
        validation_alias="GH_ASSETS_SEED_USERS",
        description="A file of users to ask first for their starred lists: Parquet or CSV with `login`, or a text.",
    )
    archive: str = Field(
        default="https://data.gharchive.org",
        validation_alias="GH_ASSETS_ARCHIVE",
        description="Where hours of GH Archive lie: a folder, `gs://bucket/prefix` or an http address.",
    )
    workers: int = Field(
        default=8,
        ge=1,
        le=100,
        validation_alias="GH_ASSETS_WORKERS",
        description="Requests in flight at once, to GitHub and to the bucket (1 to 100; GitHub's own limit is 100).",
    )
    keep_versions: int = Field(
        default=3,
        ge=0,
        le=100,
        validation_alias="GH_ASSETS_KEEP_VERSIONS",
        description="Earlier contents of each stored object that are kept, for `gh-assets data undo`; 0: none.",
    )
    executor: Literal["in_process", "multiprocess", "celery", "kubernetes"] = Field(
        default="in_process",
        validation_alias="GH_ASSETS_EXECUTOR",
        description="Where the steps of Dagster's runs are executed: `in_process`, `multiprocess`, `celery`, "
        "`kubernetes`.",
    )
    celery_broker: SecretStr | None = Field(
        default=None,
        validation_alias="GH_ASSETS_CELERY_BROKER",
        description="The Redis that hands steps to Celery workers, and their results back: `redis://host:6379/0`.",
    )
    celery_lost_after: Span = Field(
        default=dt.timedelta(minutes=30),
        validation_alias="GH_ASSETS_CELERY_LOST_AFTER",
        description="A step whose worker vanished is given to another after this time; longer than any step takes.",
    )
    counts_after: Span = Field(
        default=dt.timedelta(days=1),
        validation_alias="GH_ASSETS_COUNTS_AFTER",
        description="The sensor reads lists and GitHub's star counts again after this time, even if no list changed.",
    )
    retire: bool = Field(
        default=False,
        validation_alias="GH_ASSETS_RETIRE",
        description="Remove the partitions of repositories that left all lists (what was collected is kept).",
    )
    refresh_after: Span = Field(
        default=dt.timedelta(days=30),
        validation_alias="GH_ASSETS_REFRESH_AFTER",
        description="Sensors ask a repository again after this time, even if its star count has not moved: `30d`.",
    )
    moved_after: Span = Field(
        default=dt.timedelta(days=1),
        validation_alias="GH_ASSETS_MOVED_AFTER",
        description="Sensors ask a repository whose star count moved again after this time at the earliest: `1d`.",
    )
    least_news: int = Field(
        default=5,
        ge=1,
        validation_alias="GH_ASSETS_LEAST_NEWS",
        description="Sensors ask a repository when its star count moved by at least so many.",
    )
    retry_after: Span = Field(
        default=dt.timedelta(hours=1),
        validation_alias="GH_ASSETS_RETRY_AFTER",
        description="Sensors ask a repository that could not be asked again after this time: `1h`.",
    )
    quota_reserve: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        validation_alias="GH_ASSETS_QUOTA_RESERVE",
        description="Share of each hour's quota that sensors leave to people (0 to 1).",
    )
    retrain_share: float = Field(
        default=0.05,
        gt=0,
        validation_alias="GH_ASSETS_RETRAIN_SHARE",
        description="The sensor retrains when so large a share of the stars is new since the last matrix.",
    )
    sensor_interval: Span | None = Field(
        default=None,
        validation_alias="GH_ASSETS_SENSOR_INTERVAL",
        description="Time between two looks of a sensor; unset: as each says, 30 s to 15 min.",
    )
    alert_webhook: SecretStr | None = Field(
        default=None,
        validation_alias="GH_ASSETS_ALERT_WEBHOOK",
        description="Address that alerts are posted to as JSON (`text` and details); unset: they are only logged.",
    )
    alert_every: Span = Field(
        default=dt.timedelta(hours=1),
        validation_alias="GH_ASSETS_ALERT_EVERY",
        description="At most one alert a job within this time; the next one says how many were left out.",
    )

    api_keys_text: SecretStr | None = Field(
        default=None,
        validation_alias="GH_ASSETS_API_KEYS",
        description="Keys of which `gh-assets serve` wants one with every request, separated by commas; unset: none.",
    )
    serve_hosts_text: str | None = Field(
        default=None,
        validation_alias="GH_ASSETS_SERVE_HOSTS",
        description="Host names that the server answers to, separated by commas; unset: this machine's own, or any if "
        "it listens elsewhere.",
    )
    trusted_proxies: str | None = Field(
        default=None,
        validation_alias="GH_ASSETS_TRUSTED_PROXIES",
        description="Addresses of proxies whose X-Forwarded-For and -Prefix are believed, separated by commas.",
    )
    serve_rate: int = Field(
        default=600,
        ge=0,
        validation_alias="GH_ASSETS_SERVE_RATE",
        description="Requests a minute that the server answers a client; 0: any number.",
    )
    serve_refresh: Span = Field(
        default=dt.timedelta(seconds=5),
        validation_alias="GH_ASSETS_SERVE_REFRESH",
        description="The server looks for a new champion and new data so often: `5s`.",
    )
    live_requests: int = Field(
        default=300,
        ge=0,
        validation_alias="GH_ASSETS_LIVE_REQUESTS",
        description="Requests an hour to GitHub that the server may use for people who were not collected; 0: none.",
    )
    live_pages: int = Field(
        default=5,
        ge=1,
        le=100,
        validation_alias="GH_ASSETS_LIVE_PAGES",
        description="At most so many pages of 100 stars of such a person, the newest (1 to 100).",
    )
    live_keep: Span = Field(
        default=dt.timedelta(hours=1),
        validation_alias="GH_ASSETS_LIVE_KEEP",
        description="Stars of such a person are forgotten after this time; they are never written down.",
    )

    @property
    def api_keys(self) -> list[SecretStr]:
        """Keys of which the server wants one; empty: it wants none."""
        text = "" if self.api_keys_text is None else self.api_keys_text.get_secret_value()
        return [SecretStr(word) for word in split_list(text)]

    @property
    def serve_hosts(self) -> list[str]:
        """Host names that the server answers to; empty: unset."""
        return split_list(self.serve_hosts_text or "")

    @property
    def home_path(self) -> Path:
        """The home as an absolute path."""
        return self.home.expanduser().resolve()

    @property
    def dagster_home(self) -> Path:
        """Folder of Dagster's own storage (runs, events, schedules)."""
        return self.home_path / "dagster"

    @property
    def uses_embedded_mongo(self) -> bool:
        return self.mongo_uri is None

    @property
    def uses_embedded_gcs(self) -> bool:
        return self.gcs_bucket is None

    @property
    def uses_standin(self) -> bool:
        return self.github_tokens_text is None and self.github_tokens_file is None and self.github_app_id is None

    @property
    def data_bucket(self) -> str:
        """Name of the bucket for the assets' data."""
        return self.gcs_bucket or "gh-assets"

    @property
    def awesome_lists(self) -> list[str]:
        """The lists that the settings name; empty when they name none."""
        return split_list(self.awesome_text or "")

    @property
    def github_app_installations(self) -> list[str]:
        """Ids of the app's installations."""
        return split_list(self.github_app_installations_text or "")

    def github_tokens(self) -> list[SecretStr]:
        """The tokens, without duplicates, in the order given.

        Raises
        ------
        ConfigurationError
            If both variables are set, the file cannot be read, or there is no token in it.
        """
        if self.github_tokens_text is not None and self.github_tokens_file is not None:
            raise ConfigurationError("GITHUB_TOKENS and GITHUB_TOKENS_FILE are both set: keep one of them.")
        if self.github_tokens_file is not None:
            origin = f"GITHUB_TOKENS_FILE ({self.github_tokens_file})"
            try:
                text = self.github_tokens_file.expanduser().read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"{origin} cannot be read: {error}.") from error
            text = re.sub(r"#.*", "", text)
        elif self.github_tokens_text is not None:
            origin, text = "GITHUB_TOKENS", self.github_tokens_text.get_secret_value()
        else:
            return []
        words = list(dict.fromkeys(split_list(text)))
        if not words:
            raise ConfigurationError(f"{origin} holds no token: write one or more, separated by commas.")
        return [SecretStr(word) for word in words]

    def github_app_key(self) -> SecretStr:
        """The private key of the GitHub App.

        Raises
        ------
        ConfigurationError
            If the app's other settings are missing, or the file cannot be read.
        """
        if self.github_app_private_key_file is None or not self.github_app_installations:
            raise ConfigurationError(
                "GITHUB_APP_ID is set: set GITHUB_APP_INSTALLATIONS and GITHUB_APP_PRIVATE_KEY_FILE, too."
            )
        path = self.github_app_private_key_file.expanduser()
        try:
            return SecretStr(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigurationError(f"GITHUB_APP_PRIVATE_KEY_FILE ({path}) cannot be read: {reason}.") from None


@dataclass(frozen=True)
class SettingRow:
    """One setting for people.

    Attributes
    ----------
    name : str
        The environment variable.
    default, value : str
        As it is written; empty where there is none. Of a secret only that it is set.
    meaning : str
    """

    name: str
    default: str
    value: str
    meaning: str


def setting_rows(settings: Settings | None = None) -> list[SettingRow]:
    """All settings, as the README's table and `gh-assets doctor` show them."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = _shown(field.default)
        value = "" if settings is None else _shown(getattr(settings, name))
        rows.append(SettingRow(str(field.validation_alias), default, value, str(field.description).rstrip(".")))
    return rows


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return "(set)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.timedelta):
        seconds = value.total_seconds()
        sizes = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
        unit, size = next((pair for pair in sizes if seconds % pair[1] == 0 and seconds), ("s", 1))
        return f"{seconds / size:g}{unit}"
    return str(value)


def split_list(text: str) -> list[str]:
    """Split at commas and white space, dropping what is empty."""
    return [word for word in re.split(r"[,\s]+", text) if word]


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises
    ------
    ConfigurationError
        If a variable has a value that it cannot have; the message names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ConfigurationError(
            f"The setting {'.'.join(str(part) for part in first['loc'])} is wrong: {first['msg']}."
        ) from None
