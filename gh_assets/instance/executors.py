"""Where the steps of a run are executed."""

import importlib
from typing import Any

import dagster as dg

from gh_assets.errors import ConfigurationError
from gh_assets.settings import Settings

BROKER = "GH_ASSETS_CELERY_BROKER"


def executor_of(settings: Settings) -> dg.ExecutorDefinition:
    """Return the executor that the settings name.

    The default is one process: the chain is a line, and each further process would import torch and polars anew, which
    takes seconds for each asset and check.

    Raises
    ------
    ConfigurationError
        If it needs a package that is not installed, or a broker that is not set.
    """
    if settings.executor == "multiprocess":
        return dg.multiprocess_executor
    if settings.executor == "celery":
        celery: dg.ExecutorDefinition = _extra("dagster_celery", settings.executor, "scale").celery_executor
        _broker(settings)
        # The address may hold a password: Dagster gets the variable's name only.
        address = {"env": BROKER}
        config = {"broker": address, "backend": address, "config_source": celery_options(settings)}
        return celery.configured(config, name="celery")
    if settings.executor == "kubernetes":
        pods: dg.ExecutorDefinition = _extra("dagster_k8s", settings.executor, "kubernetes").k8s_job_executor
        return pods
    return dg.in_process_executor


def _extra(module: str, executor: str, extra: str) -> Any:
    """Import the package of an executor, which one of the project's extras installs."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.replace("_", "-")
        raise ConfigurationError(
            f"GH_ASSETS_EXECUTOR is {executor}, but {package} is not installed: pip install 'gh-assets[{extra}]'."
        ) from None


def celery_options(settings: Settings) -> dict[str, Any]:
    """Return Celery's options, for workers and for those who submit: a task of a dead worker goes to another."""
    return {
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {"visibility_timeout": settings.celery_lost_after.total_seconds()},
        "result_expires": 86_400,
    }


def celery_app(settings: Settings) -> Any:
    """Return the Celery application of the workers.

    Raises
    ------
    ConfigurationError
        If no broker is set.
    """
    from dagster_celery.executor import CeleryExecutor
    from dagster_celery.make_app import make_app
    from dagster_celery.tasks import create_task

    broker = _broker(settings)
    executor = CeleryExecutor.for_cli(broker=broker, backend=broker, config_source=celery_options(settings))
    app = make_app(executor.app_args())
    create_task(app)
    return app


def _broker(settings: Settings) -> str:
    if settings.celery_broker is None:
        raise ConfigurationError(f"{BROKER} is not set: name the Redis of the workers, redis://host:6379/0.")
    return settings.celery_broker.get_secret_value()
