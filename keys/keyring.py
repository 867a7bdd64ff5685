"""Seeds on disk, and the subkeys that are made from them: one per purpose.

A node has one seed of 32 bytes; each purpose's key is keyed BLAKE2b of a label, so that a key never serves two
purposes. The key that signs grants has a seed of its own. An Ed25519 key is never converted to X25519.

INV-KEY-1: a seed file is 0600 and owned by its reader, or it is refused.
"""

from __future__ import annotations

import enum
import hashlib
import os
from pathlib import Path
from typing import Final

from nacl import bindings

from enjin.errors import ConfigError, invariant
from enjin.failpoints import failpoint
from enjin.host import random_bytes, sync_directory, write_atomic
from enjin.names import CloudId
from keys.nats_keys import NatsAuthority, UserKey
from keys.signing import SEED_BYTES, Signer


class BadKeyFile(ConfigError):
    """A key file is missing, unreadable, of the wrong size or open to others."""

    code = "E-KEY-101"
    remedy = "restore the file from your copy and `chmod 600` it"


class Purpose(enum.StrEnum):
    """What a key is for; a key is for one thing."""

    MESSAGE = "message"
    JOURNAL = "journal"
    ISSUE = "issue"
    CURVE = "curve"
    HUB = "hub"
    NATS = "nats"
    NATS_AUTHORITY = "nats-authority"
    TLS = "tls"
    TLS_AUTHORITY = "tls-authority"


NODE_SEED: Final = "node.seed"
ISSUER_SEED: Final = "issuer.seed"
GENERATIONS_MAX: Final = 1_000


def create_seed(path: Path, owner: int | None = None) -> bytes:
    """Make a fresh seed at *path* (0600) unless one is there, and return it."""
    if not path.exists():
        write_atomic(path, random_bytes(SEED_BYTES), 0o600, owner)
    return load_seed(path)


def load_seed(path: Path) -> bytes:
    """Return the seed at *path*.

    Raises:
        BadKeyFile: Missing, not 32 bytes, or readable by others.
    """
    try:
        status = os.stat(path)
        data = path.read_bytes()
    except OSError as error:
        raise BadKeyFile(f"cannot read key file {path}: {error.strerror}") from error
    if status.st_mode & 0o077:
        raise BadKeyFile(f"key file {path} is open to other users (mode {status.st_mode & 0o777:04o})")
    if len(data) != SEED_BYTES:
        raise BadKeyFile(f"key file {path} holds {len(data)} bytes, not {SEED_BYTES}")
    return data


def destroy_seed(path: Path) -> None:
    """Overwrite the seed at *path* and remove it, on disk when it returns; harmless when it is gone.

    What a disk keeps of overwritten blocks is beyond us: put the state directory on encrypted storage where that matters.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.pwrite(descriptor, bytes(SEED_BYTES), 0)
        failpoint("seed.destroy.sync")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    sync_directory(path.parent)


def subkey(seed: bytes, cloud: CloudId | str, purpose: Purpose, generation: int = 1) -> bytes:
    """Return the 32-byte secret of *purpose*: keyed BLAKE2b over cloud, purpose and generation."""
    invariant(len(seed) == SEED_BYTES, "a seed has 32 bytes")
    label = f"enjin/v1/{cloud}/{purpose}/{generation}".encode()
    return hashlib.blake2b(label, key=seed, digest_size=32, person=b"enjin-subkey").digest()


class KeyPair:
    """An X25519 pair (CURVE on the bus, or sealing): raw 32-byte halves."""

    __slots__ = ("public", "secret")

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.public: bytes = bindings.crypto_scalarmult_base(secret)


class Keyring:
    """The keys of one identity, made from its seed (and its issuer's seed where it may sign grants)."""

    def __init__(self, cloud: CloudId | str, seed: bytes, issuer_seed: bytes | None = None, generation: int = 1) -> None:
        self.cloud = str(cloud)
        self.message_seed = subkey(seed, cloud, Purpose.MESSAGE, generation)
        self.message = Signer.from_seed(self.message_seed)
        self.journal = Signer.from_seed(subkey(seed, cloud, Purpose.JOURNAL, generation))
        self.curve = KeyPair(subkey(seed, cloud, Purpose.CURVE, generation))
        self.hub = KeyPair(subkey(seed, cloud, Purpose.HUB, generation))
        self.nats = UserKey(subkey(seed, cloud, Purpose.NATS, generation))
        self.tls_seed = subkey(seed, cloud, Purpose.TLS, generation)
        self.issuer = None if issuer_seed is None else Signer.from_seed(subkey(issuer_seed, cloud, Purpose.ISSUE, generation))
        self._seed, self._issuer_seed = seed, issuer_seed

    def message_of(self, generation: int) -> Signer:
        """Return the key for messages of *generation*, 1 or more: a replaced one is followed by the next."""
        return Signer.from_seed(subkey(self._seed, self.cloud, Purpose.MESSAGE, generation))

    def generation(self, public: str) -> int:
        """Return of which generation the key for messages with public half *public* (hex) is. Raises: BadKeyFile: it is none of ours."""
        for generation in range(1, GENERATIONS_MAX):
            if self.message_of(generation).public.hex() == public:
                return generation
        raise BadKeyFile("a grant of ours names a key that does not come from our seed")

    def nats_authority(self) -> NatsAuthority:
        """Return the keys with which tokens of the NATS bus are minted; only an issuer has them."""
        return NatsAuthority(self._authority_seed(Purpose.NATS_AUTHORITY))

    def tls_authority_seed(self) -> bytes:
        """Return the seed of the bus's certificate authority (``keys.certificates``); only an issuer has it."""
        return self._authority_seed(Purpose.TLS_AUTHORITY)

    def _authority_seed(self, purpose: Purpose) -> bytes:
        invariant(self._issuer_seed is not None, "only an issuer mints tokens and certificates")
        return subkey(self._issuer_seed or b"", self.cloud, purpose)

    @classmethod
    def load(cls, directory: Path, cloud: CloudId | str) -> Keyring:
        """Return the keyring of the seeds in *directory*. Raises: BadKeyFile."""
        issuer = directory / ISSUER_SEED
        return cls(cloud, load_seed(directory / NODE_SEED), load_seed(issuer) if issuer.exists() else None)

    @classmethod
    def create(cls, directory: Path, cloud: CloudId | str, *, issuer: bool, owner: int | None = None) -> Keyring:
        """Make the seeds that *directory* lacks, and return the keyring."""
        create_seed(directory / NODE_SEED, owner)
        if issuer:
            create_seed(directory / ISSUER_SEED, owner)
        return cls.load(directory, cloud)
