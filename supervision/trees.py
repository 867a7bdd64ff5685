"""Trees of files that can never change again: a build's result becomes a release under its digest.

Owns the digest (format below), the two refusals (what a release may not hold, and how much) and the order that makes a crash harmless:
digest and read-only first, one rename last. Runs in a child of hands, since a tree can be large. Follows no symbolic link and opens every
name below a directory handle.

Digest: SHA-256 over one line per entry, in byte order of the paths: `d PATH`, `f MODE SIZE SHA256 PATH` (MODE is `x` or `-`),
`l TARGET PATH`, each with a zero byte between fields and a newline at the end.

INV-TRE-1: a tree under `releases/<digest>` is complete and read-only, or absent.
INV-TRE-2: no setuid or setgid bit, device, socket or pipe, and no link that leaves, is in a release.

May import: enjin, supervision.steps.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from enjin.failpoints import failpoint
from enjin.host import sync_directory
from supervision.steps import BadStep, NodeFailed, Sealed, TooBig

BLOCK: Final = 1 << 18
DEPTH: Final = 64
ALLOWED_ABSOLUTE: Final = ("/usr/", "/bin/", "/lib/", "/opt/enjin/", "/app/")


class Entry(NamedTuple):
    """One name in a tree."""

    path: str
    kind: str
    detail: bytes
    size: int


def seal(root: Path, source: str, releases: Path, limit_bytes: int, limit_entries: int, owner: int | None) -> Sealed:
    """Make root/source read-only and move it to releases/<digest>; a tree that is there already is kept and the source removed.

    Args:
        owner: uid and gid that own the result; None leaves them (no privileges).

    Raises:
        BadStep: There is no such directory, or its way leads through a link.
        TooBig: It holds more than allowed, or what a release may not hold.
    """
    tree = _open_directory(root, source)
    try:
        digest = hashlib.sha256()
        size = count = 0
        for entry in walk(tree, owner):
            size, count = size + entry.size, count + 1
            if size > limit_bytes or count > limit_entries:
                raise TooBig(f"the tree holds more than {limit_bytes} bytes or {limit_entries} entries")
            digest.update(b"\0".join((entry.kind.encode(), entry.detail, os.fsencode(entry.path))) + b"\n")
        if owner is not None:
            os.fchown(tree, owner, owner)
        os.fchmod(tree, 0o755)
        failpoint("tree.sync")
        os.sync() if count > 2000 else os.fsync(tree)
    finally:
        os.close(tree)
    name = digest.hexdigest()
    target = releases / name
    releases.mkdir(mode=0o755, parents=True, exist_ok=True)
    releases.chmod(0o755)  # the names are digests; the daemon lists them
    if target.exists():
        remove(root, source)
    else:
        failpoint("tree.rename")
        os.rename(root / source, target)
        sync_directory(releases)
    os.chmod(target, 0o555)
    return Sealed(digest=name, path=name, bytes=size, entries=count)


def walk(directory: int, owner: int | None, prefix: str = "", depth: int = 0) -> Iterator[Entry]:
    """Yield every entry below *directory* in byte order, made read-only (and *owner*'s) on the way."""
    if depth > DEPTH:
        raise TooBig(f"the tree is deeper than {DEPTH} directories")
    for name in sorted(os.listdir(directory), key=os.fsencode):
        path = f"{prefix}{name}"
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=directory)
            _check_link(path, target)
            if owner is not None:
                os.chown(name, owner, owner, dir_fd=directory, follow_symlinks=False)
            yield Entry(path, "l", os.fsencode(target), 0)
        elif stat.S_ISDIR(status.st_mode):
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                if owner is not None:
                    os.fchown(inner, owner, owner)
                os.fchmod(inner, 0o755)
                yield Entry(path, "d", b"", 0)
                yield from walk(inner, owner, f"{path}/", depth + 1)
                os.fchmod(inner, 0o555)
            finally:
                os.close(inner)
        elif stat.S_ISREG(status.st_mode):
            yield _file(directory, name, path, owner)
        else:
            raise TooBig(f"{path} is neither a file, a directory nor a link")


def _file(directory: int, name: str, path: str, owner: int | None) -> Entry:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise TooBig(f"{path} changed while it was read")
        if status.st_nlink > 1 and owner is not None:
            descriptor, status = _unshared(directory, name, descriptor)
        if owner is not None:
            os.fchown(descriptor, owner, owner)
        executable = bool(status.st_mode & stat.S_IXUSR)
        os.fchmod(descriptor, 0o555 if executable else 0o444)
        digest = hashlib.sha256()
        size = 0
        while block := os.read(descriptor, BLOCK):
            digest.update(block)
            size += len(block)
    finally:
        os.close(descriptor)
    detail = b"\0".join((b"x" if executable else b"-", str(size).encode(), digest.hexdigest().encode()))
    return Entry(path, "f", detail, size)


def _unshared(directory: int, name: str, descriptor: int) -> tuple[int, os.stat_result]:
    """Replace a file that has other names (perhaps outside) by a copy, so that nobody can change it through them."""
    fresh = f".{name[:200]}.sealed"
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o777
    copy = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=directory)
    while block := os.read(descriptor, BLOCK):
        os.write(copy, block)
    os.lseek(copy, 0, os.SEEK_SET)
    failpoint("tree.copy.rename")
    os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.close(descriptor)
    return copy, os.fstat(copy)


def _check_link(path: str, target: str) -> None:
    if target.startswith("/"):
        if not target.startswith(ALLOWED_ABSOLUTE) or ".." in target.split("/"):
            raise TooBig(f"{path} links to {target[:100]}, which is not part of the release")
        return
    depth = path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            raise TooBig(f"{path} links to {target[:100]}, outside the release")


def _open_directory(root: Path, relative: str) -> int:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in relative.split("/"):
        try:
            following = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
        except OSError as error:
            raise BadStep(f"{relative}: {error.strerror}") from error
        finally:
            os.close(descriptor)
        descriptor = following
    return descriptor


def remove(root: Path, relative: str) -> bool:
    """Remove root/relative and all below it; return whether it was there. Follows no link."""
    parent, _, name = relative.rpartition("/")
    try:
        descriptor = _open_directory(root, parent) if parent else os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (BadStep, FileNotFoundError):
        return False
    try:
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=descriptor)
            return True
        _writable(descriptor, name)
        shutil.rmtree(name, dir_fd=descriptor)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise NodeFailed(f"cannot remove {relative}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return True


def _writable(parent: int, name: str) -> None:
    """Give the owner back the right to write into directories, which removal needs without privileges."""
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.fchmod(inner, 0o700)
        for entry in os.listdir(inner):
            if stat.S_ISDIR(os.stat(entry, dir_fd=inner, follow_symlinks=False).st_mode):
                _writable(inner, entry)
    finally:
        os.close(inner)
