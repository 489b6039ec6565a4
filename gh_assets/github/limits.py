"""Fixed limits of GitHub's APIs, and what this project takes for having no limit.

Source: docs.github.com/rest/using-the-rest-api and docs.github.com/graphql/overview.
"""

PAGE_SIZE = 100
"""Maximum number of entries of a page, by REST and by GraphQL."""

CONNECTIONS_A_POINT = 100
"""GraphQL connections that one query may read for a single point."""

IDS_A_FIELD = 100
"""Maximum number of ids in one ``nodes`` field of a GraphQL query."""

MAX_REDIRECTS = 5
"""Redirects that are followed for one repository: GitHub redirects once for each rename."""

RESOURCE_LIMITS = "RESOURCE_LIMITS_EXCEEDED"
"""Type of the GraphQL error about a query that takes GitHub too much computing."""

UNLIMITED = 1_000_000
"""A quota of this many points an hour is no limit in practice. The stand-in's quota is larger."""
