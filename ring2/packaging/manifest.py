"""Judge everything an archive would write, before anything is written.

Owns the rules about names, links, clashes and totals. Pure: members in, entries out. Does not read the format (``archive``) and
does not write (``extract``).

INV-PKG-3: no entry lies, and no link leads, outside the tree, whatever the other entries are.
INV-PKG-4: no entry is written through another entry that is not a directory.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from enjin.errors import Refused
from ring2.packaging.archive import DIRECTORY, FILE, HARD_LINK, LINK, Member

TOTAL_BYTES_MAX: Final = 1 << 30
ENTRIES_MAX: Final = 100_000
PATH_BYTES_MAX: Final = 1_024
NAME_BYTES_MAX: Final = 255
DEPTH_MAX: Final = 64
LINK_HOPS_MAX: Final = 40
RESERVED: Final = ".enjin"

Path = tuple[str, ...]


class BadPath(Refused):
    """A name in the archive is absolute, climbs out, or holds characters that no name should."""

    code = "E-PKG-004"
    http_status = 400
    remedy = "use relative names without .., control characters or a leading slash"


class PathTooLong(Refused):
    """A name in the archive is too long or too deep."""

    code = "E-PKG-005"
    http_status = 400
    remedy = "a name has at most 1,024 bytes, 255 between two slashes, and 64 levels"


class LinkLeaves(Refused):
    """A link in the archive leads outside the tree."""

    code = "E-PKG-006"
    http_status = 400
    remedy = "a link may lead only to something inside the pushed directory; name it in .enjinignore"


class WriteThroughLink(Refused):
    """A name in the archive lies beneath something that is not a directory."""

    code = "E-PKG-007"
    http_status = 400


class DuplicateName(Refused):
    """Two entries of the archive have the same name."""

    code = "E-PKG-008"
    http_status = 400


class CaseClash(Refused):
    """Two names in the archive differ only in case or in how a letter is composed."""

    code = "E-PKG-009"
    http_status = 400
    remedy = "rename one of them"


class TooBig(Refused):
    """The archive unpacks to more than 1 GiB."""

    code = "E-PKG-010"
    http_status = 413
    remedy = "name large files in .enjinignore, or keep them in a volume"


class TooMany(Refused):
    """The archive holds more than 100,000 entries."""

    code = "E-PKG-011"
    http_status = 413
    remedy = "name what need not be pushed in .enjinignore"


class ReservedName(Refused):
    """The archive writes where enjin keeps the app's environment."""

    code = "E-PKG-012"
    http_status = 400
    remedy = "remove or rename .enjin in the pushed directory"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to write: checked, its name split."""

    path: Path
    kind: str
    executable: bool
    size: int
    offset: int
    target: str = ""
    source: Path = ()


def check(members: Iterable[Member], *, total_bytes_max: int = TOTAL_BYTES_MAX, entries_max: int = ENTRIES_MAX) -> list[Entry]:
    """Return what *members* would write, in order, every rule checked.

    Raises:
        Refused: One of this module's classes, for the first rule that is broken.
    """
    entries: dict[Path, Entry] = {}
    folded: dict[Path, Path] = {}
    directories: set[Path] = set()
    total = count = 0
    for member in members:
        count += 1
        if count > entries_max:
            raise TooMany(f"the archive holds more than {entries_max:,} entries")
        total += member.size
        if total > total_bytes_max:
            raise TooBig(f"the archive unpacks to more than {total_bytes_max:,} bytes")
        path = parse_path(member.path)
        if not path:
            if member.kind != DIRECTORY:
                raise BadPath("an entry has no name")
            continue
        if path[0].casefold() == RESERVED:
            raise ReservedName(f"{shown(path)} is reserved")
        if path in entries:
            raise DuplicateName(f"{shown(path)} is there twice")
        _check_parents(path, entries, directories)
        if path in directories and member.kind != DIRECTORY:
            raise WriteThroughLink(f"{shown(path)} is a {member.kind}, and other entries lie beneath it")
        _check_case(path, folded, directories)
        entries[path] = _entry(member, path, entries)
        directories.update(path[:depth] for depth in range(1, len(path)))
        if member.kind == DIRECTORY:
            directories.add(path)
    links = {path: entry.target for path, entry in entries.items() if entry.kind == LINK}
    for path in links:
        resolve(path, links)
    return list(entries.values())


def parse_path(raw: bytes) -> Path:
    """Return the parts of the name *raw*; the tree itself (``.``) has none.

    Raises:
        BadPath, PathTooLong: See the classes.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadPath(f"the name {ascii(raw)[:80]} is not UTF-8") from error
    if text.startswith("/"):
        raise BadPath(f"the name {ascii(text)[:80]} is absolute")
    if len(raw) > PATH_BYTES_MAX:
        raise PathTooLong(f"the name {ascii(text)[:60]} has {len(raw)} bytes")
    if not text or any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text):
        raise BadPath(f"the name {ascii(text)[:80]} holds a control character, or nothing")
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    if ".." in parts:
        raise BadPath(f"the name {ascii(text)[:80]} climbs with ..")
    if len(parts) > DEPTH_MAX or any(len(part.encode()) > NAME_BYTES_MAX for part in parts):
        raise PathTooLong(f"the name {ascii(text)[:60]} is too deep, or a part of it too long")
    return parts


