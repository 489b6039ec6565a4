"""Matrices, splits and files."""
