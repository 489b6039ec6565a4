"""`gh-assets status`: counts, outcomes, the matrix, the models and which of them serves."""

from collections.abc import Iterator
from typing import Any

import click

from gh_assets.cli.output import Table, counts, escape, json_option, models_table, print_json, stdout
from gh_assets.settings import load_settings


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Show counts, outcomes, the matrix and the models."""
    from gh_assets.cli.documents import read_status

    document = read_status(load_settings())
    if as_json:
        print_json(document)
    else:
        print_status(document)


def print_status(status: dict[str, Any]) -> None:
    """Print the tables of a status; see `gh_assets.cli.documents.read_status`."""
    table = Table(show_header=False)
    for row in (*_data_rows(status), *_quota_rows(status), *_model_rows(status)):
        table.add_row(*row)
    console = stdout()
    console.print(table)
    if status["models"]:
        console.print(models_table(status["models"]))


def _data_rows(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    sources, users_read = status["star_sources"], status["users_asked"]
    yield "world", status["world"]
    yield "repositories", f"{status['repos']:,}  {counts(status['repo_outcomes'])}"
    yield "partitions", f"{status['partitions']:,}  {counts(status['partition_outcomes'])}"
    yield "stars", f"{status['stars']:,}" + (f"  from {counts(sources)}" if sources else "")
    if status["lists_closed"]:
        yield "closed lists", f"{status['lists_closed']:,} repositories do not let their stargazers be listed"
    if status["lists_unproven"]:
        yield "unproven lists", f"{status['lists_unproven']:,} may lack stars; the next run reads them again"
    if status["feeds"]:
        gaps = status["feeds_with_gaps"]
        text = f"  {gaps:,} with gaps at the last look: stars may be missing" if gaps else ""
        yield "event feeds", f"{status['feeds']:,}{text}"
    if status["histories"]:
        yield "star histories", f"{status['histories']:,}  {status['histories_complete']:,} complete"
    if status["stars_taken_back"]:
        yield "removed stars", f"{status['stars_taken_back']:,}"
    if status["archive_days"]:
        yield "GH Archive", f"{status['archive_days']:,} days"
    yield "users", f"{status['users']:,}" + (f"  own starred lists read of {users_read:,}" if users_read else "")


def _quota_rows(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from gh_assets.github.limits import UNLIMITED

    for budget in status["quota"]:
        if budget["limit"] < UNLIMITED:
            until = f" until {budget['reset'][11:16]} UTC" if budget["reset"] else ""
            yield f"quota {budget['resource']}", f"{budget['left']:,} of {budget['limit']:,}{until}"


def _model_rows(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    matrix, serving = status["matrix"], status["serving"]
    yield "matrix", f"{matrix['rows']:,} × {matrix['cols']:,} with {matrix['nnz']:,} ones" if matrix else "none yet"
    if serving is None:
        return
    role = " (the champion)" if serving["champion"] else ""
    yield "serves", escape(f"{serving['model'] or 'no model'}{role}: {serving['why']}")
    yield "newest model", escape(f"{serving['newest']}: {serving['decision']}")
    for warning in serving["skipped"]:
        yield "skipped", f"[yellow]{escape(warning)}[/]"
