"""The ``gh-assets`` command. Says what it does on stderr, prints results on stdout; ``--json`` prints one document."""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console
from rich.table import Column, Table

from gh_assets import __version__
from gh_assets.embedded.standin.kinds import KINDS
from gh_assets.errors import GhAssetsError
from gh_assets.local.home import keep_private
from gh_assets.local.network import prepare_network
from gh_assets.settings import MAX_PAGES, Settings, load_settings, setting_rows, split_list
from gh_assets.storage.mongo import Collections

if TYPE_CHECKING:
    from gh_assets.registry import ModelRegistry, Move, RegisteredModel

errors = Console(stderr=True, highlight=False)

PLAIN_CHARACTERS = {"★": "*", "×": "x", "–": "-", "…": "...", "→": "->", "’": "'", "“": '"', "”": '"', "·": "-"}
"""What stands for a character on a terminal that does not have it."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
number_option = click.option("-n", "n", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Recommend GitHub repositories, from awesome lists and stars, with a model that keeps itself current.

    Everything runs on this machine under .gh_assets/ (or GH_ASSETS_HOME) unless GITHUB_TOKENS, MONGO_URI or GCS_BUCKET
    say otherwise.
    """


@cli.command()
@click.option(
    "--source",
    type=click.Choice(["auto", "stargazers", "graphql", "starred", "gharchive", "file"]),
    help="Where stars come from: GitHub's list of stargazers by REST (stargazers) or GraphQL, users' own starred lists "
    "(starred), hours of GH Archive (gharchive), the file of --stars read directly (file), or whichever is open "
    "(auto, the default).",
)
@click.option(
    "--stars",
    type=click.Path(path_type=Path),
    help="Parquet, CSV or TSV with repo and login: served as the world "
    "by the GitHub stand-in, or read directly with --source file.",
)
@click.option(
    "--archive",
    multiple=True,
    help="Hours of GH Archive to read first: a file, a folder, gs://bucket/object or an http address; {0..23} stands "
    "for numbers. Repeatable.",
)
@click.option(
    "--awesome",
    multiple=True,
    help="An awesome list: owner/name on GitHub, owner/name/path of a file or folder in it, an address on GitHub, or a "
    "file (Markdown, Org, AsciiDoc, reStructuredText). Repeatable.",
)
@click.option(
    "--seed-users",
    type=click.Path(path_type=Path),
    help="Users to ask first for their starred lists: Parquet, CSV or TSV with login, or a text with a login a line.",
)
@click.option("--max-users", type=click.IntRange(1), help="At most so many users are asked for their starred lists.")
@click.option(
    "--max-pages",
    type=click.IntRange(1, MAX_PAGES),
    help="Maximum number of pages of 100 stars per repository or user.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(1),
    help="Stop collecting cleanly when so many requests were sent; the next run goes on from there.",
)
@click.option("--full", is_flag=True, help="Read all lists again, to their end, which also notices stars taken back.")
@click.option("--epochs", type=click.IntRange(1), help="At most so many epochs of training.")
@click.option("--retrain", is_flag=True, help="Train even if the same data were trained before.")
@click.option(
    "--accept-matrix",
    is_flag=True,
    help="Train even if users, repositories or stars are fewer than half as many as last time.",
)
@json_option
def run(
    source: str | None,
    stars: Path | None,
    archive: Sequence[str],
    awesome: Sequence[str],
    seed_users: Path | None,
    max_users: int | None,
    max_pages: int | None,
    max_requests: int | None,
    full: bool,
    epochs: int | None,
    retrain: bool,
    accept_matrix: bool,
    as_json: bool,
) -> None:
    """Run the whole chain: repos, stargazers, users, matrix, model, recommendations."""
    from gh_assets.cli.chain import ChainOptions, run_chain
    from gh_assets.cli.status import read_status

    settings = load_settings()
    started = time.perf_counter()
    options = ChainOptions(
        source=source or settings.source,
        stars=stars,
        archive=tuple(archive),
        awesome=tuple(awesome) or tuple(settings.awesome_lists),
        seed_users=seed_users,
        max_users=max_users,
        max_pages=max_pages,
        max_requests=max_requests,
        full=full,
        epochs=epochs,
        retrain=retrain,
        accept_matrix=accept_matrix,
    )
    with _progress() as listener:
        summary = run_chain(settings, options, listener, errors.print)
    status = read_status(settings)
    if as_json:
        _print_json(status | {"run": summary, "seconds": round(time.perf_counter() - started, 1)})
        return
    _print_summary(settings, status, summary, time.perf_counter() - started)