def resolve(path: Path, links: dict[Path, str]) -> Path:
    """Return where *path* leads when every link of the tree is followed as the kernel would.

    A lexical check is not enough: ``a/up -> ..`` and then ``b -> a/up/..`` leaves, although each looks harmless.

    Raises:
        LinkLeaves: Some step lies outside the tree, or the links run in a circle.
    """
    reached: list[str] = []
    waiting = list(reversed(path))
    hops = 0
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not reached:
                raise LinkLeaves(f"the link {shown(path)} -> {ascii(links.get(path, ''))[:80]} leads outside")
            reached.pop()
            continue
        target = links.get((*reached, part))
        if target is None:
            reached.append(part)
            continue
        hops += 1
        if hops > LINK_HOPS_MAX:
            raise LinkLeaves(f"the link {shown(path)} runs in a circle")
        waiting.extend(reversed(target.split("/")))
    return tuple(reached)


def shown(path: Path) -> str:
    """Return *path* for a message: one line, bounded."""
    return ascii("/".join(path))[:120]


def _check_parents(path: Path, entries: dict[Path, Entry], directories: set[Path]) -> None:
    """Refuse *path* when something above it is a file or a link, whatever the order in the archive."""
    for depth in range(len(path) - 1, 0, -1):
        parent = path[:depth]
        if parent in directories:
            return
        above = entries.get(parent)
        if above is not None and above.kind != DIRECTORY:
            raise WriteThroughLink(f"{shown(path)} lies beneath {shown(parent)}, which is a {above.kind}")


def _check_case(path: Path, folded: dict[Path, Path], directories: set[Path]) -> None:
    """Refuse *path* when it, or a directory above it, is another one's twin on a file system that folds case."""
    for depth in range(len(path), 0, -1):
        if path[:depth] in directories:
            return
        key = tuple(unicodedata.normalize("NFC", part).casefold() for part in path[:depth])
        if folded.setdefault(key, path[:depth]) != path[:depth]:
            raise CaseClash(f"{shown(path[:depth])} and {shown(folded[key])} differ only in case")


def _entry(member: Member, path: Path, entries: dict[Path, Entry]) -> Entry:
    target = ""
    source: Path = ()
    if member.kind == LINK:
        target = _link_target(member.target, path)
    elif member.kind == HARD_LINK:
        source = _hard_link_source(member.target, path, entries)
    # Mode bits above rwx (setuid, setgid, sticky) are dropped here: only "may be executed" survives.
    return Entry(path, member.kind, bool(member.mode & 0o111), member.size, member.offset, target, source)


def _link_target(raw: bytes, path: Path) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadPath(f"the target of the link {shown(path)} is not UTF-8") from error
    if not text or len(raw) > PATH_BYTES_MAX or text.count("/") > 2 * DEPTH_MAX or "\0" in text:
        raise PathTooLong(f"the target of the link {shown(path)} is empty or too long")
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        raise BadPath(f"the target of the link {shown(path)} holds a control character")
    if text.startswith("/"):
        raise LinkLeaves(f"the link {shown(path)} -> {ascii(text)[:80]} is absolute")
    return text


def _hard_link_source(raw: bytes, path: Path, entries: dict[Path, Entry]) -> Path:
    """Return the earlier file that the hard link *path* names; anything else could reach outside."""
    try:
        source = parse_path(raw)
    except Refused as error:
        raise LinkLeaves(f"the hard link {shown(path)} leads outside") from error
    found = entries.get(source)
    if found is None or found.kind not in (FILE, HARD_LINK):
        raise LinkLeaves(f"the hard link {shown(path)} does not name an earlier file of the archive")
    return source
