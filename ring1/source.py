"""Pack a directory for a push: the client's half of a release.

Owns which files go and that the same files give the same bytes. Runs where the person is; imports the standard library, the
ground and ``pathspec``. Ring 2 trusts nothing of this and judges the archive again.

What goes: with .enjinignore, everything it does not name; else in a git checkout what git tracks or would (`git ls-files -co
--exclude-standard`); else everything .gitignore does not name. Never .git; not by default what ``ALWAYS`` lists.

INV-SRC-1: equal trees (names, contents, execute bits, link targets) give equal archives, whoever packs them and when.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from enjin.errors import Refused, StepFailed
from enjin.failpoints import failpoint

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

TOTAL_BYTES_MAX: Final = 1 << 30
ENTRIES_MAX: Final = 100_000
ALWAYS: Final = (".venv/", "venv/", "__pycache__/", "*.pyc", "node_modules/", ".enjin/", ".hg/", ".svn/", ".tox/", ".DS_Store")
_IGNORE_BYTES_MAX: Final = 1 << 20
_GIT_S_MAX: Final = 60


class BadDirectory(Refused):
    """What is pushed is not a directory with something in it."""

    code = "E-PKG-050"
    http_status = 400


class CannotPack(Refused):
    """A file of the directory cannot be a part of a release."""

    code = "E-PKG-051"
    http_status = 400
    remedy = "name it in .enjinignore"


class TooLarge(Refused):
    """The directory holds more than 1 GiB or 100,000 files."""

    code = "E-PKG-052"
    http_status = 413
    remedy = "name what need not be pushed in .enjinignore"


class ReadFailed(StepFailed):
    """A file could not be read, or changed while it was packed."""

    code = "E-PKG-053"
    remedy = "push again"


class Packed(NamedTuple):
    """An archive: its SHA-256 in hex, its bytes, its entries, and how the files were found (for the person)."""

    digest: str
    size: int
    entries: int
    source: str


def pack(directory: Path, target: IO[bytes]) -> Packed:
    """Write *directory* as a tar archive to *target* and return what was written.

    Args:
        directory: Any directory the caller may read.
        target: A binary file, written from where it stands; need not be seekable.

    Raises:
        BadDirectory, CannotPack, TooLarge, ReadFailed: See the classes; *target* may hold a part.
    """
    root = Path(os.path.realpath(directory))
    if not root.is_dir():
        raise BadDirectory(f"{directory} is not a directory")
    names, source = list_files(root)
    if not names:
        raise BadDirectory(f"{directory} holds no file to push")
    sink = _Sink(target)
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:  # type: ignore[call-overload]
        total = entries = 0
        for name in names:
            entries += 1
            if entries > ENTRIES_MAX:
                raise TooLarge(f"{directory} holds more than {ENTRIES_MAX:,} files")
            total += _add(archive, root, name, TOTAL_BYTES_MAX - total)
    return Packed(sink.hash.hexdigest(), sink.size, entries, source)


def list_files(root: Path) -> tuple[list[str], str]:
    """Return the names beneath *root* that go, sorted by their bytes, and a word on how they were found."""
    if (root / ".enjinignore").is_file():
        names, source = _walked(root, ".enjinignore"), ".enjinignore"
    else:
        tracked = _from_git(root)
        if tracked:
            names, source = tracked, "git"
        else:
            names, source = _walked(root, ".gitignore"), ".gitignore" if (root / ".gitignore").is_file() else "every file"
    return sorted(set(names), key=os.fsencode), source


class _Sink:
    """A file that is hashed and counted on its way."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._target.write(data)
        self.hash.update(data)
        self.size += len(data)
        return len(data)