@cli.command()
@json_option
def status(as_json: bool) -> None:
    """Say what is there: counts, outcomes, matrix, models."""
    from gh_assets.cli.status import read_status

    found = read_status(load_settings())
    if as_json:
        _print_json(found)
    else:
        _print_status(found)


@cli.command()
@click.argument("login", required=False)
@click.option("--repos", help="Repositories instead of a login: a/b,c/d.")
@click.option("--popular", is_flag=True, help="For somebody of whom nothing is known: popular, and of all kinds.")
@click.option("--own", is_flag=True, help="Also what the person owns.")
@click.option("--forks", is_flag=True, help="Also forks of what the person starred, and their origins.")
@click.option("--archived", is_flag=True, help="Also archived repositories.")
@click.option("--language", default="", help="Only repositories of this main language.")
@click.option("--topic", "topics", multiple=True, help="Only repositories with this topic. Repeatable.")
@click.option("--owner", default="", help="Only repositories of this owner.")
@click.option("--min-stars", type=click.IntRange(0), help="Only repositories with at least so many stars on GitHub.")
@click.option("--max-stars", type=click.IntRange(0), help="Only repositories with at most so many stars on GitHub.")
@click.option(
    "--popularity",
    type=click.FloatRange(-1, 1),
    default=0.0,
    show_default=True,
    help="Below 0 little-known repositories come up, above 0 famous ones.",
)
@click.option(
    "--diversity", type=click.FloatRange(0, 1), help="How much likeness to what is above it costs a repository."
)
@number_option
@json_option
def recommend(
    login: str | None,
    repos: str | None,
    popular: bool,
    own: bool,
    forks: bool,
    archived: bool,
    language: str,
    topics: tuple[str, ...],
    owner: str,
    min_stars: int | None,
    max_stars: int | None,
    popularity: float,
    diversity: float | None,
    n: int,
    as_json: bool,
) -> None:
    """Recommend repositories to LOGIN, to somebody who likes the given --repos, or to anybody, with reasons."""
    if [login is not None, repos is not None, popular].count(True) != 1:
        raise click.UsageError("Give either a login, --repos a/b,c/d, or --popular.")
    from gh_assets.serving.requests import Filters, RecommendationRequest
    from gh_assets.serving.snapshot import load_snapshot

    filters = Filters(
        own=own,
        forks=forks,
        archived="yes" if archived else "no",
        language=language,
        topics=topics,
        owner=owner,
        min_stars=min_stars,
        max_stars=max_stars,
    )
    request = RecommendationRequest(n=n, filters=filters, popularity=popularity, diversity=diversity)
    snapshot = load_snapshot(load_settings())
    if login is not None:
        request = snapshot.for_login(login, request)
    elif repos is not None:
        request = snapshot.for_repositories(split_list(repos) or [repos], request)
    else:
        request = snapshot.for_new_user(request)
    answer = snapshot.recommend(request)
    for warning in answer.warnings:
        errors.print(warning, style="yellow")
    if as_json:
        _print_json(answer.to_json())
        return
    table = Table("#", _folded("repository"), _folded("because of"), title=answer.title, title_justify="left")
    for entry in (item.recommendation for item in answer.items):
        reasons = ", ".join(f"{reason.full_name} ({reason.share:.0%})" for reason in entry.because)
        table.add_row(str(entry.rank), entry.full_name, reasons)
    _output().print(table)
    if answer.new:
        table = Table(_folded("repository"), _folded("about the same as"), title="New", title_justify="left")
        for entry in (item.recommendation for item in answer.new):
            table.add_row(entry.full_name, ", ".join(reason.full_name for reason in entry.because))
        _output().print(table)


