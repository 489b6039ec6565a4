"""The `gh-assets` group of commands, and the function that runs it."""

import logging
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

from gh_assets import __version__
from gh_assets.cli.data import data
from gh_assets.cli.doctor import doctor
from gh_assets.cli.github_standin import github_standin
from gh_assets.cli.leaderboard import leaderboard
from gh_assets.cli.models import models
from gh_assets.cli.output import discard_output, escape, prepare_terminal, stderr
from gh_assets.cli.plan import plan
from gh_assets.cli.recommend import recommend
from gh_assets.cli.run import run
from gh_assets.cli.serve import serve
from gh_assets.cli.status import status
from gh_assets.cli.tune import tune
from gh_assets.errors import GhAssetsError
from gh_assets.local.home import keep_private
from gh_assets.local.network import prepare_network
from gh_assets.local.threads import use_threads
from gh_assets.settings import load_settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Recommend GitHub repositories, from awesome lists and stars, with a model that keeps itself current.

    Everything runs on this machine under .gh_assets/ (or GH_ASSETS_HOME) unless GITHUB_TOKENS, MONGO_URI or GCS_BUCKET
    say otherwise.
    """
    use_threads(load_settings().threads)


for command in (run, plan, status, leaderboard, recommend, tune, models, data, github_standin, serve, doctor):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; turn every failure into one sentence and exit code 1.

    Raises
    ------
    SystemExit
    KeyboardInterrupt
        At Ctrl-C; the caller prints the message.
    """
    # Dagster logs every event to stderr, where the command shows progress.
    for name in ("dagster", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    keep_private()
    prepare_terminal()
    try:
        prepare_network()
        cli.main(args=None if arguments is None else list(arguments), standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None
    except BrokenPipeError:
        discard_output()
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - no failure shows a traceback
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    """Explain a failure in one sentence, name the log with its details, and exit with 1."""
    from gh_assets.cli.failures import EXPLAINED_ERRORS, cause_of, explain, write_log
    from gh_assets.instance.history import history_folder

    try:
        settings = load_settings()
        home, history = settings.home_path, history_folder(settings)
    except (GhAssetsError, OSError, RuntimeError):  # the settings themselves cannot be read
        home = history = Path(tempfile.gettempdir())
    cause = cause_of(error)
    sentence = explain(cause, history)
    if not isinstance(cause, EXPLAINED_ERRORS) and (log := write_log(error, home)) is not None:
        sentence += f" Details: {log}"
    with suppress(OSError):
        stderr.print(f"[red]Error:[/] {escape(sentence)}", soft_wrap=True)
    discard_output()
    sys.exit(1)
