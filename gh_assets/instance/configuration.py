"""The configuration of Dagster's instance, and opening it as `dagster dev` does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dagster import DagsterError, DagsterInstance
from yaml import YAMLError

import gh_assets.instance.environment  # noqa: F401 - whatever stores the history
from gh_assets.errors import ConfigurationError
from gh_assets.instance.internals import InstanceRef, NoOpComputeLogManager
from gh_assets.local.home import make_private, open_home
from gh_assets.settings import Settings

INSTANCE_CONFIGURATION: dict[str, Any] = {
    "storage": {"custom": {"module": "gh_assets.instance.storage", "class": "HomeStorage", "config": {}}},
    "compute_logs": {"module": "gh_assets.instance.storage", "class": "HomeComputeLogManager", "config": {}},
    "run_launcher": {"module": "gh_assets.instance.launcher", "class": "HomeRunLauncher"},
    "run_monitoring": {"enabled": True, "poll_interval_seconds": 10, "cancel_timeout_seconds": 60},
    "run_retries": {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False},
    "concurrency": {"pools": {"default_limit": 1, "granularity": "run"}},
    "freshness": {"enabled": True},
    "telemetry": {"enabled": False},
}
"""The content of the checkout's ``dagster.yaml``, for processes that do not run in the checkout."""

NOT_CAPTURED = {"module": NoOpComputeLogManager.__module__, "class": NoOpComputeLogManager.__name__}
"""Configuration that leaves what a run prints on the terminal."""


def other_instance_warning(settings: Settings) -> str | None:
    """Return a warning if `dagster dev` started this process with another instance than the command uses.

    Without ``DAGSTER_HOME``, `dagster dev` uses the ``dagster.yaml`` of its working directory, and a temporary instance
    where there is none; `gh-assets` uses the home's.
    """
    if not os.environ.get("DAGSTER_IS_DEV_CLI") or os.environ.get("DAGSTER_HOME"):
        return None
    with suppress(OSError, UnicodeDecodeError):
        if "gh_assets." in Path("dagster.yaml").read_text(encoding="utf-8"):
            return None
    return (
        f"dagster dev was started in {Path.cwd()}, which has no dagster.yaml of gh_assets: its runs, partitions and "
        f"sensors are not those of the home {settings.home_path}. Start it in the checkout, or copy the "
        "checkout's dagster.yaml into this folder."
    )


@contextmanager
def open_instance(settings: Settings) -> Iterator[DagsterInstance]:
    """Open the instance that `dagster dev` uses in the checkout.

    That is the instance of ``DAGSTER_HOME`` if it is set, else the home's own.

    Raises
    ------
    ConfigurationError
        If ``DAGSTER_HOME`` cannot be used.
    """
    dagster_home = os.environ.get("DAGSTER_HOME")
    if dagster_home:
        with _instance_of(dagster_home) as instance:
            yield instance
        return
    folder = settings.dagster_home
    make_private(open_home(folder.parent) / folder.name)
    storage = {**INSTANCE_CONFIGURATION["storage"]["custom"], "config": {"base_dir": str(folder)}}
    # Capturing takes two processes a step, which Ctrl-C would reach.
    configuration = {**INSTANCE_CONFIGURATION, "storage": {"custom": storage}, "compute_logs": NOT_CAPTURED}
    reference = InstanceRef.from_dir(str(folder), overrides=configuration)
    with DagsterInstance.from_ref(reference) as instance:
        yield instance


def _instance_of(dagster_home: str) -> DagsterInstance:
    problem = ""
    if not Path(dagster_home).is_absolute():
        problem = "it is not an absolute path"
    elif not Path(dagster_home).is_dir():
        problem = "there is no such folder"
    if problem:
        raise ConfigurationError(
            f"DAGSTER_HOME ({dagster_home}) cannot be used: {problem}. Set it to an existing folder, or unset it "
            "to use the home's own instance."
        )
    try:
        return DagsterInstance.get()
    except (DagsterError, YAMLError, TypeError) as error:
        raise ConfigurationError(
            f"DAGSTER_HOME ({dagster_home}) cannot be used: its dagster.yaml is not what Dagster expects "
            f"({type(error).__name__}). `dagster instance info` says more."
        ) from error
