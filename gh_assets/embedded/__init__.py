"""Servers for a single machine: MongoDB, Cloud Storage, and a stand-in for GitHub.

`servers` defines them, `supervision` starts them on demand, and `guardian` is the process that watches over one. In
production, MONGO_URI, GCS_BUCKET and GITHUB_TOKENS are set and none of them runs.
"""
