"""Certificates of the bus: one authority per cloud, made from its issuer's seed, and a leaf for each server.

Owns X.509 for TLS between members of one cloud. Nothing public is trusted: a client pins this authority and no other.
The authority's certificate is the same bytes whenever it is made: its key, serial and signature follow from the seed.

INV-CER-1: an authority signs leaves of this cloud's bus only; a leaf signs nothing.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from collections.abc import Iterable
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BUS_NAME: Final = "bus.enjin.internal"
BACKDATED_S: Final = 86_400  # wall clocks may be off
_BEGIN: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_FOREVER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)  # RFC 5280 4.1.2.5: no expiry


class Leaf(NamedTuple):
    """A server's certificate and its private key, PEM."""

    certificate: bytes
    key: bytes


class CertificateAuthority:
    """The authority of one cloud's bus.

    Args:
        seed: The issuer's subkey for this purpose, 32 bytes.
        cloud: The cloud's id: it stands in the authority's name.
    """

    def __init__(self, seed: bytes, cloud: str) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._name = _named(f"enjin {cloud[:12]}")
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = self._builder(self._name, self._key, _BEGIN, _FOREVER)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs=True), critical=True)
        self.certificate: bytes = builder.sign(self._key, None).public_bytes(serialization.Encoding.PEM)

    def leaf(self, seed: bytes, addresses: Iterable[str], *, now_s: int, lifetime_s: int) -> Leaf:
        """Return a certificate for the server whose key is made from *seed*, reached at *addresses* (IP addresses).

        Args:
            seed: The server's own subkey, 32 bytes.
            addresses: What other servers of the cluster connect to.
            now_s: Unix time; it holds from a day before.
            lifetime_s: For how long it holds from then on.
        """
        key = Ed25519PrivateKey.from_private_bytes(seed)
        now = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
        begin, end = now - datetime.timedelta(seconds=BACKDATED_S), now + datetime.timedelta(seconds=lifetime_s)
        alternatives: list[x509.GeneralName] = [x509.DNSName(BUS_NAME)]
        alternatives += [x509.IPAddress(ipaddress.ip_address(one)) for one in sorted(set(addresses))]
        builder = self._builder(_named(BUS_NAME), key, begin, end)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=False), critical=True)
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]  # servers of a cluster call each other
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return Leaf(
            builder.sign(self._key, None).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )

    def _builder(
        self, name: x509.Name, key: Ed25519PrivateKey, begin: datetime.datetime, end: datetime.datetime
    ) -> x509.CertificateBuilder:
        public = key.public_key()
        raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        serial = hashlib.sha256(raw + int(begin.timestamp()).to_bytes(8, "big")).digest()[:19]  # at most 20 octets, positive
        identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(int.from_bytes(serial, "big") | 1)
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(identifier, critical=False)
        )


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )  # fmt: skip
