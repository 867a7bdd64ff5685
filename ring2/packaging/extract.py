"""Unpack a source archive in two passes: judge everything, then write.

Owns the writing. Each file is created by us beneath an open directory, never by a path, never through a link and never over
something. Whoever runs this is unprivileged, in a jail; that is the second wall, not the first.

INV-PKG-5: a refused archive has written nothing; a failed write leaves nothing.
INV-PKG-6: both passes read through the same open descriptor.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from enjin.errors import Refused, StepFailed
from ring2.packaging.archive import DIRECTORY, FILE, HARD_LINK, LINK, NotAnArchive, read_members
from ring2.packaging.manifest import ENTRIES_MAX, TOTAL_BYTES_MAX, Entry, TooBig, check

ARCHIVE_BYTES_MAX: Final = TOTAL_BYTES_MAX + ENTRIES_MAX * 4 * 512 + (1 << 20)
_PIECE: Final = 1 << 20
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class WrongDigest(Refused):
    """The archive is not the one that was pushed."""

    code = "E-PKG-013"
    remedy = "push again"


class UnpackFailed(StepFailed):
    """The archive could not be written to disk."""

    code = "E-PKG-014"
    remedy = "see whether the disk is full"


def extract(
    archive: Path, tree: Path, *, digest: str = "", total_bytes_max: int = TOTAL_BYTES_MAX, entries_max: int = ENTRIES_MAX
) -> list[Entry]:
    """Unpack *archive* into the new directory *tree* and return what was written.

    Args:
        archive: A plain tar file.
        tree: Must not exist; its parent must.
        digest: SHA-256 in hex that the archive's bytes must have; empty means not checked.

    Raises:
        Refused: The archive breaks a rule (``archive``, ``manifest``); nothing was written.
        UnpackFailed: The disk refused; what had been written is removed.
    """
    try:
        source = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotAnArchive(f"cannot read the archive: {error.strerror}") from error
    try:
        if os.fstat(source).st_size > ARCHIVE_BYTES_MAX:
            raise TooBig(f"the archive has more than {ARCHIVE_BYTES_MAX:,} bytes")
        if digest and _digest(source) != digest:
            raise WrongDigest("the archive does not have the digest that was pushed")
        entries = check(read_members(source), total_bytes_max=total_bytes_max, entries_max=entries_max)
        _write_tree(source, tree, entries)
    finally:
        os.close(source)
    return entries


def _digest(source: int) -> str:
    hasher = hashlib.sha256()
    position = 0
    while piece := os.pread(source, _PIECE, position):
        hasher.update(piece)
        position += len(piece)
    return hasher.hexdigest()


def _write_tree(source: int, tree: Path, entries: list[Entry]) -> None:
    try:
        os.mkdir(tree, 0o755)
    except OSError as error:
        raise UnpackFailed(f"cannot make {tree.name}: {error.strerror}") from error
    try:
        root = os.open(tree, _OPEN_DIRECTORY)
        try:
            writer = _Writer(source, root)
            # Links come last, so that nothing is ever written while one is there to be followed.
            for entry in entries:
                if entry.kind in (DIRECTORY, FILE, HARD_LINK):
                    writer.write(entry)
            for entry in entries:
                if entry.kind == LINK:
                    writer.write(entry)
            writer.close()
        finally:
            os.close(root)
    except OSError as error:
        shutil.rmtree(tree, ignore_errors=True)
        raise UnpackFailed(f"cannot write the tree: {error.strerror}") from error
    except BaseException:
        shutil.rmtree(tree, ignore_errors=True)
        raise


class _Writer:
    """Writes entries beneath the directory *root*; keeps the last parent open, since neighbours follow each other."""

    def __init__(self, source: int, root: int) -> None:
        self._source = source
        self._root = root
        self._parent: tuple[tuple[str, ...], int] = ((), os.dup(root))

    def close(self) -> None:
        os.close(self._parent[1])

    def write(self, entry: Entry) -> None:
        if entry.kind == DIRECTORY:
            self._open_parent(entry.path)
            return
        parent, name = self._open_parent(entry.path[:-1]), entry.path[-1]
        if entry.kind == LINK:
            os.symlink(entry.target, name, dir_fd=parent)
        elif entry.kind == HARD_LINK:
            self._link(entry, parent)
        else:
            self._copy(entry, parent)

    def _open_parent(self, path: tuple[str, ...]) -> int:
        """Return a descriptor of the directory *path*, made where it is missing, no link followed on the way."""
        if self._parent[0] == path:
            return self._parent[1]
        descriptor = self._walk(path)
        os.close(self._parent[1])
        self._parent = (path, descriptor)
        return descriptor

    def _walk(self, path: tuple[str, ...]) -> int:
        descriptor = os.dup(self._root)
        try:
            for part in path:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=descriptor)
                inner = os.open(part, _OPEN_DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _copy(self, entry: Entry, parent: int) -> None:
        target = os.open(entry.path[-1], _CREATE, 0o600, dir_fd=parent)
        try:
            position, left = entry.offset, entry.size
            while left:
                count = os.sendfile(target, self._source, position, min(left, _PIECE))
                if count == 0:
                    raise NotAnArchive("the archive became shorter while it was read")
                position, left = position + count, left - count
            os.fchmod(target, 0o755 if entry.executable else 0o644)
        finally:
            os.close(target)

    def _link(self, entry: Entry, parent: int) -> None:
        source = self._walk(entry.source[:-1])
        try:
            os.link(entry.source[-1], entry.path[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)
