"""The root's shares as files: one key each, for three people to carry to three places, with or without a passphrase.

Owns the form of a share's file. Each carries the public root statement that it was made with, so any two of them are enough to
found a cloud. How they are made together is ``keys.ceremony``'s, what the root may do ``keys.root``'s.

INV-SHA-1: a share in clear is its owner's alone (0600), or it is refused. INV-SHA-2: a share opens to the public key that
stands beside it, or it is refused. INV-SHA-3: nothing is ever written over a share.

Source: RFC 9106 (Argon2id), 4, for the passphrase; libsodium's XChaCha20-Poly1305 for what it closes.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from nacl import bindings
from nacl.exceptions import CryptoError

from enjin.canonical import canonical, from_text, parse, to_text
from enjin.errors import ConfigError, EnjinError, Invalid, Refused
from enjin.failpoints import failpoint
from enjin.host import FileFailed, random_bytes, read_bounded, sync_directory, write_atomic
from keys.frame import open_frame
from keys.root import RootStatement, read_root
from keys.signing import Signer

FILE_MAX: Final = 65_536
PASSPHRASE_CHARACTERS_MIN: Final = 8
OPERATIONS: Final = 3
MEMORY_BYTES: Final = 256 << 20
OPERATIONS_MAX: Final = 10
MEMORY_BYTES_MAX: Final = 1 << 30
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 24


class BadShare(ConfigError):
    """A root share's file is missing, damaged or open to others."""

    code = "E-SHA-001"
    exit_status = 1


class WrongPassphrase(Refused):
    """A root share's passphrase is missing, too short or wrong."""

    code = "E-SHA-002"


class TooFewShares(Refused):
    """The shares given are not enough different ones of one root."""

    code = "E-SHA-003"
    remedy = "give two different shares of one ceremony, each with --share"


class ShareThere(Refused):
    """A root share would be overwritten."""

    code = "E-SHA-004"
    remedy = "choose another directory with --to"


class RootOver(Refused):
    """The root statement that the shares carry is not in force."""

    code = "E-SHA-005"
    remedy = "set the clock right, or hold a new ceremony: `enjin genesis`"


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A seed closed with a passphrase: salt, nonce and box as text, and what Argon2id costs (memory in bytes)."""

    salt: str
    nonce: str
    box: str
    operations: int
    memory: int


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A share's file: number 1 to 3, public key (hex), the root statement's frame, and the seed in clear or under a lock."""

    v: int
    number: int
    public: str
    root: str
    seed: str = ""
    lock: Lock | None = None

    def __repr__(self) -> str:
        return f"Share({self.number}, {self.public[:16]})"


class OpenedRoot(NamedTuple):
    """A root statement, and a threshold of its keys in hand."""

    frame: bytes
    statement: RootStatement
    signers: tuple[Signer, ...]


Ask = Callable[[Share], bytes]
"""Returns the passphrase of a share."""


def file_name(number: int) -> str:
    """Return the name of share *number*'s file."""
    return f"share-{number}.key"


def make_share(number: int, seed: bytes, root: str, passphrase: bytes | None, memory: int = MEMORY_BYTES) -> Share:
    """Return share *number* with *seed*, closed with *passphrase* unless that is None. Raises: WrongPassphrase."""
    public = Signer.from_seed(seed).public.hex()
    bare = Share(v=1, number=number, public=public, root=root)
    if passphrase is None:
        return msgspec.structs.replace(bare, seed=to_text(seed))
    if len(passphrase) < PASSPHRASE_CHARACTERS_MIN:
        raise WrongPassphrase(f"a passphrase has at least {PASSPHRASE_CHARACTERS_MIN} characters")
    salt, nonce = random_bytes(SALT_BYTES), random_bytes(NONCE_BYTES)
    key = _stretched(passphrase, salt, OPERATIONS, memory)
    box = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(seed, canonical(bare), nonce, key)
    return msgspec.structs.replace(
        bare, lock=Lock(salt=to_text(salt), nonce=to_text(nonce), box=to_text(box), operations=OPERATIONS, memory=memory)
    )


def _stretched(passphrase: bytes, salt: bytes, operations: int, memory: int) -> bytes:
    return bindings.crypto_pwhash_alg(32, passphrase, salt, operations, memory, bindings.crypto_pwhash_ALG_ARGON2ID13)


def open_share(share: Share, ask: Ask) -> Signer:
    """Return the key in *share*.

    Raises:
        WrongPassphrase: It is closed, and what *ask* returns does not open it.
        BadShare: Damaged, its lock costs more than we pay, or its seed is another key's.
    """
    seed = from_text(share.seed) if share.lock is None else _unlock(share, share.lock, ask)
    signer = Signer.from_seed(seed)
    if signer.public.hex() != share.public:
        raise BadShare(f"share {share.number} holds another key than it says")
    return signer


