"""`gh-assets run`: the whole chain, with progress and a summary."""

import time
from typing import Any

import click

from gh_assets.cli.leaderboard import leaderboard_tables
from gh_assets.cli.options import ChainOptions, options_of
from gh_assets.cli.output import Table, json_option, print_json, show_progress, stdout, wrapping
from gh_assets.cli.status import print_status
from gh_assets.settings import Settings, load_settings


@click.command()
@options_of(ChainOptions)
@json_option
def run(options: ChainOptions, as_json: bool) -> None:
    """Run the whole chain, from lists to recommendations.

    The chain is: repos, stargazers, users, matrix, models, recommendations. What is up to date is not made again.
    """
    from gh_assets.cli.chain import run_chain
    from gh_assets.cli.documents import read_status

    settings = load_settings()
    started = time.perf_counter()
    with show_progress() as progress:
        summary = run_chain(settings, options, progress)
    status = read_status(settings)
    seconds = time.perf_counter() - started
    if as_json:
        print_json(status | {"run": summary, "seconds": round(seconds, 1)})
        return
    _print_summary(settings, status, summary, seconds)


def _print_summary(settings: Settings, status: dict[str, Any], summary: dict[str, Any], seconds: float) -> None:
    from gh_assets.services.connections import asset_store
    from gh_assets.serving.leaderboard import read_standings

    console = stdout()
    console.print(f"\n[bold]Done in {seconds:.0f} s.[/] The data are in {settings.home_path}")
    print_status(status)
    board, examples = summary["leaderboard"], summary["examples"]
    if board:
        table = Table("model", *next(iter(board.values())), title="Metrics on held-out users", title_justify="left")
        for name, metrics in board.items():
            table.add_row(name, *(f"{value:.4f}" for value in metrics.values()))
        console.print(table, *leaderboard_tables(read_standings(asset_store(settings))))
    if examples:
        columns = (wrapping("user"), wrapping("recommended"), wrapping("because of"))
        table = Table(*columns, title="Example recommendations", title_justify="left")
        for example in examples:
            table.add_row(example["login"], example["full_name"], ", ".join(example["because"]))
        console.print(table)
    login = examples[0]["login"] if examples else "LOGIN"
    console.print(f"Next: gh-assets recommend {login}   or   dagster dev   (make dev), then http://127.0.0.1:3000")
