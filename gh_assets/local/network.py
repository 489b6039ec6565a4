"""Other people's networks: proxies and certificate authorities, for all libraries alike.

`requests` (Google's client, GitHub, webhooks, OAuth) takes authorities from ``REQUESTS_CA_BUNDLE``, OpenSSL (MongoDB)
and pyarrow from ``SSL_CERT_FILE``: whichever is set counts for both. Proxies are those of ``HTTPS_PROXY``,
``HTTP_PROXY`` and ``NO_PROXY``; the servers of this machine are never asked by way of one.
"""

from __future__ import annotations

import os
from pathlib import Path

from requests.exceptions import SSLError

from gh_assets.errors import ConfigurationError

AUTHORITIES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")

LOOPBACK = ("127.0.0.1", "localhost", "::1")


UNTRUSTED_HELP = (
    "If a proxy opens TLS here, name the file with its authority in REQUESTS_CA_BUNDLE; if none does, trust nobody."
)
"""What to do about a certificate that no known authority has signed."""


def is_untrusted(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is about a certificate: to try again would change nothing."""
    while error is not None:
        if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def prepare_network() -> None:
    """Let all libraries of this process see the same settings; before one of them is loaded.

    Raises
    ------
    ConfigurationError
        If a variable names a file of authorities that cannot be read.
    """
    named = next((name for name in AUTHORITIES if os.environ.get(name)), None)
    if named is not None:
        bundle = Path(os.environ[named])
        if not bundle.exists():
            raise ConfigurationError(f"{named} names {bundle}, which does not exist: correct it, or unset it.")
        for name in AUTHORITIES[:2] if bundle.is_file() else ():
            os.environ.setdefault(name, str(bundle))
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        if "*" not in hosts:
            os.environ[name] = ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])
