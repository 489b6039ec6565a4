"""The object store, the typed asset store, MongoDB, messages and their consumer, migrations and backups."""
