"""`gh-assets models`: the model registry."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gh_assets.cli.output import Table, escape, findings_table, json_option, models_table, print_json, report, wrapping
from gh_assets.settings import load_settings

if TYPE_CHECKING:
    from gh_assets.registry import ModelRegistry, Move, RegisteredModel

MAX_CELL = 300
"""Characters of a value in the table of `models show`; `--json` has all of them."""

why_option = click.option("--why", required=True, help="Reason for the decision, which is stored with it.")
by_option = click.option("--by", help="Who decides; by default your user name.")


@click.group()
def models() -> None:
    """List, inspect, download and promote registered models."""


@models.command("list")
@click.argument("name", required=False)
@click.option("--tag", help="Only models with this tag.")
@json_option
def list_models(name: str | None, tag: str | None, as_json: bool) -> None:
    """List models (of NAME), newest first; ★ marks the champion."""
    from gh_assets.cli.documents import model_json

    with _registry() as registry:
        alias_holders = registry.alias_holders()
        documents = [model_json(model, alias_holders) for model in registry.list(name, tag)]
    report(documents, models_table(documents), as_json)


@models.command()
@click.argument("name", required=False)
@click.argument("version", type=int, required=False)
@json_option
def show(name: str | None, version: int | None, as_json: bool) -> None:
    """Show everything recorded about one model.

    Without arguments, show the champion; with NAME, its newest version; with NAME and VERSION, that version.
    """
    from gh_assets.cli.documents import model_json

    with _registry() as registry:
        document = model_json(_selected(registry, name, version), registry.alias_holders(), whole=True)
    table = Table("", wrapping(""), show_header=False)
    for key, value in document.items():
        if isinstance(value, dict):
            for inner, entry in value.items():
                table.add_row(f"{key}: {inner}", _cell(entry))
        else:
            table.add_row(key, _cell(value))
    report(document, table, as_json)


@models.command()
@click.argument("name", required=False)
@click.argument("version", type=int, required=False)
@click.option("--tag", default="", help="Only models with this tag.")
@click.option("--latest", is_flag=True, help="Download the newest model instead of the best one.")
@click.option("--directory", type=click.Path(path_type=Path), default=Path(), help="Folder to write the file to.")
@click.option("--unpack", is_flag=True, help="Unpack the archive.")
@json_option
def download(
    name: str | None, version: int | None, tag: str, latest: bool, directory: Path, unpack: bool, as_json: bool
) -> None:
    """Download a model and print its path.

    Without arguments, download the champion; with NAME, its best version, or the newest with --latest; with NAME and
    VERSION, that version.
    """
    with _registry() as registry:
        if name is not None and version is None:
            model = registry.latest(name, tag) if latest else registry.best(name, tag)
        else:
            model = _selected(registry, name, version)
        path = registry.download(model, directory, unpack=unpack)
    if as_json:
        print_json({"name": model.name, "version": model.version, "path": str(path.resolve())})
    else:
        click.echo(path)


@models.command()
@click.argument("name")
@click.argument("version", type=int)
@why_option
@by_option
@json_option
def promote(name: str, version: int, why: str, by: str | None, as_json: bool) -> None:
    """Make VERSION of NAME the champion, without a comparison."""
    from gh_assets.registry import Promotion

    with _registry() as registry:
        _print_move(registry.promote(Promotion(name, version, why=why, by=by)), as_json)


@models.command()
@why_option
@by_option
@json_option
def rollback(why: str, by: str | None, as_json: bool) -> None:
    """Return to the previous champion."""
    with _registry() as registry:
        _print_move(registry.rollback(why=why, by=by), as_json)


@models.command()
@json_option
def history(as_json: bool) -> None:
    """List the changes of the champion, newest first."""
    from gh_assets.registry import CHAMPION, PURPOSE

    with _registry() as registry:
        moves = registry.aliases.history(PURPOSE, CHAMPION)
    table = Table("#", "model", "action", "when (UTC)", wrapping("by"), wrapping("why"))
    for move in moves:
        time = f"{move.time:%Y-%m-%d %H:%M}"
        row = (str(move.revision), move.title, move.action, time, move.by, move.why)
        table.add_row(*(escape(cell) for cell in row))
    report([move.model_dump(mode="json") for move in moves], table, as_json)


@models.command()
@click.argument("name", required=False)
@click.argument("version", type=int, required=False)
@click.option("--quick", is_flag=True, help="Compare the bucket's metadata only, without reading the objects.")
@json_option
def verify(name: str | None, version: int | None, quick: bool, as_json: bool) -> None:
    """Compare models (of NAME) with their stored objects.

    Each object must exist, be complete, and hold the bytes that were registered.
    """
    findings: list[dict[str, Any]] = []
    with _registry() as registry:
        selected = [registry.get(name, version)] if name is not None and version is not None else registry.list(name)
        for model in selected:
            problem = registry.problem(model) if quick else registry.verify(model)
            findings.append({"name": model.name, "version": model.version, "ok": problem is None, "problem": problem})
    rows = [(row["ok"], f"{row['name']} {row['version']}", row["problem"] or "") for row in findings]
    report(findings, findings_table("model", rows), as_json)
    if not all(finding["ok"] for finding in findings):
        sys.exit(1)


@models.command()
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Keep objects younger than this many minutes.",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@json_option
def sweep(grace: float, dry_run: bool, as_json: bool) -> None:
    """Remove objects that belong to no model.

    Crashes and deleted models leave such objects.
    """
    import datetime as dt

    with _registry() as registry:
        orphans = registry.sweep(dt.timedelta(minutes=grace), dry_run=dry_run)
    total = sum(orphan.size for orphan in orphans)
    lines = [f"{orphan.name}  {orphan.size:,} bytes" for orphan in orphans]
    lines.append(f"{len(orphans)} orphans, {total:,} bytes {'would be removed' if dry_run else 'removed'}.")
    documents = [{"object": orphan.name, "size": orphan.size, "removed": not dry_run} for orphan in orphans]
    report(documents, "\n".join(lines), as_json)


@models.command()
@click.argument("name")
@click.argument("version", type=int)
@why_option
@by_option
@json_option
def delete(name: str, version: int, why: str, by: str | None, as_json: bool) -> None:
    """Delete VERSION of NAME for good; the next sweep frees its space."""
    with _registry() as registry:
        model = registry.delete(name, version, why=why, by=by)
    document = {"name": model.name, "version": model.version, "deleted": True}
    report(document, f"{model.title} is deleted. To remove its file: gh-assets models sweep", as_json)


def _registry() -> AbstractContextManager[ModelRegistry]:
    from gh_assets.registry import open_registry

    return open_registry(load_settings())


def _selected(registry: ModelRegistry, name: str | None, version: int | None) -> RegisteredModel:
    from gh_assets.serving.current_model import current_model

    if name is None:
        return current_model(registry)
    return registry.latest(name) if version is None else registry.get(name, version)


def _print_move(move: Move, as_json: bool) -> None:
    lines = [f"The champion is now {move.title} (move {move.revision})."]
    lines += [escape(f"Skipped: {problem}.") for problem in move.evidence.get("passed_over", ())]
    report(move.model_dump(mode="json"), "\n".join(lines), as_json)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return escape(text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]}…")
