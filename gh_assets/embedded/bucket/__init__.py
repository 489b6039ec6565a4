"""A small Cloud Storage of one home: Google's JSON API over files, for nobody but who has the home's token."""
