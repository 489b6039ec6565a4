"""Awesome lists: which files a list consists of, and which repositories these link to."""