@cli.command()
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="Budget.")
@click.option("--epochs", type=click.IntRange(1), help="At most so many epochs a trial.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the search, the training and the split.")
@json_option
def tune(minutes: float, epochs: int | None, seed: int, as_json: bool) -> None:
    """Search RecVAE's hyper-parameters on the current data; later runs train with the best found."""
    from gh_assets.cli.tune import tune as run_search
    from gh_assets.recommender.training.search import Trial

    def tell(trial: Trial, best: float) -> None:
        if as_json:
            return
        score = f"{trial.score:.4f}" if trial.score is not None else "ended early"
        tried = ", ".join(f"{name} {value:.4g}" for name, value in trial.parameters.items())
        errors.print(
            f"trial {trial.number}: {score} (best {best:.4f}) {trial.epochs} epochs, {trial.seconds:.0f} s; {tried}"
        )

    tuned = run_search(load_settings(), minutes, epochs=epochs, seed=seed, on_trial=tell)
    registered, found = tuned.registered, tuned.found
    if as_json:
        from gh_assets.cli.status import model_json

        _print_json(model_json(registered, {}))
        return
    _output().print(
        f"{len(found.trials)} trials. Best on the validation users: {found.score:.4f}; on the test users "
        f"{registered.score or 0.0:.4f}. Registered as {registered.name} with tag {registered.tag!r}: the next run "
        "trains with these hyper-parameters."
    )


@cli.group()
def models() -> None:
    """The registered models."""


@models.command("list")
@click.argument("name", required=False)
@click.option("--tag", help="Only models with this tag.")
@json_option
def list_models(name: str | None, tag: str | None, as_json: bool) -> None:
    """All models (of NAME), newest first; ★ marks the champion."""
    from gh_assets.cli.status import model_json

    with _registry() as registry:
        alias_holders = registry.alias_holders()
        found = [model_json(model, alias_holders) for model in registry.list(name, tag)]
    if as_json:
        _print_json(found)
    else:
        _output().print(_models_table(found))


@models.command()
@click.argument("name", required=False)
@click.argument("version", type=int, required=False)
@json_option
def show(name: str | None, version: int | None, as_json: bool) -> None:
    """Everything about one model: the champion; the newest of NAME; or NAME and VERSION."""
    from gh_assets.cli.status import model_json

    with _registry() as registry:
        document = model_json(_chosen(registry, name, version), registry.alias_holders(), whole=True)
    if as_json:
        _print_json(document)
        return
    table = Table("", Column(overflow="fold"), show_header=False)
    for key, value in document.items():
        if isinstance(value, dict):
            for inner, entry in value.items():
                table.add_row(f"{key}: {inner}", _shown(entry))
        else:
            table.add_row(key, _shown(value))
    _output().print(table)


@models.command()
@click.argument("name", required=False)
@click.argument("version", type=int, required=False)
@click.option("--tag", default="", help="Only models with this tag.")
@click.option("--latest", is_flag=True, help="The newest instead of the best.")
@click.option("--directory", type=click.Path(path_type=Path), default=Path(), help="Where the file goes.")
@click.option("--unpack", is_flag=True, help="Unpack the archive.")
@json_option
def download(
    name: str | None, version: int | None, tag: str, latest: bool, directory: Path, unpack: bool, as_json: bool
) -> None:
    """Download the champion, the best (or latest) model of NAME, or NAME and VERSION; prints the path."""
    with _registry() as registry:
        if name is not None and version is None:
            model = registry.latest(name, tag) if latest else registry.best(name, tag)
        else:
            model = _chosen(registry, name, version)
        path = registry.download(model, directory, unpack=unpack)
    if as_json:
        _print_json({"name": model.name, "version": model.version, "path": str(path.resolve())})
    else:
        click.echo(path)


