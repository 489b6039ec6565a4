"""The ``gh-assets`` command, also as ``python -m gh_assets``."""

import os
import sys


def main() -> None:
    """Run the command; Ctrl-C ends it at any moment, with one sentence and exit code 1."""
    try:
        from gh_assets.cli import main as run

        run()
    except KeyboardInterrupt:
        print("Stopped. What was collected is kept; run again to go on.", file=sys.stderr, flush=True)  # noqa: T201
        # Nothing is tidied up: threads may still wait for answers, and a rerun goes on after a kill as well.
        os._exit(1)


if __name__ == "__main__":
    main()
