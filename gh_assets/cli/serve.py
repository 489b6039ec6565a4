"""`gh-assets serve`: the web page and the HTTP API."""

import os
from contextlib import suppress

import click

from gh_assets.cli.output import stderr
from gh_assets.settings import load_settings

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all interfaces."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 for a free one.",
)
@click.option(
    "--root-path", default="", metavar="PATH", help="Path under which a proxy publishes the server, such as /recs."
)
def serve(host: str, port: int, root_path: str) -> None:
    """Serve the web page and the HTTP API until Ctrl-C.

    Recommendations come from the champion. Logs are JSON lines on stderr.
    """
    # Batches are small: BLAS reads this when it is loaded, and more threads would only wait for one another.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from gh_assets.web.addresses import read_prefix
    from gh_assets.web.server import serve as run_server

    prefix = read_prefix(root_path)
    if prefix is None:
        raise click.UsageError(f"--root-path {root_path!r} is not a path such as /recs: letters, digits and . _ ~ -")
    settings = load_settings()
    if host not in LOOPBACK and not settings.api_keys:
        stderr.print(
            f"Listening on {host} without a key: anyone who can reach it can use it. Set GH_ASSETS_API_KEYS to "
            "require a key.",
            style="yellow",
        )
    with suppress(KeyboardInterrupt):  # Ctrl-C is how the server is stopped
        run_server(
            settings, host, port, lambda url: stderr.print(f"Serving on {url}", soft_wrap=True), root_path=prefix
        )