def _from_git(root: Path) -> list[str]:
    """Return git's list of the files beneath *root*; empty when *root* is no checkout, or git cannot say."""
    # A checkout's own configuration can name programs to run; those that listing would run are switched off.
    quiet = ["-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false", "-c", "core.hooksPath=/dev/null"]
    command = ["git", "-C", str(root), *quiet, "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        failpoint("source.git.spawn")
        done = subprocess.run(command, capture_output=True, timeout=_GIT_S_MAX, env=environment, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    names: list[str] = []
    always = _spec(ALWAYS)
    for raw in done.stdout.split(b"\0"):
        name = os.fsdecode(raw)
        if not raw or always.match_file(name) or not os.path.lexists(root / name):
            continue  # deleted in the work tree, but still in the index
        if stat.S_ISDIR(os.lstat(root / name).st_mode):
            # A submodule, or a checkout inside the checkout: git lists only its folder.
            names += _walked(root, ".gitignore", name.rstrip("/"))
        else:
            names.append(name)
    return names


def _walked(root: Path, ignore_file: str, start: str = "") -> list[str]:
    """Return the files beneath *start* that no ignore file on the way names; a later and a nearer rule wins."""
    rules: list[tuple[str, GitIgnoreSpec]] = [("", _spec(ALWAYS))]
    return list(_walk(root, start, ignore_file, rules))


def _walk(root: Path, folder: str, ignore_file: str, rules: list[tuple[str, GitIgnoreSpec]]) -> Iterator[str]:
    # Git reads a .gitignore in every folder; .enjinignore is one file, at the top.
    if not folder or ignore_file == ".gitignore":
        own = _read_ignore(root / folder / ignore_file)
        if own:
            rules = [*rules, (f"{folder}/" if folder else "", _spec(own))]
    try:
        found = sorted(os.scandir(root / folder), key=lambda one: os.fsencode(one.name))
    except OSError as error:
        raise ReadFailed(f"cannot read {folder or root}: {error.strerror}") from error
    for one in found:
        name = f"{folder}/{one.name}" if folder else one.name
        is_folder = one.is_dir(follow_symlinks=False)
        if one.name == ".git" or _ignored(name + "/" if is_folder else name, rules):
            continue
        if is_folder:
            yield from _walk(root, name, ignore_file, rules)
        else:
            yield name


def _ignored(name: str, rules: list[tuple[str, GitIgnoreSpec]]) -> bool:
    for prefix, spec in reversed(rules):
        verdict = spec.check_file(name.removeprefix(prefix)).include
        if verdict is not None:
            return verdict
    return False


def _read_ignore(path: Path) -> list[str]:
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return []
        with open(path, "rb") as file:
            data = file.read(_IGNORE_BYTES_MAX + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ReadFailed(f"cannot read {path.name}: {error.strerror}") from error
    if len(data) > _IGNORE_BYTES_MAX:
        raise TooLarge(f"{path.name} has more than {_IGNORE_BYTES_MAX:,} bytes")
    return data.decode("utf-8", "replace").splitlines()


def _spec(lines: list[str] | tuple[str, ...]) -> GitIgnoreSpec:
    import pathspec  # 20 ms that only a push pays

    try:
        return pathspec.GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise CannotPack(f"an ignore rule does not parse: {str(error)[:120]}") from error


def _add(archive: tarfile.TarFile, root: Path, name: str, room: int) -> int:
    """Add one file or link and return its bytes."""
    path = root / name
    _check_name(name)
    try:
        state = os.lstat(path)
        if stat.S_ISLNK(state.st_mode):
            archive.addfile(_header(name, tarfile.SYMTYPE, target=_inner_target(root, name)))
            return 0
        if not stat.S_ISREG(state.st_mode):
            raise CannotPack(f"{name} is neither a file, a directory nor a link")
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            state = os.fstat(file.fileno())
            if state.st_size > room:
                raise TooLarge(f"the files are more than {TOTAL_BYTES_MAX:,} bytes together (up to {name})")
            archive.addfile(_header(name, tarfile.REGTYPE, size=state.st_size, executable=bool(state.st_mode & 0o111)), file)
            if file.read(1):
                raise ReadFailed(f"{name} changed while it was packed")
        return state.st_size
    except OSError as error:
        # tarfile says OSError, too, when a file became shorter.
        raise ReadFailed(f"cannot read {name}: {error.strerror or 'it changed while it was packed'}") from error


def _check_name(name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CannotPack(f"the name {ascii(name)[:80]} is not UTF-8") from error
    if any(letter < " " or letter == "\x7f" for letter in name):
        raise CannotPack(f"the name {ascii(name)[:80]} holds a control character")


def _inner_target(root: Path, name: str) -> str:
    """Return where the link *name* leads, when that is inside *root* by every step."""
    target = os.readlink(root / name)
    reached = os.path.realpath(root / name)
    if os.path.isabs(target) or (reached != str(root) and not reached.startswith(f"{root}{os.sep}")):
        raise CannotPack(f"the link {name} -> {target[:80]} leads outside the directory")
    _check_name(target)
    return target


def _header(name: str, kind: bytes, *, size: int = 0, executable: bool = False, target: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.size, header.linkname = kind, size, target
    header.mode = 0o777 if target else 0o755 if executable else 0o644
    return header
