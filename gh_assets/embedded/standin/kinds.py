"""The faults that the stand-in can inject, by name: the command names them without loading a server."""

REST_KINDS = (
    "reset",
    "timeout",
    "500",
    "502",
    "504",
    "truncated",
    "wrong link",
    "slow",
    "401",
    "403",
    "403 retry-after",
    "403 abuse",
    "no limits",
    "absurd limits",
)
"""What can be injected into any answer: a connection reset before it, or one that never comes (the connection is closed
after `Faults.timeout_seconds`); server errors; JSON that ends early; a ``Link`` header that leads nowhere; a body in
two parts with a pause; a good token refused once; secondary limits without and with ``retry-after``, and in the words
of old ("abuse detection"); rate-limit headers that are missing, or that say that nothing is left until a moment long
ago or years away."""

GRAPHQL_KINDS = ("untyped error", "failed entries", "null edges", "null connection", "graphql 400")
"""What GraphQL alone can answer: an error without a type and no data; errors below a connection, with the entries that
they are about null, one by one or as a whole; a null connection beside an error without a path; a plain refusal."""

KINDS = REST_KINDS + GRAPHQL_KINDS
