"""Blobs by digest: uploads streamed to disk, their SHA-256 checked, each account within its quota.

Owns a directory: ``<digest>`` per blob, ``.part-*`` while one is coming, and ``accounts/<hash>/<digest>``, a hard link
per account that put it, by which its use is counted. What a blob is for is not known here.

INV-BLOB-1: a file named by a digest has that digest, and was whole and on disk before it got its name.
INV-BLOB-2: no path is made from anything but a digest that was parsed, and a hash of ours.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Final, NamedTuple

from bus.http.problems import BadRequest, BodyTooLarge, DigestMismatch, QuotaExceeded
from bus.messages import Command
from enjin.errors import StepFailed
from enjin.failpoints import failpoint
from enjin.host import clock, random_bytes, sync_directory
from enjin.names import Digest

BLOB_MAX_BYTES: Final = 1 << 30
QUOTA_BYTES: Final = 8 << 30
CHUNK_DEADLINE_S: Final = 30.0
UPLOADS_MAX: Final = 16


class PutBlob(Command, kind="blob.put"):
    """Upload the bytes that have this SHA-256."""

    digest: Digest


class BlobFailed(StepFailed):
    """The blob could not be stored."""

    code = "E-API-020"


class Stored(NamedTuple):
    """A blob that is there: its digest, its size, and whether it was there before."""

    digest: str
    size: int
    known: bool


class _Upload:
    """One upload under way: its file, whose it is, how many bytes it may count, how many came."""

    __slots__ = ("account", "part", "room", "size")

    def __init__(self, part: Path, account: str, room: int) -> None:
        self.part, self.account, self.room, self.size = part, account, room, 0


class BlobStore:
    """The blobs below one directory.

    Args:
        root: The directory; made when it is missing.
        blob_max: Bytes that one blob may have.
        quota: Bytes that one account's blobs may have together.
    """

    def __init__(self, root: Path, blob_max: int = BLOB_MAX_BYTES, quota: int = QUOTA_BYTES) -> None:
        self._root = root
        self._blob_max = blob_max
        self._quota = quota
        self._coming: collections.Counter[str] = collections.Counter()
        self._uploads = asyncio.Semaphore(UPLOADS_MAX)
        (root / "accounts").mkdir(parents=True, exist_ok=True)
        for left in root.glob(".part-*"):
            left.unlink()

    def path(self, digest: Digest) -> Path:
        """Return where the blob with *digest* lies or would lie."""
        return self._root / str(digest)

    def used(self, account: str) -> int:
        """Return how many bytes *account* has put."""
        try:
            return sum(entry.stat().st_size for entry in os.scandir(self._shelf(account)))
        except FileNotFoundError:
            return 0

    async def put(self, digest: Digest, account: str, chunks: AsyncIterator[bytes], declared: int | None) -> Stored:
        """Store what *chunks* yield under *digest* for *account*.

        Args:
            digest: SHA-256 of the whole.
            account: Whose quota it counts against.
            chunks: The bytes, in any cut.
            declared: Their number, when the sender said it.

        Raises:
            BodyTooLarge, QuotaExceeded, DigestMismatch, BadRequest (too slow, or ended early), BlobFailed. Nothing is
            left of an upload that failed.
        """
        mine = self._shelf(account) / str(digest)
        room = self._blob_max if mine.exists() else self._quota - self.used(account)
        upload = _Upload(self._root / f".part-{random_bytes(8).hex()}", account, room)
        self._check(upload, declared or 0)
        async with self._uploads:
            try:
                await self._receive(upload, digest, chunks)
                known = await asyncio.to_thread(self._keep, upload.part, digest, mine)
            except OSError as error:
                raise BlobFailed(f"cannot store the blob: {error.strerror}") from error
            finally:
                self._coming[account] -= upload.size
                with contextlib.suppress(FileNotFoundError):
                    upload.part.unlink()
        return Stored(str(digest), upload.size, known)

    def holds(self, digest: str, account: str) -> bool:
        """Whether *account* itself has put the blob with *digest*: knowing a digest is not having the bytes."""
        return (self._shelf(account) / digest).exists()

    def prune(self, kept: Collection[str], minimum_age_s: int) -> int:
        """Remove every blob that is not in *kept* and older than *minimum_age_s*, give its room back, and return how many went.

        What is young stays: its account may be about to name it.
        """
        before = clock().wall_us // 1_000_000 - minimum_age_s
        gone = 0
        for entry in list(os.scandir(self._root)):
            if entry.name in kept or len(entry.name) != 64 or not entry.is_file(follow_symlinks=False) or entry.stat().st_mtime > before:
                continue
            for mine in (self._root / "accounts").glob(f"*/{entry.name}"):
                mine.unlink(missing_ok=True)
            os.unlink(entry.path)
            gone += 1
        return gone

    def _check(self, upload: _Upload, more: int) -> None:
        """Check that *more* bytes still fit, with whatever else the account is uploading now."""
        if upload.size + more > self._blob_max:
            raise BodyTooLarge(f"a blob has at most {self._blob_max} bytes")
        if self._coming[upload.account] + more > upload.room:
            raise QuotaExceeded(f"the blob would pass the account's quota of {self._quota} bytes")

    async def _receive(self, upload: _Upload, digest: Digest, chunks: AsyncIterator[bytes]) -> None:
        hashed = hashlib.sha256()
        with await asyncio.to_thread(open, upload.part, "xb", 0) as file:
            while True:
                try:
                    async with asyncio.timeout(CHUNK_DEADLINE_S):
                        chunk = await anext(chunks)
                except StopAsyncIteration:
                    break
                except TimeoutError as error:
                    raise BadRequest(f"no more bytes came for {CHUNK_DEADLINE_S:g} s") from error
                self._check(upload, len(chunk))
                upload.size += len(chunk)
                self._coming[upload.account] += len(chunk)
                hashed.update(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
            if hashed.hexdigest() != digest:
                raise DigestMismatch(f"the {upload.size} bytes have another digest than {digest[:16]}…")
            failpoint("blob.sync")
            await asyncio.to_thread(os.fsync, file.fileno())

    def _keep(self, part: Path, digest: Digest, mine: Path) -> bool:
        target = self.path(digest)
        known = target.exists()
        if not known:
            os.chmod(part, 0o444)
            failpoint("blob.rename")
            os.rename(part, target)
            sync_directory(self._root)
        mine.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            failpoint("blob.link")
            os.link(target, mine)
        return known

    def _shelf(self, account: str) -> Path:
        return self._root / "accounts" / hashlib.sha256(account.encode()).hexdigest()[:32]
