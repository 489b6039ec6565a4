"""The GitHub stand-in: an HTTP server with the parts of GitHub's REST and GraphQL APIs that the project uses.

`world` holds its data, `synthetic` generates them, `app` serves them, and `__main__` is its process.
"""
