"""Former names of modules, importable until 2.0. `gh_assets.__init__` adds this folder to the package's path."""

import warnings


def warn_of_former_name(former: str, present: str) -> None:
    """Warn the importer of a module under its former name."""
    message = f"{former} is now {present}; the former name will be removed in 2.0."
    warnings.warn(message, DeprecationWarning, stacklevel=3)
