"""The ``gh-assets`` command: one module per command, gathered in `gh_assets.cli.main`.

Modules with a command import what they need inside the command, so that ``gh-assets --help`` starts quickly.
"""

from gh_assets.cli.main import cli as cli
from gh_assets.cli.main import main as main