def _unlock(share: Share, lock: Lock, ask: Ask) -> bytes:
    salt, nonce, box = from_text(lock.salt), from_text(lock.nonce), from_text(lock.box)
    if not 1 <= lock.operations <= OPERATIONS_MAX or not 8192 <= lock.memory <= MEMORY_BYTES_MAX:
        raise BadShare(f"the lock of share {share.number} asks for more work than any of ours")
    if (len(salt), len(nonce)) != (SALT_BYTES, NONCE_BYTES):
        raise BadShare(f"the lock of share {share.number} is damaged")
    bare = msgspec.structs.replace(share, lock=None)
    key = _stretched(ask(share), salt, lock.operations, lock.memory)
    try:
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(box, canonical(bare), nonce, key)
    except (CryptoError, ValueError) as error:
        raise WrongPassphrase(f"the passphrase does not open share {share.number}") from error


def read_share(path: Path) -> Share:
    """Return the share at *path*, still closed.

    Raises:
        BadShare: Missing, damaged, or in clear and open to other users.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BadShare(f"{path} is not a file")
        share = parse(read_bounded(path, FILE_MAX), Share)
        open_frame(from_text(share.root))
    except OSError as error:
        raise BadShare(f"cannot read root share {path}: {error.strerror}") from error
    except Invalid as error:
        raise BadShare(f"{path} is no root share: {error}") from error
    if share.v != 1 or bool(share.seed) == (share.lock is not None):
        raise BadShare(f"{path} is a root share of another form than ours")
    # A stick's file system may have no modes: what is closed with a passphrase may lie there, what is in clear may not.
    if share.lock is None and status.st_mode & 0o077:
        raise BadShare(
            f"root share {path} is in clear and open to other users (mode {status.st_mode & 0o777:04o})",
            hint="`chmod 600` it, or copy it to where that is possible; with a passphrase it may lie anywhere",
        )
    return share


def open_root(shares: Sequence[Share], ask: Ask, now: int) -> OpenedRoot:
    """Return the root statement of *shares*, and a threshold of its keys.

    Raises:
        TooFewShares: Of several ceremonies, not the statement's keys, or too few different ones.
        RootOver: The statement is not in force at *now* (microseconds).
        RootRefused, WrongPassphrase, BadShare.
    """
    if len({share.root for share in shares}) != 1:
        raise TooFewShares("the shares come from different ceremonies" if shares else "no root share was given")
    frame = from_text(shares[0].root)
    statement = read_root(open_frame(frame))
    unique = {share.public: share for share in shares}
    if not unique.keys() <= set(statement.keys):
        raise TooFewShares("the root statement does not name a share's key")
    if len(unique) < statement.threshold:
        raise TooFewShares(f"{len(unique)} of the {statement.threshold} different root shares needed were given")
    if not statement.issued <= now < statement.expiry:
        raise RootOver("the root statement of the shares is not in force now")
    signers = tuple(open_share(share, ask) for share in list(unique.values())[: statement.threshold])
    return OpenedRoot(frame, statement, signers)


def shares_in(directory: Path) -> list[Path]:
    """Return the shares' files in *directory*; none where we may not look."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(directory / name for name in names if name.startswith("share-") and name.endswith(".key"))


def write_shares(directories: Sequence[Path], shares: Sequence[Share]) -> list[Path]:
    """Write *shares* (0600) into the one directory, or each into its own, and return the paths.

    Raises:
        ShareThere: One of the files is there; nothing was written.
        FileFailed: The disk refused; what was written is removed again.
        BadShare: A place does not keep a share in clear from other users; the same.
    """
    places = list(directories) * len(shares) if len(directories) == 1 else list(directories)
    paths = [place / file_name(share.number) for place, share in zip(places, shares, strict=True)]
    for path in paths:
        if os.path.lexists(path):
            raise ShareThere(f"there is a root share at {path}")
    written: list[Path] = []
    try:
        for path, share in zip(paths, shares, strict=True):
            _make_directory(path.parent)
            write_atomic(path, canonical(share), 0o600)
            written.append(path)
            read_share(path)  # as it will be read: a stick's file system may not keep the mode
    except EnjinError:
        for path in written:
            path.unlink()
        raise
    return paths


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FileFailed(f"cannot make directory {path}: {error.strerror}") from error


def write_together(directory: Path, shares: Sequence[Share]) -> list[Path]:
    """Write *shares* into *directory*, which is missing or empty, so that a crash leaves all of them or none; return the paths.

    Raises:
        ShareThere: The directory holds something.
        FileFailed.
    """
    fresh = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    _make_directory(fresh)
    write_shares([fresh], shares)
    try:
        failpoint("shares.rename")
        os.rename(fresh, directory)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise ShareThere(f"cannot put the root shares into {directory}: {error.strerror}") from error
    sync_directory(directory.parent)
    return shares_in(directory)
