"""The GitHub stand-in: a real HTTP server with the part of GitHub's REST API that the project uses.

`world` is what it knows, `synthetic` makes a world up, `app` serves it, `__main__` is its process.
"""
