"""Access to GitHub's APIs: client, token pool and rate limits, quota ledger, GraphQL paging, outcomes."""
