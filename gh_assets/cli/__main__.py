"""`python -m gh_assets.cli`, as before."""

from gh_assets.cli import main

main()
