"""Collecting repositories and stars from GitHub. Independent of Dagster, so that it can be used from a notebook."""
