"""Where Dagster's history lies. Loads no Dagster: a command that fails says so at once."""

import os
from pathlib import Path

from gh_assets.settings import Settings


def history_folder(settings: Settings) -> Path:
    """Return the folder of Dagster's history: ``DAGSTER_HOME`` if it is set, else that of the home."""
    return Path(os.environ.get("DAGSTER_HOME") or settings.dagster_home)
