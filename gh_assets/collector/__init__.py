"""Collecting repositories and stars from GitHub. Knows nothing of Dagster: it can be used from a notebook."""
