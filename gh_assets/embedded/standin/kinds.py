"""The faults that the stand-in can inject, by name: the command names them without loading a server."""

KINDS = ("reset", "timeout", "500", "502", "504", "truncated", "wrong link", "slow", "403", "403 retry-after")
"""What can be injected: a connection reset before an answer, or an answer that never comes (the connection is closed
after `Faults.timeout_seconds`); server errors; JSON that ends early; a ``Link`` header that leads nowhere; a body in
two parts with a pause; secondary limits without and with ``retry-after``."""
