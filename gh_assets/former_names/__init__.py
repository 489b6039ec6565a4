"""Former names of modules, importable until 2.0. `gh_assets.__init__` adds this folder to the package's path."""
