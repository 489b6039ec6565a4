"""Where the steps of a run are executed."""

import dagster as dg

from gh_assets.errors import ConfigurationError
from gh_assets.settings import Settings


def executor_of(settings: Settings) -> dg.ExecutorDefinition:
    """The executor that the settings name.

    In one process by default: the chain is a line, and each further process would load torch and polars anew, seconds
    for each asset and check.

    Raises
    ------
    ConfigurationError
        If it needs a package that is not installed.
    """
    if settings.executor == "multiprocess":
        return dg.multiprocess_executor
    if settings.executor == "celery":
        try:
            from dagster_celery import celery_executor
        except ImportError:
            raise ConfigurationError(
                "GH_ASSETS_EXECUTOR is celery, but dagster-celery is not installed: pip install 'gh-assets[scale]'."
            ) from None
        executor: dg.ExecutorDefinition = celery_executor
        return executor
    return dg.in_process_executor
