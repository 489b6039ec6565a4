"""The self-signed certificate by which the embedded MongoDB and its clients authenticate each other.

Each home has its own. Access to the files of the home is access to the server; there are no users or passwords.
"""

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gh_assets.local.locks import create_once


def home_certificate(home: Path) -> tuple[Path, Path]:
    """Return the files of a home's certificate with its key and of the certificate alone, created if needed."""
    pair, alone = home / "run" / "home.pem", home / "run" / "home-certificate.pem"
    if not (pair.exists() and alone.exists()):
        whole = create_once(pair, _certificate_with_key())
        create_once(alone, x509.load_pem_x509_certificate(whole).public_bytes(Encoding.PEM))
    return pair, alone


def _certificate_with_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gh_assets home")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Valid for as long as the home exists, whatever the clock of this machine.
        .not_valid_before(dt.datetime(1970, 1, 2, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(9999, 12, 31, tzinfo=dt.UTC))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)
