"""How GitHub is asked: client, tokens and rate limits, the quota ledger, GraphQL paging, outcomes."""
