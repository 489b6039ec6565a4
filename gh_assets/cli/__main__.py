"""`python -m gh_assets.cli`, as before."""

from gh_assets.__main__ import main

main()
