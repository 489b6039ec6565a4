"""Reading awesome lists: which files a list is made of, and which repositories they link to."""
