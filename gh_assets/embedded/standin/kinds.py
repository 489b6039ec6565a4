"""The names of the faults that the stand-in can inject, for the command's help, which does not load the server."""

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
"""Faults of any response: a connection that is reset, or closed after `Faults.timeout_seconds`; server errors;
truncated JSON; a ``Link`` header to an unreachable server; a body in two parts with a pause; a valid token that is
rejected once; secondary limits without and with ``retry-after``, and with their former message ("abuse detection");
rate-limit headers that are missing, or report an exhausted quota with an absurd reset time."""

GRAPHQL_KINDS = ("untyped error", "failed entries", "null edges", "null connection", "graphql 400")
"""Faults of GraphQL responses: an error without a type, and no data; errors in a connection whose entries, or whose
list, are null; a null connection with an error without a path; a status of 400."""

KINDS = REST_KINDS + GRAPHQL_KINDS
