"""Recorded steps for a GPU."""
