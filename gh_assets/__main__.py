"""Entry point of ``gh-assets`` and of ``python -m gh_assets``."""

import os
import sys


def main() -> None:
    """Run the command; Ctrl-C ends it at any time with one sentence and exit code 1."""
    try:
        from gh_assets.cli import main as run

        run()
    except KeyboardInterrupt:
        print("Stopped. What was collected is kept; run again to go on.", file=sys.stderr, flush=True)  # noqa: T201
        # Without cleanup: threads may be waiting for responses, and the next run can resume even after a kill.
        os._exit(1)


if __name__ == "__main__":
    main()
