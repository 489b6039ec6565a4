"""The embedded Cloud Storage of a home: Google's JSON API over files, protected by a token."""
