"""All settings of the project. Nothing else in the package reads the environment.

With no variable set, everything runs on this machine under ``.gh_assets/`` through the embedded servers.
``MONGO_URI``, ``GCS_BUCKET`` and ``GITHUB_TOKENS`` each replace one embedded server by the real service.
"""

import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasGenerator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from gh_assets.errors import ConfigurationError

GITHUB_COM_API = "https://api.github.com"

MAX_PAGES = 10_000
"""Pages of one repository: a million stars, more than any repository has."""

StarSourceName = Literal["auto", "stargazers", "graphql", "starred", "events", "gharchive", "file"]

DEFAULT_AWESOME_LISTS = ("sindresorhus/awesome", "vinta/awesome-python", "avelino/awesome-go")
"""Lists that are read from the real GitHub if none is configured."""

_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


def _span(value: object) -> object:
    """Parse ``30d``, ``12 h``, ``45min`` or ``90s``; pass everything else to pydantic."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d)\s*", value) if isinstance(value, str) else None
    return value if match is None else dt.timedelta(**{_UNITS[match[2]]: float(match[1])})


Span = Annotated[dt.timedelta, BeforeValidator(_span), Field(ge=dt.timedelta(0))]
"""Duration, written as ``30d``, ``12h``, ``45min`` or ``90s``."""


def variable_of(name: str) -> str:
    """Return the environment variable of a setting: ``GH_ASSETS_`` and its name, but for MongoDB, GCS and GitHub."""
    variable = name.removesuffix("_text").upper()
    return variable if variable.startswith(("MONGO_", "GCS_", "GITHUB_")) else f"GH_ASSETS_{variable}"


class Settings(BaseSettings):
    """Settings from environment variables, or from a ``.env`` file in the working directory."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        alias_generator=AliasGenerator(validation_alias=variable_of),
        use_attribute_docstrings=True,
    )

    home: Path = Path(".gh_assets")
    """Folder of the embedded servers' data, Dagster's history and the model cache."""

    mongo_uri: SecretStr | None = None
    """MongoDB connection string; unset: the embedded SecantusDB server."""

    mongo_database: str = "gh_assets"
    """Database of `repos`, `users`, `models` and the collector's state."""

    gcs_bucket: str | None = None
    """Bucket for the assets' data; unset: the embedded server."""

    gcs_model_bucket: str = "model-save"
    """Bucket for models."""

    gcs_project: str | None = None
    """Google Cloud project; unset: the project of Google's own credentials."""

    github_tokens_text: SecretStr | None = None
    """Tokens of your own users or apps, separated by commas or white space; unset: the GitHub stand-in with a synthetic
    world."""

    github_tokens_file: Path | None = None
    """File with one token per line, instead of GITHUB_TOKENS."""

    github_app_id: str | None = None
    """Id of your own GitHub App, whose installations are used beside or instead of tokens."""

    github_app_installations_text: str | None = None
    """Ids of the app's installations, separated by commas; each has its own quota."""

    github_app_private_key_file: Path | None = None
    """Private key of the app (PEM), which renews its tokens every hour."""

    github_api_url: str = GITHUB_COM_API
    """Base address of the REST API, for GitHub Enterprise."""

    awesome_text: str | None = None
    """Awesome lists, separated by commas or white space: `owner/name`, `owner/name/path`, an address on GitHub, or a
    file; unset: three well-known lists, or the stand-in's own."""

    max_pages: int = Field(10, ge=1, le=MAX_PAGES)
    """Maximum number of pages of 100 stars per repository or user (1 to 10,000)."""

    source: StarSourceName = "auto"
    """Source of stars: `auto`, `stargazers`, `graphql`, `starred`, `events`, `gharchive` or `file`."""

    max_users: int = Field(5000, ge=1)
    """Maximum number of users whose starred lists are read where repositories' own lists are closed."""

    target_share: float = Field(1.0, gt=0, le=1)
    """No further users are sought once this share of the stars that GitHub counts is known from users' lists."""

    seed_users: Path | None = None
    """File of users whose starred lists are read first: Parquet or CSV with the column `login`, or a text file."""

    archive: str = "https://data.gharchive.org"
    """Location of GH Archive's hours: a folder, `gs://bucket/prefix` or an HTTP address."""

    workers: int = Field(8, ge=1, le=100)
    """Maximum number of concurrent requests, to GitHub and to the bucket (1 to 100, which is GitHub's own limit)."""

    threads: int | None = Field(None, ge=1, le=1024)
    """Number of threads that train, score and evaluate models; unset: the cores that the process may use, or
    OMP_NUM_THREADS if that is set."""

    keep_versions: int = Field(3, ge=0, le=100)
    """Number of earlier versions of each stored object that are kept for `gh-assets data undo`; 0: none."""

    executor: Literal["in_process", "multiprocess", "celery", "kubernetes"] = "in_process"
    """Executor of the steps of Dagster's runs: `in_process`, `multiprocess`, `celery` or `kubernetes`."""

    celery_broker: SecretStr | None = None
    """Redis that carries steps to Celery workers and their results back: `redis://host:6379/0`."""

    celery_lost_after: Span = dt.timedelta(minutes=30)
    """Time after which the step of a vanished worker is given to another; longer than any step takes."""

    counts_after: Span = dt.timedelta(days=1)
    """Time after which the sensor reads lists and GitHub's star counts again, even if no list changed."""

    retire: bool = False
    """Remove the partitions of repositories that left all lists; their collected data are kept."""

    refresh_after: Span = dt.timedelta(days=30)
    """Time after which sensors collect a repository again, even if its star count is unchanged."""

    moved_after: Span = dt.timedelta(days=1)
    """Shortest time after which sensors collect a repository again whose star count changed."""

    least_news: int = Field(5, ge=1)
    """Smallest change of the star count for which sensors collect a repository again."""

    retry_after: Span = dt.timedelta(hours=1)
    """Time after which sensors collect a repository again that could not be read."""

    quota_reserve: float = Field(0.2, ge=0, lt=1)
    """Share of each hour's quota that sensors leave unused, for commands and other programs (0 to 1)."""

    retrain_share: float = Field(0.05, gt=0)
    """Share of stars added since the last matrix above which the sensor retrains."""

    warm_starts: int = Field(4, ge=0)
    """Maximum number of trainings in a row that begin with the weights of the model before, which takes a third of the
    time; the next one begins anew. 0: all do."""

    sensor_interval: Span | None = None
    """Time between two ticks of a sensor; unset: each sensor's own, 30 s to 15 min."""

    alert_webhook: SecretStr | None = None
    """Address to which alerts are posted as JSON (`text` and details); unset: alerts are only logged."""

    alert_every: Span = dt.timedelta(hours=1)
    """Shortest time between two alerts of one job; the next alert reports how many were suppressed."""

    api_keys_text: SecretStr | None = None
    """Keys, separated by commas, one of which `gh-assets serve` requires with every request; unset: none is
    required."""

    serve_hosts_text: str | None = None
    """Host names under which the server can be reached, separated by commas; unset: this machine's own, or any if it
    listens on other interfaces."""

    trusted_proxies: str | None = None
    """Addresses of proxies whose X-Forwarded-For and -Prefix are trusted, separated by commas."""

    serve_rate: int = Field(600, ge=0)
    """Maximum number of requests per minute and client; 0: unlimited."""

    serve_refresh: Span = dt.timedelta(seconds=5)
    """Time between two checks of the server for a new champion and new data."""

    live_requests: int = Field(300, ge=0)
    """Maximum number of requests per hour that the server sends to GitHub for users who were not collected; 0: none."""

    live_pages: int = Field(5, ge=1, le=100)
    """Maximum number of pages of 100 stars read for such a user, newest first (1 to 100)."""

    live_keep: Span = dt.timedelta(hours=1)
    """Time after which the stars of such a user are forgotten; they are never stored."""

    @property
    def api_keys(self) -> list[SecretStr]:
        """Keys one of which the server requires; empty: it requires none."""
        text = "" if self.api_keys_text is None else self.api_keys_text.get_secret_value()
        return [SecretStr(key) for key in split_list(text)]

    @property
    def serve_hosts(self) -> list[str]:
        """Host names under which the server can be reached; empty: unset."""
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
        """Configured awesome lists; empty: none is configured."""
        return split_list(self.awesome_text or "")

    @property
    def github_app_installations(self) -> list[str]:
        """Ids of the app's installations."""
        return split_list(self.github_app_installations_text or "")

    def github_tokens(self) -> list[SecretStr]:
        """Return the tokens without duplicates, in the given order.

        Raises
        ------
        ConfigurationError
            If both variables are set, or the file cannot be read or contains no token.
        """
        if self.github_tokens_text is not None and self.github_tokens_file is not None:
            raise ConfigurationError("GITHUB_TOKENS and GITHUB_TOKENS_FILE are both set: keep one of them.")
        if self.github_tokens_file is not None:
            origin = f"GITHUB_TOKENS_FILE ({self.github_tokens_file})"
            text = re.sub(r"#.*", "", _content("GITHUB_TOKENS_FILE", self.github_tokens_file))
        elif self.github_tokens_text is not None:
            origin, text = "GITHUB_TOKENS", self.github_tokens_text.get_secret_value()
        else:
            return []
        tokens = list(dict.fromkeys(split_list(text)))
        if not tokens:
            raise ConfigurationError(f"{origin} contains no token: give one or more, separated by commas.")
        return [SecretStr(token) for token in tokens]

    def github_app_key(self) -> SecretStr:
        """Read the private key of the GitHub App.

        Raises
        ------
        ConfigurationError
            If other settings of the app are missing, or the file cannot be read.
        """
        if self.github_app_private_key_file is None or not self.github_app_installations:
            raise ConfigurationError(
                "GITHUB_APP_ID is set: set GITHUB_APP_INSTALLATIONS and GITHUB_APP_PRIVATE_KEY_FILE as well."
            )
        return SecretStr(_content("GITHUB_APP_PRIVATE_KEY_FILE", self.github_app_private_key_file))


def _content(variable: str, path: Path) -> str:
    """Read the secrets in the file that a variable names."""
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{variable} ({path}) cannot be read: {reason}.") from None


@dataclass(frozen=True)
class SettingRow:
    """Description of one setting.

    Attributes
    ----------
    name : str
        The environment variable.
    default, value : str
        The text of the value; empty if there is none. A secret is shown as ``(set)``.
    meaning : str
    """

    name: str
    default: str
    value: str
    meaning: str


def setting_rows(settings: Settings | None = None) -> list[SettingRow]:
    """Return all settings, for `gh-assets doctor` and the table in the documentation."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = _shown(field.default)
        value = "" if settings is None else _shown(getattr(settings, name))
        meaning = " ".join(str(field.description).split()).rstrip(".")
        rows.append(SettingRow(variable_of(name), default, value, meaning))
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
    """Split a text at commas and white space, without empty parts."""
    return [part for part in re.split(r"[,\s]+", text) if part]


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises
    ------
    ConfigurationError
        If a variable has an invalid value; the message names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ConfigurationError(
            f"The setting {'.'.join(str(part) for part in first['loc'])} is invalid: {first['msg']}."
        ) from None
