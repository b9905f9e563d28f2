"""Certificates of a cluster with dates of our own, by the authority that `cluster init` made."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization


def day_of(certificate: Path) -> str:
    """The last day of a PEM certificate, `YYYY-MM-DD`."""
    held = x509.load_pem_x509_certificate(certificate.read_bytes())
    return held.not_valid_after_utc.strftime("%Y-%m-%d")


def seconds_of(certificate: Path) -> float:
    """When a PEM certificate ends, seconds since 1970."""
    held = x509.load_pem_x509_certificate(certificate.read_bytes())
    return held.not_valid_after_utc.timestamp()


def ends_in(authority: Path, member: Path, days: float) -> None:
    """Replaces the certificate in the directory `member` by one that holds for `days` from now
    and is otherwise the same. `authority`: the directory with ca.pem and its key."""
    issuer = x509.load_pem_x509_certificate((authority / "ca.pem").read_bytes())
    key = serialization.load_pem_private_key((authority / "key.pem").read_bytes(), None)
    path = member / "cert.pem"
    old = x509.load_pem_x509_certificate(path.read_bytes())
    now = datetime.datetime.now(datetime.timezone.utc)
    until = now + datetime.timedelta(days=days)
    made = x509.CertificateBuilder(
        issuer_name=issuer.subject,
        subject_name=old.subject,
        public_key=old.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=min(now, until) - datetime.timedelta(days=1),
        not_valid_after=until,
    )
    for extension in old.extensions:
        made = made.add_extension(extension.value, extension.critical)
    signed = made.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
