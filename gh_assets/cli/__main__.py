"""`python -m gh_assets.cli`."""

from gh_assets.cli import main

main()
