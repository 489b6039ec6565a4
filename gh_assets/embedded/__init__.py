"""The servers that a laptop needs: MongoDB and Cloud Storage look-alikes, and the project's GitHub stand-in.

`services` says what they are, `supervision` starts them on demand, `guardian` is the process that looks after
one. Production sets MONGO_URI, GCS_BUCKET and GITHUB_TOKENS, and nothing here runs.
"""
