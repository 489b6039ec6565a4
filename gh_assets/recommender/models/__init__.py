"""The recommenders."""