why_option = click.option("--why", required=True, help="The reason: it is kept with the decision.")
by_option = click.option("--by", help="Who decides. By default you.")


@models.command()
@click.argument("name")
@click.argument("version", type=int)
@why_option
@by_option
@json_option
def promote(name: str, version: int, why: str, by: str | None, as_json: bool) -> None:
    """Make VERSION of NAME the champion, whatever the comparison says."""
    from gh_assets.registry import Promotion

    with _registry() as registry:
        _print_move(registry.promote(Promotion(name, version, why=why, by=by)), as_json)


@models.command()
@why_option
@by_option
@json_option
def rollback(why: str, by: str | None, as_json: bool) -> None:
    """Return to the champion before the present one."""
    with _registry() as registry:
        _print_move(registry.rollback(why=why, by=by), as_json)


@models.command()
@json_option
def history(as_json: bool) -> None:
    """Who made what the champion, when and why; the last first."""
    from gh_assets.registry import CHAMPION, PURPOSE

    with _registry() as registry:
        moves = registry.aliases.history(PURPOSE, CHAMPION)
    if as_json:
        _print_json([move.model_dump(mode="json") for move in moves])
        return
    table = Table("#", "model", "action", "when (UTC)", _folded("by"), _folded("why"))
    for move in moves:
        when = f"{move.time:%Y-%m-%d %H:%M}"
        row = (str(move.revision), f"{move.name} {move.version}", move.action, when, move.by, move.why)
        table.add_row(*(_plain(cell) for cell in row))
    _output().print(table)


@models.command()
@click.argument("name", required=False)
@click.argument("version", type=int, required=False)
@click.option("--quick", is_flag=True, help="Ask the bucket only, without reading the models.")
@json_option
def verify(name: str | None, version: int | None, quick: bool, as_json: bool) -> None:
    """Check every model (of NAME) against its object: there, whole, and the bytes that were registered."""
    findings = []
    with _registry() as registry:
        wanted = [registry.get(name, version)] if name is not None and version is not None else registry.list(name)
        for model in wanted:
            problem = registry.problem(model) if quick else registry.verify(model)
            findings.append({"name": model.name, "version": model.version, "ok": problem is None, "problem": problem})
    if as_json:
        _print_json(findings)
    else:
        table = Table("", "model", _folded("finding"))
        for finding in findings:
            mark = "[green]ok[/]" if finding["ok"] else "[red]wrong[/]"
            table.add_row(mark, f"{finding['name']} {finding['version']}", _plain(str(finding["problem"] or "")))
        _output().print(table)
    if not all(finding["ok"] for finding in findings):
        sys.exit(1)


