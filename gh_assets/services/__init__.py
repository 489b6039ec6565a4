"""Connections to MongoDB, Cloud Storage and GitHub by the settings, and which world a home holds."""
