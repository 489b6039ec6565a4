"""Connections to MongoDB, Cloud Storage and GitHub according to the settings, and the world of a home."""