@models.command()
@click.option("--grace", type=click.FloatRange(0), default=60.0, show_default=True, help="Minutes: younger ones stay.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def sweep(grace: float, dry_run: bool, as_json: bool) -> None:
    """Remove objects that no model names: of crashes, and of deleted models."""
    import datetime as dt

    with _registry() as registry:
        gone = registry.sweep(dt.timedelta(minutes=grace), dry_run=dry_run)
    if as_json:
        _print_json([{"object": found.name, "size": found.size, "removed": not dry_run} for found in gone])
        return
    for found in gone:
        _output().print(f"{found.name}  {found.size:,} bytes", highlight=False)
    total = sum(found.size for found in gone)
    _output().print(f"{len(gone)} orphans, {total:,} bytes {'would go' if dry_run else 'removed'}.")


@models.command()
@click.argument("name")
@click.argument("version", type=int)
@why_option
@by_option
@json_option
def delete(name: str, version: int, why: str, by: str | None, as_json: bool) -> None:
    """Make VERSION of NAME invisible for ever; its bytes go with the next sweep."""
    with _registry() as registry:
        model = registry.delete(name, version, why=why, by=by)
    if as_json:
        _print_json({"name": model.name, "version": model.version, "deleted": True})
    else:
        _output().print(f"{model.title} is deleted. Its file goes with: gh-assets models sweep")


@contextmanager
def _registry() -> Iterator[ModelRegistry]:
    from gh_assets.registry import configured_registry
    from gh_assets.services.connections import open_mongo

    with open_mongo(load_settings()) as database:
        yield configured_registry(database[Collections.MODELS])


def _chosen(registry: ModelRegistry, name: str | None, version: int | None) -> RegisteredModel:
    from gh_assets.serving.current_model import current_model

    if name is None:
        return current_model(registry)
    return registry.latest(name) if version is None else registry.get(name, version)


def _print_move(move: Move, as_json: bool) -> None:
    if as_json:
        _print_json(move.model_dump(mode="json"))
    else:
        _output().print(f"The champion is {move.name} {move.version} now (move {move.revision}).")
        for problem in move.evidence.get("passed_over", ()):
            _output().print(_plain(f"Passed over: {problem}."))


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _plain(text if len(text) <= 300 else f"{text[:300]}…")


@cli.group()
def data() -> None:
    """The assets' stored data, and what was there before."""


@data.command("undo")
@click.argument("asset")
@click.option(
    "--before",
    callback=lambda _context, _option, text: _moment(text),
    required=True,
    help="The moment to which ASSET returns, before the bad run began: 2026-11-26T14:30 (UTC), or with an offset.",
)
@json_option
def undo(asset: str, before: datetime, as_json: bool) -> None:
    """Bring ASSET, with all its partitions, back to what it was; what is there now is kept, too."""
    from gh_assets.services.connections import asset_store

    changed = asset_store(load_settings()).undo(asset, before)
    if as_json:
        _print_json(changed)
    else:
        _output().print(f"{len(changed)} objects of {asset} are what they were before {before:%Y-%m-%d %H:%M:%S} UTC.")


def _moment(text: str) -> datetime:
    """A time of the past; UTC where it says nothing else."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no time: write 2026-11-26, 2026-11-26T14:30 or 2026-11-26T14:30:00+00:00 (UTC if no offset "
            "is given)."
        ) from None
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    if moment > datetime.now(UTC):
        raise click.BadParameter(f"{text} has not come yet: name the moment before the bad run began.")
    return moment


@data.command("backup")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def backup_command(folder: Path, as_json: bool) -> None:
    """Copy Mongo's collections and both buckets into FOLDER, which must not exist yet."""
    from gh_assets.services.connections import open_mongo
    from gh_assets.storage.backup import back_up

    settings = load_settings()
    with open_mongo(settings) as database:
        copied = back_up(database, _stores(settings), folder, workers=settings.workers)
    _print_copied(copied, f"are in {folder}", as_json)


@data.command("restore")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def restore_command(folder: Path, as_json: bool) -> None:
    """Put the backup in FOLDER into an empty database and empty buckets."""
    from gh_assets.services.connections import open_mongo
    from gh_assets.storage.backup import restore

    settings = load_settings()
    with open_mongo(settings) as database:
        copied = restore(folder, database, _stores(settings), workers=settings.workers)
    _print_copied(copied, "are where the settings say. Next: gh-assets models verify", as_json)


def _stores(settings: Settings) -> dict[str, Any]:
    from gh_assets.services.connections import connect_gcs, data_store, model_store

    client = connect_gcs(settings)
    return {"data": data_store(settings, client), "models": model_store(settings, client)}


def _print_copied(copied: Any, words: str, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(copied))
    else:
        size = copied.bytes / 1e6
        _output().print(f"{copied.documents:,} documents and {copied.objects:,} objects ({size:,.1f} MB) {words}")


@cli.command("github-standin")
@click.option(
    "--stars",
    type=click.Path(path_type=Path),
    help="Parquet or CSV with repo and login; else a synthetic world.",
)
@click.option(
    "--awesome",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File to serve as a list, as the README of a repository; needs --stars. Repeatable.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8085, show_default=True)
@click.option("--token", "tokens", multiple=True, help="An accepted token. Repeatable; by default a new one.")
@click.option("--limit", type=click.IntRange(1), default=5000, show_default=True, help="Requests an hour and token.")
@click.option(
    "--github-limits", is_flag=True, help="GitHub's own limits, secondary ones included, instead of --limit alone."
)
@click.option("--restricted", is_flag=True, help="The world since July 2026: nobody may list stargazers.")
@click.option(
    "--query-budget", type=click.IntRange(1), help="Nodes after which a GraphQL query meets GitHub's resource limits."
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND=SHARE",
    help=f"A share of answers that fail, such as 502=0.05. Kinds: {', '.join(KINDS)}. Repeatable.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the synthetic world.")
def github_standin(
    stars: Path | None,
    awesome: Sequence[Path],
    port: int,
    tokens: Sequence[str],
    limit: int,
    github_limits: bool,
    restricted: bool,
    query_budget: int | None,
    faults: Sequence[str],
    seed: int,
) -> None:
    """Serve the GitHub stand-in by itself, on 127.0.0.1, until Ctrl-C."""
    from gh_assets.embedded.standin.__main__ import load_world, serve
    from gh_assets.embedded.standin.app import Standin
    from gh_assets.embedded.standin.faults import Faults
    from gh_assets.embedded.standin.limits import Limits

    if awesome and stars is None:
        raise click.UsageError(
            "--awesome needs --stars: the synthetic world has its own list, whose repositories are its own."
        )
    world = load_world(stars, awesome, seed)
    limits = Limits.of_github() if github_limits else Limits(requests=limit)
    limits.query_budget = query_budget
    if world.skipped:
        errors.print(world.skipped, style="yellow")
    accepted = list(tokens) or [f"standin_{secrets.token_hex(16)}"]
    errors.print(
        f"Serving {world.description}: {len(world.repositories):,} repositories, {len(world.logins):,} users, "
        f"{world.star_count:,} stars. Lists: {', '.join(world.lists)}.\n"
        f"Use it with GITHUB_API_URL=http://127.0.0.1:{port} GITHUB_TOKENS={'…' if tokens else accepted[0]}"
    )
    standin = Standin(world, accepted, limits, restricted=restricted, faults=Faults(_shares(faults)))
    serve(standin, port=port)


def _shares(texts: Sequence[str]) -> dict[str, float]:
    """Shares of faults by kind."""
    shares: dict[str, float] = {}
    for text in texts:
        kind, _, share = text.rpartition("=")
        try:
            shares[kind] = float(share)
        except ValueError:
            raise click.UsageError(f"--fault {text!r} is not of the form KIND=SHARE, such as 502=0.05.") from None
        if kind not in KINDS or not 0 <= shares[kind] <= 1:
            raise click.UsageError(f"--fault {text!r}: a share is 0 to 1, a kind one of {', '.join(KINDS)}.")
    return shares


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all of them.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option(
    "--root-path", default="", metavar="PATH", help="Path below which a proxy shows the server, such as /recs."
)
def serve(host: str, port: int, root_path: str) -> None:
    """Serve the page and the API, from the champion, until Ctrl-C. Logs are JSON lines on stderr."""
    # One processor a batch: BLAS reads this when it is loaded, and its threads would wait for one another.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from gh_assets.web.addresses import read_prefix
    from gh_assets.web.server import serve as run_server

    prefix = read_prefix(root_path)
    if prefix is None:
        raise click.UsageError(f"--root-path {root_path!r} is not a path such as /recs: letters, digits and . _ ~ -")
    settings = load_settings()
    if host not in ("127.0.0.1", "::1", "localhost") and not settings.api_keys:
        errors.print(
            f"Listening on {host} without a key: whoever reaches it may ask. GH_ASSETS_API_KEYS asks for one.",
            style="yellow",
        )
    # Ctrl-C is how it ends: there is nothing to go on with.
    with suppress(KeyboardInterrupt):
        run_server(
            settings, host, port, lambda url: errors.print(f"Serving on {url}", soft_wrap=True), root_path=prefix
        )


@cli.command()
@click.option("--settings", "only_settings", is_flag=True, help="Only show the settings; ask no service.")
@json_option
def doctor(only_settings: bool, as_json: bool) -> None:
    """Show all settings, then check every configured service; say what is wrong and what to do."""
    from gh_assets.cli.doctor import examine

    settings = load_settings()
    rows = setting_rows(settings)
    if only_settings and as_json:
        _print_json({row.name: row.value for row in rows})
        return
    if not as_json:
        chosen = Table("setting", "value", "meaning")
        for row in rows:
            changed = row.value != row.default
            chosen.add_row(f"[bold]{row.name}[/]" if changed else row.name, _plain(row.value), _plain(row.meaning))
        _output().print(chosen)
        if only_settings:
            return
    findings = examine(settings)
    if as_json:
        _print_json([finding.to_json() for finding in findings])
    else:
        table = Table("", "service", "finding")
        for finding in findings:
            table.add_row("[green]ok[/]" if finding.ok else "[red]wrong[/]", finding.service, finding.words)
        _output().print(table)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command: whatever goes wrong becomes one sentence and exit code 1.

    Raises
    ------
    SystemExit
    KeyboardInterrupt
        At Ctrl-C, which the caller explains.
    """
    _quieten()
    keep_private()
    _prepare_terminal()
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
        _discard_output()
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - no traceback for anything that can happen
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    """Say what happened in one sentence, name the log that has the details, and exit with 1."""
    from gh_assets.cli.failures import cause_of, explain, has_details, write_log
    from gh_assets.instance.storage import history_folder

    try:
        settings = load_settings()
        home, history = settings.home_path, history_folder(settings)
    except (GhAssetsError, OSError, RuntimeError):  # not even the settings can be read
        home = history = Path(tempfile.gettempdir())
    cause = cause_of(error)
    sentence = explain(cause, history)
    if has_details(cause):
        log = write_log(error, home)
        sentence += f" Details: {log}" if log is not None else ""
    with suppress(OSError):
        errors.print(f"[red]Error:[/] {_plain(sentence)}", soft_wrap=True)
    _discard_output()
    sys.exit(1)


def _discard_output() -> None:
    """Keep Python from trying once more, at its end, to write what could not be written."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
            continue
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _prepare_terminal() -> None:
    """Let a terminal that has no Unicode show what it can in place of what it cannot."""
    codecs.register_error("gh_assets.transliterate", _transliterate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="gh_assets.transliterate")


def _transliterate(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN_CHARACTERS.get(character, "?") for character in text), error.end


def _quieten() -> None:
    """Dagster logs every event to stderr; a person at a terminal has the progress instead."""
    for name in ("dagster", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _output() -> Console:
    console = Console(highlight=False)
    # In a file or a pipe there is no edge to fold at.
    return console if console.is_terminal else Console(highlight=False, width=200)


def _folded(name: str) -> Column:
    """A column that is folded where it does not fit: half a name is no name."""
    return Column(name, overflow="fold")


def _print_json(document: Any) -> None:
    unicode = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    click.echo(json.dumps(document, ensure_ascii=not unicode, indent=2))


@contextmanager
def _progress() -> Iterator[Any]:
    """A progress bar an asset on a terminal; a line now and then elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    if not errors.is_terminal:
        last: dict[str, float] = {}

        def tell(asset: str, done: int, total: int, words: str) -> None:
            if done >= total or time.monotonic() - last.get(asset, 0.0) >= 5.0:
                last[asset] = time.monotonic()
                errors.print(f"{asset}: {done} of {total} {words}".rstrip())

        yield tell
        return
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=errors) as bars:
        tasks: dict[str, TaskID] = {}

        def show(asset: str, done: int, total: int, words: str) -> None:
            if asset not in tasks:
                tasks[asset] = bars.add_task(asset, total=total, words=words)
            bars.update(tasks[asset], completed=done, total=total, words=words)

        yield show


def _print_summary(settings: Settings, status: dict[str, Any], summary: dict[str, Any], seconds: float) -> None:
    console = _output()
    console.print(f"\n[bold]Done in {seconds:.0f} s.[/] Data under {settings.home_path}")
    _print_status(status)
    if summary["leaderboard"]:
        table = Table(
            "model",
            *next(iter(summary["leaderboard"].values())),
            title="On held-out users",
            title_justify="left",
        )
        for name, metrics in summary["leaderboard"].items():
            table.add_row(name, *(f"{value:.4f}" for value in metrics.values()))
        console.print(table)
    if summary["examples"]:
        table = Table(
            _folded("user"),
            _folded("recommended"),
            _folded("because of"),
            title="A few recommendations",
            title_justify="left",
        )
        for example in summary["examples"]:
            table.add_row(example["login"], example["full_name"], ", ".join(example["because"]))
        console.print(table)
    someone = summary["examples"][0]["login"] if summary["examples"] else "LOGIN"
    console.print(f"Next: gh-assets recommend {someone}   or   dagster dev   (make dev), then http://127.0.0.1:3000")


def _print_status(status: dict[str, Any]) -> None:
    console = _output()
    table = Table(show_header=False)
    table.add_row("world", status["world"])
    table.add_row("repositories", f"{status['repos']:,}  {_counts(status['repo_outcomes'])}")
    table.add_row("partitions", f"{status['partitions']:,}  {_counts(status['partition_outcomes'])}")
    sources = status["star_sources"]
    table.add_row("stars", f"{status['stars']:,}" + (f"  from {_counts(sources)}" if sources else ""))
    if status["lists_closed"]:
        table.add_row("closed lists", f"{status['lists_closed']:,} repositories do not let their stargazers be listed")
    if status["lists_unproven"]:
        table.add_row(
            "unproven lists", f"{status['lists_unproven']:,} may lack stars: the next run asks for them again"
        )
    if status["stars_taken_back"]:
        table.add_row("taken back", f"{status['stars_taken_back']:,} stars")
    if status["archive_days"]:
        table.add_row("GH Archive", f"{status['archive_days']:,} days")
    asked = f"  {status['users_asked']:,} asked for their own lists" if status["users_asked"] else ""
    table.add_row("users", f"{status['users']:,}{asked}")
    limited = [budget for budget in status["quota"] if budget["limit"] < 1_000_000]
    for budget in limited:
        until = f" until {budget['reset'][11:16]} UTC" if budget["reset"] else ""
        table.add_row(f"quota {budget['resource']}", f"{budget['left']:,} of {budget['limit']:,}{until}")
    matrix = status["matrix"]
    table.add_row(
        "matrix",
        f"{matrix['rows']:,} × {matrix['cols']:,} with {matrix['nnz']:,} ones" if matrix else "none yet",
    )
    serving = status["serving"]
    if serving is not None:
        role = " (the champion)" if serving["champion"] else ""
        table.add_row("serves", _plain(f"{serving['model'] or 'no model'}{role}: {serving['why']}"))
        table.add_row("newest model", _plain(f"{serving['newest']}: {serving['decision']}"))
        for words in serving["skipped"]:
            table.add_row("skipped", f"[yellow]{_plain(words)}[/]")
    console.print(table)
    if status["models"]:
        console.print(_models_table(status["models"]))


def _models_table(found: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        *("", "model", "version", "tags", "score", "metric", "time (UTC)", "MB", "SHA-256"),
        title="Models",
        title_justify="left",
    )
    for model in found:
        table.add_row(
            "★" if "champion" in model["aliases"] else "",
            model["name"],
            str(model["version"] or ""),
            ", ".join(model["tags"]),
            "" if model["score"] is None else f"{model['score']:.4f}",
            model["metric"],
            model["time"][:19].replace("T", " "),
            "" if model["size"] is None else f"{model['size'] / 1e6:.1f}",
            (model["sha256"] or "")[:12],
        )
    return table


def _counts(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(outcomes.items(), key=lambda entry: -entry[1]))
