"""Blobs by digest, and the list of sealed releases.

Owns HOME/blobs of a ring 1 node: what arrives is hashed on its way, and is there under its digest or not at all. Also decides
which release trees may go. Does not unpack (ring 2), seal or remove trees (hands does, as root) and knows no app.

INV-BLB-1: a file named by a digest has that digest, on disk, whenever it can be seen.
INV-BLB-2: refused, cut off or killed: nothing stays but a temporary file, which the next start removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from enjin import host
from enjin.errors import Invalid, NotFound, Refused, StepFailed
from enjin.names import Digest

BLOB_BYTES_MAX: Final = (1 << 30) + (256 << 20)
"""The largest tree (1 GiB) with the headers of 100,000 entries."""
QUOTA_BYTES: Final = 8 << 30
RELEASES_KEPT: Final = 10
_PIECE: Final = 1 << 20
_INCOMING: Final = "incoming"


class WrongDigest(Invalid):
    """The bytes do not have the digest they were sent under."""

    code = "E-PKG-060"
    remedy = "send them again"


class BlobTooLarge(Refused):
    """The bytes are more than a blob may have."""

    code = "E-PKG-061"
    http_status = 413


class QuotaExceeded(Refused):
    """There is no room for more blobs."""

    code = "E-PKG-062"
    http_status = 507
    remedy = "destroy apps that are not needed, or raise the quota"


class NoSuchBlob(NotFound):
    """There is no blob with this digest."""

    code = "E-PKG-063"
    remedy = "push it again"


class BlobFailed(StepFailed):
    """The disk did not take a blob."""

    code = "E-PKG-064"


class BlobStore:
    """Immutable files named by the SHA-256 of their contents."""

    def __init__(self, root: Path, *, quota_bytes: int = QUOTA_BYTES, blob_bytes_max: int = BLOB_BYTES_MAX) -> None:
        self.root = root
        self._quota = quota_bytes
        self._blob_max = blob_bytes_max
        self._arriving = 0
        (root / _INCOMING).mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in (root / _INCOMING).iterdir():
            left.unlink()
        self._used = sum(path.stat().st_size for path in self._files())

    @property
    def used_bytes(self) -> int:
        """Bytes of all blobs, those that are arriving included."""
        return self._used + self._arriving

    def path(self, digest: Digest) -> Path:
        """Return the file of the blob *digest*.

        Raises:
            NoSuchBlob: There is none.
        """
        path = self.root / Digest.parse(digest)
        if not path.is_file():
            raise NoSuchBlob(f"there is no blob {digest[:12]}")
        return path

    def has(self, digest: Digest) -> bool:
        """Return whether the blob is there."""
        return (self.root / Digest.parse(digest)).is_file()

    def digests(self) -> list[Digest]:
        """Return the digests of all blobs, sorted."""
        return sorted(Digest(path.name) for path in self._files())

    def receive(self, digest: Digest, announced: int | None = None) -> Incoming:
        """Begin to take in the blob *digest*; write to what is returned, then commit it.

        Raises:
            BlobTooLarge, QuotaExceeded: *announced* bytes are too many already.
        """
        self.check_room(announced or 0)
        return Incoming(self, Digest.parse(digest))

    async def put(self, digest: Digest, pieces: AsyncIterator[bytes], announced: int | None = None) -> int:
        """Take in a whole blob from *pieces* and return its bytes.

        Raises:
            WrongDigest, BlobTooLarge, QuotaExceeded, BlobFailed: Nothing of it stays.
        """
        with self.receive(digest, announced) as incoming:
            async for piece in pieces:
                incoming.write(piece)
            return await asyncio.to_thread(incoming.commit)  # fsync of a large file takes seconds

    def remove(self, digest: Digest) -> bool:
        """Remove a blob; False when it was not there."""
        path = self.root / Digest.parse(digest)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return False
        self._used -= size
        return True

    def prune(self, kept: Iterable[Digest], minimum_age_s: int, now_s: int) -> list[Digest]:
        """Remove blobs that nobody names and that are old enough not to belong to a push under way; return them."""
        keep = set(kept)
        gone = []
        for digest in self.digests():
            with contextlib.suppress(FileNotFoundError):
                if digest not in keep and now_s - (self.root / digest).stat().st_mtime >= minimum_age_s and self.remove(digest):
                    gone.append(digest)
        return gone

    def check_room(self, more: int) -> None:
        """Raise unless a blob may have *more* bytes and they fit beside all others."""
        if more > self._blob_max:
            raise BlobTooLarge(f"a blob has at most {self._blob_max:,} bytes")
        if self.used_bytes + more > self._quota:
            raise QuotaExceeded(f"the blobs would pass their quota of {self._quota:,} bytes")

    def _files(self) -> Iterator[Path]:
        return (path for path in self.root.iterdir() if re.fullmatch(r"[0-9a-f]{64}", path.name))


class Incoming:
    """One blob on its way in: a context manager that leaves nothing unless committed."""

    def __init__(self, store: BlobStore, digest: Digest) -> None:
        self._store = store
        self._digest = digest
        self._hash = hashlib.sha256()
        self._size = 0
        self._path = store.root / _INCOMING / f"{digest[:16]}.{host.random_bytes(8).hex()}"
        self._file = open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", buffering=_PIECE)  # noqa: SIM115

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self._store._arriving -= self._size
        self._size = 0
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def write(self, piece: bytes) -> None:
        """Add *piece*.

        Raises:
            BlobTooLarge, QuotaExceeded, BlobFailed: See the classes.
        """
        if self._size + len(piece) > self._store._blob_max:
            raise BlobTooLarge(f"a blob has at most {self._store._blob_max:,} bytes")
        self._store.check_room(len(piece))
        self._hash.update(piece)
        try:
            self._file.write(piece)
        except OSError as error:
            raise BlobFailed(f"cannot write a blob: {error.strerror}") from error
        self._size += len(piece)
        self._store._arriving += len(piece)

    def commit(self) -> int:
        """Make the blob visible under its digest and return its bytes.

        Raises:
            WrongDigest: What arrived has another digest.
            BlobFailed: The disk refused.
        """
        if self._hash.hexdigest() != self._digest:
            raise WrongDigest(f"the bytes do not have the digest {self._digest[:12]}…, but {self._hash.hexdigest()[:12]}…")
        target = self._store.root / self._digest
        size = self._size
        try:
            self._file.flush()
            os.fchmod(self._file.fileno(), 0o444)
            os.fsync(self._file.fileno())
            self._file.close()
            known = target.exists()
            os.replace(self._path, target)
            host.sync_directory(self._store.root)
        except OSError as error:
            raise BlobFailed(f"cannot keep a blob: {error.strerror}") from error
        self._store._used += 0 if known else size
        return size


class Tree(msgspec.Struct, frozen=True):
    """A sealed release on disk: its digest and when it was made (seconds since 1970)."""

    digest: str
    made_s: int


def list_trees(root: Path) -> list[Tree]:
    """Return the sealed trees in *root*, newest first; what is not named by a digest is not ours to see."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(root):
            if re.fullmatch(r"[0-9a-f]{64}", entry.name) and entry.is_dir(follow_symlinks=False):
                found.append(Tree(entry.name, int(entry.stat(follow_symlinks=False).st_mtime)))
    return sorted(found, key=lambda tree: (-tree.made_s, tree.digest))


Releases = Mapping[str, Sequence[tuple[int, str]]]


def releases_to_drop(releases: Releases, live: Iterable[str], kept: int = RELEASES_KEPT) -> dict[str, list[int]]:
    """Return which releases of each app are too old to keep: all but the newest *kept*, and never a live one.

    Args:
        releases: App -> (number, digest) of each release.
        live: Digests that run, or are being started.
    """
    living = set(live)
    dropped = {}
    for app, all_of_it in releases.items():
        old = sorted(all_of_it, reverse=True)[kept:]
        numbers = sorted(number for number, digest in old if digest not in living)
        if numbers:
            dropped[app] = numbers
    return dropped


def trees_to_remove(trees: Iterable[Tree], releases: Releases, live: Iterable[str]) -> list[str]:
    """Return the digests of *trees* that no kept release of any app names: two apps may share one."""
    named = {digest for all_of_it in releases.values() for _, digest in all_of_it} | set(live)
    return sorted(tree.digest for tree in trees if tree.digest not in named)
