"""Read the headers of a plain tar archive, strictly.

Owns the format: blocks, checksums, numbers, pax and GNU long names. Does not judge names or links (``manifest``) and writes
nothing (``extract``). The naive way is ``tarfile``: it repairs, guesses and follows where we want to refuse, and reads extended
headers of any size into memory.

INV-PKG-1: a reader never holds more of an archive in memory than one extended header of ``HEADER_BYTES_MAX``.
INV-PKG-2: bytes that are not understood are refused, never skipped.

Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from enjin.errors import Refused

BLOCK: Final = 512
HEADER_BYTES_MAX: Final = 65_536
HEADERS_MAX: Final = 300_000
"""Blocks with a checksum in one archive: an entry may have a pax header and a GNU long name and link before it."""

FILE, DIRECTORY, LINK, HARD_LINK = "file", "directory", "link", "hard link"
_KINDS: Final = {b"0": FILE, b"\0": FILE, b"5": DIRECTORY, b"2": LINK, b"1": HARD_LINK}
_SPECIAL: Final = {b"3": "a character device", b"4": "a block device", b"6": "a named pipe", b"7": "a contiguous file"}
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


class NotAnArchive(Refused):
    """The source is not a plain, complete tar archive."""

    code = "E-PKG-001"
    http_status = 400
    remedy = "push a directory with `enjin push DIR`, or send what `git archive --format=tar` writes"


class SpecialFile(Refused):
    """The archive holds a device, a named pipe or a socket."""

    code = "E-PKG-002"
    http_status = 400
    remedy = "only files, directories and links can be pushed; name the file in .enjinignore"


class SparseFile(Refused):
    """The archive holds a sparse file, whose size on disk is not its size in the archive."""

    code = "E-PKG-003"
    http_status = 400
    remedy = "pack without --sparse"


@dataclass(frozen=True, slots=True)
class Member:
    """One thing in an archive, as its headers say, nothing judged yet."""

    path: bytes
    kind: str
    mode: int
    size: int
    offset: int
    target: bytes = b""


def read_members(archive: int) -> Iterator[Member]:
    """Yield the members of the archive open at descriptor *archive*, in order.

    Raises:
        NotAnArchive: Not a tar, compressed, damaged, cut short, or followed by something else.
        SpecialFile: A member is a device, a pipe or of an unknown type.
        SparseFile: A member is sparse.
    """
    end = os.fstat(archive).st_size
    position, headers = 0, 0
    extended: dict[str, bytes] = {}
    _refuse_compressed(os.pread(archive, 8, 0))
    while True:
        block = os.pread(archive, BLOCK, position)
        if len(block) < BLOCK:
            raise NotAnArchive(f"the archive ends in the middle, at byte {position + len(block)}")
        if block == bytes(BLOCK):
            break
        headers += 1
        if headers > HEADERS_MAX:
            raise NotAnArchive(f"the archive holds more than {HEADERS_MAX} headers")
        member, flag = _parse_header(block, position)
        if position + BLOCK + member.size > end:
            raise NotAnArchive(f"the archive ends in the middle of the member at byte {position}")
        if flag in (b"x", b"g", b"L", b"K"):
            extended |= _extension(archive, member, flag)
            position += BLOCK + _padded(member.size)
            continue
        member = _extend(member, extended, end)
        extended = {}
        position += BLOCK + _padded(member.size)
        # Only now: a header's own name is cut at 100 bytes when a longer one came before it.
        if member.kind == FILE and member.path.endswith(b"/"):
            raise NotAnArchive(f"{_shown(member.path)} is a file whose name ends with a slash")
        yield member
    if extended:
        raise NotAnArchive("an extended header is followed by no member")
    _require_zeros(archive, position, end)


def _refuse_compressed(start: bytes) -> None:
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise NotAnArchive(f"the archive is compressed ({name})")


def _parse_header(block: bytes, position: int) -> tuple[Member, bytes]:
    """Return the member that *block* describes and its type flag."""
    where = f"the header at byte {position}"
    total = sum(block[:148]) + sum(block[156:]) + 8 * 32
    if _number(block[148:156], where) != total:
        raise NotAnArchive(f"{where} has a wrong checksum")
    if block[257:263] not in (b"ustar\0", b"ustar "):
        raise NotAnArchive(f"{where} is not of the ustar format")
    path, flag = _text(block[0:100]), block[156:157]
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    if prefix:
        path = prefix + b"/" + path
    size = _number(block[124:136], where)
    kind = _KINDS.get(flag, "")
    if flag == b"S":
        raise SparseFile(f"{_shown(path)} is sparse")
    if not kind and flag not in (b"x", b"g", b"L", b"K"):
        raise SpecialFile(f"{_shown(path)} is {_SPECIAL.get(flag, f'of the unknown type {flag!r}')}")
    if kind in (DIRECTORY, LINK, HARD_LINK):
        if size and kind != DIRECTORY:
            raise NotAnArchive(f"{_shown(path)} is a {kind} with contents")
        size = 0
    return Member(path, kind, _number(block[100:108], where), size, position + BLOCK, _text(block[157:257])), flag


def _extension(archive: int, member: Member, flag: bytes) -> dict[str, bytes]:
    """Return the fields that the extended header *member* sets for what follows it."""
    if member.size > HEADER_BYTES_MAX:
        raise NotAnArchive(f"an extended header has {member.size} bytes")
    data = os.pread(archive, member.size, member.offset)
    if flag in (b"L", b"K"):
        return {"path" if flag == b"L" else "linkpath": data[:-1] if data.endswith(b"\0") else data}
    fields = _pax(data)
    for name in fields:
        if name.startswith("GNU.sparse."):
            raise SparseFile("the archive holds a sparse file")
    if flag == b"g":
        # `git archive` writes one with the commit's id; anything that would change every member is not ours to obey.
        if set(fields) - {"comment"}:
            raise NotAnArchive(f"a global header sets {', '.join(sorted(set(fields) - {'comment'}))}")
        return {}
    return {name: value for name, value in fields.items() if name in ("path", "linkpath", "size")}


def _pax(data: bytes) -> dict[str, bytes]:
    """Parse the records of a pax header: ``length name=value newline``."""
    fields: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 8)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit() or digits.startswith(b"0"):
            raise NotAnArchive("a pax header has a record without a length")
        record = data[space + 1 : position + int(digits)]
        name, equals, value = record[:-1].partition(b"=")
        if position + int(digits) > len(data) or not record.endswith(b"\n") or not equals or not name.isascii():
            raise NotAnArchive("a pax header has a damaged record")
        if name.decode() in fields:
            raise NotAnArchive(f"a pax header sets {name.decode()} twice")
        fields[name.decode()] = value
        position += int(digits)
    return fields


def _extend(member: Member, fields: dict[str, bytes], end: int) -> Member:
    """Return *member* with the long name, long target and size that came before it."""
    if not fields:
        return member
    size = member.size
    if "size" in fields and member.kind == FILE:
        if not fields["size"].isdigit() or len(fields["size"]) > 15:
            raise NotAnArchive("a pax header has a damaged size")
        size = int(fields["size"])
        if member.offset + size > end:
            raise NotAnArchive("the archive ends in the middle of a member")
    return replace(member, path=fields.get("path", member.path), target=fields.get("linkpath", member.target), size=size)


def _number(field: bytes, where: str) -> int:
    """Parse an octal field; GNU's binary form is for sizes that we refuse anyway."""
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if any(digit not in b"01234567" for digit in digits):
        raise NotAnArchive(f"{where} has a damaged number")
    return int(digits, 8)


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _shown(path: bytes) -> str:
    return ascii(path.decode("utf-8", "replace"))[:80]


def _require_zeros(archive: int, position: int, end: int) -> None:
    """Refuse bytes behind the end mark: what one reader ignores another one reads."""
    while position < end:
        piece = os.pread(archive, 1 << 20, position)
        if piece.strip(b"\0"):
            raise NotAnArchive("something follows the end of the archive")
        if not piece:
            break
        position += len(piece)
