"""The ceremonies: a root made in three shares, at genesis and whenever all its keys are replaced.

Owns how new shares and the statement that names them come to be together. Where the files go is the caller's matter.

INV-CER-1: a new key leaves a ceremony only beside the statement that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from enjin.canonical import to_text
from enjin.host import random_bytes
from keys.frame import open_frame
from keys.root import SHARES, make_root
from keys.shares import MEMORY_BYTES, OpenedRoot, Share, make_share
from keys.signing import SEED_BYTES, Signer
from keys.succession import make_successor


def hold_ceremony(issued: int, expiry: int, passphrases: Sequence[bytes] = (), memory: int = MEMORY_BYTES) -> list[Share]:
    """Return three new shares and, in each, the first root statement, which two of them have signed.

    Args:
        issued: Microseconds of wall clock; so *expiry*.
        passphrases: None, or one per share.
        memory: What Argon2id takes, bytes.

    Raises:
        WrongPassphrase: One is too short.
    """
    return _new_shares(lambda signers: make_root(signers, issued, expiry), passphrases, memory)


def hold_succession(
    old: OpenedRoot, confirms: Iterable[str], issued: int, expiry: int, passphrases: Sequence[bytes] = (), memory: int = MEMORY_BYTES
) -> list[Share]:
    """Return three new shares and, in each, the statement that follows *old*, signed by a threshold of both.

    Args:
        old: The statement in force and a threshold of its keys.
        confirms: Hashes of what earlier roots signed and the new one goes on standing for.
        issued, expiry, passphrases, memory: As for ``hold_ceremony``.

    Raises:
        WrongPassphrase: One is too short.
    """

    def make(signers: list[Signer]) -> bytes:
        return make_successor(open_frame(old.frame), old.signers, signers, issued=issued, expiry=expiry, confirms=confirms)

    return _new_shares(make, passphrases, memory)


def _new_shares(make: Callable[[list[Signer]], bytes], passphrases: Sequence[bytes], memory: int) -> list[Share]:
    """Return as many new shares as a root has; *make* returns the statement that names and is signed by their keys."""
    seeds = [random_bytes(SEED_BYTES) for _ in range(SHARES)]
    root = to_text(make([Signer.from_seed(seed) for seed in seeds]))
    words: list[bytes | None] = [*passphrases] if passphrases else [None] * SHARES
    return [make_share(number, seed, root, word, memory) for number, (seed, word) in enumerate(zip(seeds, words, strict=True), 1)]
