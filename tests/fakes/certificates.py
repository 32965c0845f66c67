"""A throw-away certificate authority, and what it and another one have signed.

    made = certificates(tmp_path)
    made.ca, made.good, made.elsewhere, made.expired, made.stranger

Keys are elliptic: made in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class KeyPair:
    """Two PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """What a test needs of them. All but `stranger` are signed by `ca`."""

    ca: Path
    good: KeyPair
    """For localhost and 127.0.0.1."""
    elsewhere: KeyPair
    """For another host name."""
    expired: KeyPair
    client: KeyPair
    stranger: KeyPair
    """Signed by somebody else."""


class _Authority:
    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.certificate = (
            _builder(self._name, self._name, self._key.public_key(), age=_DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(is_ca=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def sign(
        self, folder: Path, name: str, *hosts: str, age: timedelta = _DAY, client: bool = False
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        both = [purpose, ExtendedKeyUsageOID.CLIENT_AUTH]
        signed = (
            _builder(_named(name), self._name, key.public_key(), age=age)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_ca=False), critical=True)
            .add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pair = KeyPair(folder / f"{name}.pem", folder / f"{name}.key")
        pair.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return pair


def certificates(folder: Path) -> Certificates:
    """TurnFiles afresh, in `folder`."""
    ours, other = _Authority("ca"), _Authority("other")
    ca = folder / "ca.pem"
    ca.write_bytes(ours.certificate.public_bytes(serialization.Encoding.PEM))
    here = ("localhost", "127.0.0.1")
    return Certificates(
        ca=ca,
        good=ours.sign(folder, "good", *here),
        elsewhere=ours.sign(folder, "elsewhere", "redis.example"),
        expired=ours.sign(folder, "expired", *here, age=3 * _DAY),
        client=ours.sign(folder, "client", "agcluster", client=True),
        stranger=other.sign(folder, "stranger", *here),
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _names(hosts: tuple[str, ...]) -> list[x509.GeneralName]:
    return [
        x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        for host in hosts
    ]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, age: timedelta
) -> x509.CertificateBuilder:
    """Valid for two days from its making."""
    made = datetime.now(UTC) - age
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(made)
        .not_valid_after(made + 2 * _DAY)
    )


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
