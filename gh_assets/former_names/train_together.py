"""Former name of `gh_assets.cli.train_together`."""

from gh_assets.cli.train_together import main
from gh_assets.former_names import warn_of_former_name

__all__ = ["main"]

warn_of_former_name("gh_assets.train_together", "gh_assets.cli.train_together")

if __name__ == "__main__":
    raise SystemExit(main())
