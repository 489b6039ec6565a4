"""The checks of `gh-assets doctor`: one finding for each configured service."""

import importlib.util
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from gh_assets.cli.failures import EXPLAINED_ERRORS, explain, system_errors
from gh_assets.github.rate_limits import Resource
from gh_assets.instance.configuration import open_instance
from gh_assets.instance.history import history_folder
from gh_assets.local.home import open_home
from gh_assets.recommender.text.sentence_encoder import is_installed
from gh_assets.schemas import REPO_EMBEDDINGS
from gh_assets.services.connections import asset_store, connect_gcs, connect_github, data_store, model_store, open_mongo
from gh_assets.services.world import has_only_archive
from gh_assets.settings import Settings
from gh_assets.storage.asset_store import TableView
from gh_assets.storage.mongo import Collections

HISTORY_DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")


class Finding(NamedTuple):
    """The result of checking one service."""

    service: str
    ok: bool
    summary: str


def check_services(settings: Settings) -> list[Finding]:
    """Check the home, the services, Dagster, torch and sentence embeddings; failures become findings."""
    checks: dict[str, Callable[[Settings], str]] = {
        "home": check_home,
        "MongoDB": check_mongo,
        "Cloud Storage": check_gcs,
        "GitHub": check_github,
        "Dagster": check_dagster,
        "compute": check_compute,
        "content": check_content,
    }
    findings = []
    for service, check in checks.items():
        try:
            findings.append(Finding(service, True, check(settings)))
        except EXPLAINED_ERRORS + system_errors() as error:
            findings.append(Finding(service, False, explain(error, history_folder(settings))))
    return findings


def check_home(settings: Settings) -> str:
    home = open_home(settings.home_path)
    probe = home / ".doctor"
    probe.write_bytes(b"can be written")
    probe.unlink()
    return f"{home}, {shutil.disk_usage(home).free / 1e9:.0f} GB free"


def check_mongo(settings: Settings) -> str:
    with open_mongo(settings) as database:
        kind = "embedded" if settings.uses_embedded_mongo else "configured by MONGO_URI"
        version = database.client.server_info().get("version", "unknown")
        summary = f"{kind}, version {version}, database {database.name}"
        if "validator" in database[Collections.MODELS].options():
            return summary
        return (
            f"{summary}. The collection {Collections.MODELS} has no validator: the server does not "
            "support validators, or the user may not set one. What other programs write there is checked when read."
        )


def check_gcs(settings: Settings) -> str:
    client = connect_gcs(settings)
    names = []
    for store in (data_store(settings, client), model_store(settings, client)):
        store.describe("doctor")  # the object does not exist: the check is whether the bucket responds
        names.append(f"gs://{store.name}")
    return f"{'embedded' if settings.uses_embedded_gcs else 'Google'}, {' and '.join(names)}"


def check_github(settings: Settings) -> str:
    if has_only_archive(settings):
        return "not used: the data of this home come from GH Archive"
    with connect_github(settings) as client:
        pool = client.pool
        client.refresh_budgets()
        parts = []
        for account in pool.directory.accounts.values():
            labels = ", ".join(token.label for token in pool.directory.tokens if token.account is account)
            budgets = {"requests": account.budgets[Resource.REST], "points": account.budgets[Resource.GRAPHQL]}
            left = [
                f"{budget.remaining:,} of {budget.limit:,} {unit}"
                for unit, budget in budgets.items()
                if budget.remaining is not None and budget.limit is not None
            ]
            parts.append(f"token {labels}: {' and '.join(left) or 'no limit'} left this hour")
        parts += [f"token {label} was refused" for label in pool.directory.retired]
        return f"{'the stand-in' if settings.uses_standin else settings.github_api_url}, {'; '.join(parts)}"


def check_dagster(settings: Settings) -> str:
    folder = history_folder(settings)
    with open_instance(settings) as instance:
        runs = instance.get_runs_count()
        for path in filter(Path.exists, (folder / name for name in HISTORY_DATABASES)):
            with closing(sqlite3.connect(path)) as database:
                (result,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if result != "ok":
                raise sqlite3.DatabaseError(f"{path.name} is malformed")
    return f"{runs:,} runs in {folder}"


def check_compute(_settings: Settings) -> str:
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return f"torch {torch.__version__} on {device}"


def check_content(settings: Settings) -> str:
    store, rows = asset_store(settings), 0
    if store.describe(REPO_EMBEDDINGS.name, "parquet") is not None:
        rows = store.read_table(REPO_EMBEDDINGS.name, view=TableView(("repo_id",))).height
    used = f"sentence embeddings of {rows:,} repositories" if rows else "TF-IDF"
    if not is_installed():
        return f"{used}; pip install 'gh_assets[embeddings]' embeds new repositories"
    return used if rows else f"{used}; materialize repo_embeddings to use sentence embeddings"
