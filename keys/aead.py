"""AES-256-GCM, from libsodium where the processor has the instructions for it, else from ``cryptography`` where that is installed.

Owns the choice, and nothing of what is encrypted. libsodium has no slow form of this cipher on purpose: one in plain software would tell
its key by its timing. OpenSSL, behind ``cryptography``, has one that does not.

INV-AEA-1: both give and take the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from nacl import bindings
from nacl.exceptions import CryptoError, UnavailableError

from enjin.errors import ConfigError, Refused
from keys.sealed import KEY_BYTES, NONCE_BYTES


class NoCipher(ConfigError):
    """Neither this processor nor a library here has AES-256-GCM."""

    code = "E-SEA-002"
    remedy = "install the Python library cryptography: `./bootstrap setup --nats` does"


class NotAuthentic(Refused):
    """A ciphertext is not what was encrypted with this key, nonce and associated data."""

    code = "E-SEA-003"


class Cipher(NamedTuple):
    """Encryption and decryption: (key, nonce, data, associated data) -> bytes; the ciphertext ends with its tag."""

    encrypt: Callable[[bytes, bytes, bytes, bytes], bytes]
    decrypt: Callable[[bytes, bytes, bytes, bytes], bytes]


def from_libsodium() -> Cipher:
    """Return libsodium's. Raises: UnavailableError where the processor lacks the instructions."""

    def encrypt(key: bytes, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        return bindings.crypto_aead_aes256gcm_encrypt(data, associated, nonce, key)

    def decrypt(key: bytes, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        try:
            return bindings.crypto_aead_aes256gcm_decrypt(data, associated, nonce, key)
        except (CryptoError, ValueError, TypeError) as error:
            raise NotAuthentic("the ciphertext is damaged, or for another key or place") from error

    encrypt(bytes(KEY_BYTES), bytes(NONCE_BYTES), b"", b"")
    return Cipher(encrypt, decrypt)


def from_openssl() -> Cipher:
    """Return OpenSSL's. Raises: ImportError where ``cryptography`` is not installed."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    def encrypt(key: bytes, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        return AESGCM(key).encrypt(nonce, data, associated)

    def decrypt(key: bytes, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        try:
            return AESGCM(key).decrypt(nonce, data, associated)
        except (InvalidTag, ValueError, TypeError) as error:
            raise NotAuthentic("the ciphertext is damaged, or for another key or place") from error

    return Cipher(encrypt, decrypt)


@cache
def cipher() -> Cipher:
    """Return the cipher of this machine. Raises: NoCipher."""
    try:
        return from_libsodium()
    except UnavailableError:
        pass
    try:
        return from_openssl()
    except ImportError as error:
        raise NoCipher("this processor has no instructions for AES, and the library that could do without is not installed") from error
