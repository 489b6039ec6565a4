"""`gh-assets github-standin`: the GitHub stand-in by itself."""

import secrets
from collections.abc import Sequence

import click

from gh_assets.cli.options import StandinOptions, options_of
from gh_assets.cli.output import stderr
from gh_assets.embedded.standin.kinds import KINDS


@click.command("github-standin")
@options_of(StandinOptions)
def github_standin(options: StandinOptions) -> None:
    """Serve the GitHub stand-in on 127.0.0.1 until Ctrl-C."""
    from gh_assets.embedded.standin.__main__ import generate_world, serve
    from gh_assets.embedded.standin.app import Standin
    from gh_assets.embedded.standin.faults import Faults
    from gh_assets.embedded.standin.limits import Limits
    from gh_assets.embedded.standin.world import read_world

    if options.awesome and options.stars is None:
        raise click.UsageError("--awesome needs --stars: the synthetic world has its own lists and repositories.")
    size = options.model_dump(include={"repositories", "users"}, exclude_none=True)
    if options.stars is None:
        world = generate_world(options.world, options.seed, **size)
    elif size or options.world == "large":
        raise click.UsageError("--stars is a world of its own: leave out --world, --repositories and --users.")
    else:
        world = read_world(options.stars, options.awesome)
    limits = Limits.of_github() if options.github_limits else Limits(requests=options.limit)
    limits.query_budget = options.query_budget
    if world.skipped:
        stderr.print(world.skipped, style="yellow")
    tokens = list(options.token) or [f"standin_{secrets.token_hex(16)}"]
    stderr.print(
        f"Serving {world.description}: {len(world.repositories):,} repositories, {len(world.logins):,} users, "
        f"{world.star_count:,} stars. Lists: {', '.join(world.lists)}.\n"
        f"To use it: GITHUB_API_URL=http://127.0.0.1:{options.port} GITHUB_TOKENS={'…' if options.token else tokens[0]}"
    )
    faults = Faults(_shares(options.fault))
    standin = Standin(
        world, tokens, limits, restricted=options.restricted, faults=faults, enterprise=options.enterprise
    )
    serve(standin, port=options.port)


def _shares(texts: Sequence[str]) -> dict[str, float]:
    """Parse shares of faults by kind."""
    shares: dict[str, float] = {}
    for text in texts:
        kind, _, share = text.rpartition("=")
        try:
            shares[kind] = float(share)
        except ValueError:
            raise click.UsageError(f"--fault {text!r} is not of the form KIND=SHARE, such as 502=0.05.") from None
        if kind not in KINDS or not 0 <= shares[kind] <= 1:
            raise click.UsageError(
                f"--fault {text!r}: the share must be 0 to 1, and the kind one of {', '.join(KINDS)}."
            )
    return shares
