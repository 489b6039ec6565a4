"""The former name of `gh_assets.cli.train_together`."""

import warnings

from gh_assets.cli.train_together import main

__all__ = ["main"]

warnings.warn(
    "gh_assets.train_together is now gh_assets.cli.train_together; the former name goes with 2.0.",
    DeprecationWarning,
    stacklevel=2,
)

if __name__ == "__main__":
    raise SystemExit(main())
