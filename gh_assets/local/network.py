"""Proxies and certificate authorities, configured identically for all libraries.

`requests` (Google's client, GitHub, webhooks, OAuth) reads certificate authorities from ``REQUESTS_CA_BUNDLE``; OpenSSL
(MongoDB) and pyarrow read them from ``SSL_CERT_FILE``. Setting either variable is enough. Proxies come from
``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``; servers on this machine are always reached directly.
"""

import os
from pathlib import Path

from gh_assets.errors import ConfigurationError

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")

LOOPBACK = ("127.0.0.1", "localhost", "::1")

UNTRUSTED_HELP = (
    "If a proxy decrypts TLS traffic on this network, set REQUESTS_CA_BUNDLE to the file with its certificate "
    "authority; otherwise do not trust the connection."
)
"""Advice for a certificate that is not signed by a known authority."""


def is_untrusted(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, is an untrusted certificate, which no retry can change."""
    from requests.exceptions import SSLError  # a tenth of a second, which no command needs for its help

    while error is not None:
        if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def prepare_network() -> None:
    """Give all libraries of this process the same settings; call it before they are imported.

    Raises
    ------
    ConfigurationError
        If a variable names a file of certificate authorities that does not exist.
    """
    named = next((name for name in CA_VARIABLES if os.environ.get(name)), None)
    if named is not None:
        bundle = Path(os.environ[named])
        if not bundle.exists():
            raise ConfigurationError(f"{named} names {bundle}, which does not exist: correct it, or unset it.")
        for name in CA_VARIABLES[:2] if bundle.is_file() else ():
            os.environ.setdefault(name, str(bundle))
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        if "*" not in hosts:
            os.environ[name] = ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])
