"""Hostile archives and names, played against the extractor on a real disk (threats N59, N60, N63).

Every refusal has its own code, nothing is written, and the valid twin of the same shape unpacks.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from enjin.errors import Refused, StepFailed
from ring2.packaging import extract as extracting
from ring2.packaging import manifest
from ring2.packaging.extract import UnpackFailed, extract
from ring2.packaging.procfile import BadProcfile, parse_procfile


def file(name: str, data: bytes = b"data", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def thing(name: str, kind: bytes, target: str = "", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info, _ = file(name, b"", type=kind, linkname=target, **fields)
    return info, b""


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return thing(name, tarfile.SYMTYPE, target)


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return thing(name, tarfile.LNKTYPE, target)


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return thing(name, tarfile.DIRTYPE, mode=0o755)


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


def snapshot(root: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.lstat().st_mode, path.lstat().st_size) for path in root.rglob("*"))


def refuse(tmp_path: Path, data: bytes, code: str, **bounds: int) -> None:
    """The archive *data* is refused with *code*, and the disk is as it was, around the tree too."""
    (tmp_path / "victim").write_text("untouched")
    source = tmp_path / "source.tar"
    source.write_bytes(data)
    before = snapshot(tmp_path)
    with pytest.raises(Refused) as caught:
        extract(source, tmp_path / "tree", **bounds)
    assert caught.value.code == code
    assert "\n" not in caught.value.message
    assert snapshot(tmp_path) == before


def accept(tmp_path: Path, data: bytes, **bounds: int) -> Path:
    source = tmp_path / "source.tar"
    source.write_bytes(data)
    extract(source, tmp_path / "tree", **bounds)
    return tmp_path / "tree"


LONG = "x" * 200

REFUSED = {
    "absolute": ([file("/etc/passwd")], "E-PKG-004"),
    "absolute twice": ([file("//etc/passwd")], "E-PKG-004"),
    "climbs": ([file("../victim")], "E-PKG-004"),
    "climbs inside": ([file("a/../../victim")], "E-PKG-004"),
    "climbs and stays": ([file("a/../b")], "E-PKG-004"),
    "climbs at the end": ([folder("a/..")], "E-PKG-004"),
    "line break": ([file("a\nb")], "E-PKG-004"),
    "escape": ([file("a\x1b[2Jb")], "E-PKG-004"),
    "line separator": ([file("a\u2028b")], "E-PKG-004"),
    "file without a name": ([file(".")], "E-PKG-004"),
    "name too long": ([file("x" * 256)], "E-PKG-005"),
    "path too long": ([file("/".join([LONG] * 25))], "E-PKG-005"),
    "too deep": ([file("/".join("a" * 65))], "E-PKG-005"),
    "link absolute": ([link("a", "/etc/passwd")], "E-PKG-006"),
    "link climbs": ([link("a", "../victim")], "E-PKG-006"),
    "link climbs from below": ([link("d/a", "../../victim")], "E-PKG-006"),
    "link through a link": ([link("a/up", ".."), link("b", "a/up/../victim")], "E-PKG-006"),
    "link through a link, reversed": ([link("b", "a/up/../victim"), link("a/up", "..")], "E-PKG-006"),
    "link through links": ([link("a/b/c", "../.."), link("d", "a/b/c/../x")], "E-PKG-006"),
    "link in a circle": ([link("a", "b"), link("b", "a")], "E-PKG-006"),
    "link to itself": ([link("a", "a/a")], "E-PKG-006"),
    "link target too long": ([link("a", "/".join([LONG] * 25))], "E-PKG-005"),
    "hard link out": ([hard("a", "/etc/passwd")], "E-PKG-006"),
    "hard link climbs": ([hard("a", "../victim")], "E-PKG-006"),
    "hard link to nothing": ([hard("a", "b")], "E-PKG-006"),
    "hard link to a later file": ([hard("a", "b"), file("b")], "E-PKG-006"),
    "hard link to a link": ([link("l", "b"), file("b"), hard("a", "l")], "E-PKG-006"),
    "hard link to a folder": ([folder("d"), hard("a", "d")], "E-PKG-006"),
    "write through a link": ([link("a", "b"), file("a/x")], "E-PKG-007"),
    "write through a link, reversed": ([file("a/x"), link("a", "b")], "E-PKG-007"),
    "write through a file": ([file("a"), file("a/x")], "E-PKG-007"),
    "write through a hard link": ([file("b"), hard("a", "b"), file("a/x")], "E-PKG-007"),
    "same name": ([file("a"), file("a")], "E-PKG-008"),
    "same name, other spelling": ([file("d/a"), file("./d//a")], "E-PKG-008"),
    "link and file": ([link("a", "b"), file("a")], "E-PKG-008"),
    "case clash": ([file("Readme"), file("README")], "E-PKG-009"),
    "case clash above": ([file("Lib/a"), file("lib/b")], "E-PKG-009"),
    "composed clash": ([file("\u00e9"), file("e\u0301")], "E-PKG-009"),
    "reserved": ([file(".enjin/python/bin/python")], "E-PKG-012"),
    "reserved link": ([link(".ENJIN", "x")], "E-PKG-012"),
    "character device": ([thing("null", tarfile.CHRTYPE, devmajor=1, devminor=3)], "E-PKG-002"),
    "block device": ([thing("disk", tarfile.BLKTYPE)], "E-PKG-002"),
    "pipe": ([thing("pipe", tarfile.FIFOTYPE)], "E-PKG-002"),
    "unknown type": ([thing("x", b"Z")], "E-PKG-002"),
    "old sparse": ([thing("x", tarfile.GNUTYPE_SPARSE)], "E-PKG-003"),
    "pax sparse": ([file("x", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": "1099511627776"})], "E-PKG-003"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_n63_hostile_archive_is_refused_and_writes_nothing(tmp_path: Path, case: str) -> None:
    """N63: each trick has its own code, in GNU and in pax clothing, and leaves no trace."""
    members, code = REFUSED[case]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT) if case != "pax sparse" else (tarfile.PAX_FORMAT,):
        refuse(tmp_path, archive(*members, form=form), code)


def test_valid_twins_unpack(tmp_path: Path) -> None:
    """The harmless neighbours of the tricks are written as they are."""
    tree = accept(
        tmp_path,
        archive(
            folder("./"), folder("a"), file("a/x", b"one"), file("./b/..c", b"two"), hard("a/same", "a/x"), link("l", "a/x"),
            link("a/up", ".."), link("b/deep", "../a/up/b"), link("dangling", "nowhere"),
            file(f"{LONG}/{LONG}/x", b"long"), file("...", b"three"),
        ),
    )  # fmt: skip
    assert (tree / "l").read_bytes() == b"one"
    assert (tree / "a/same").stat().st_ino == (tree / "a/x").stat().st_ino
    assert (tree / "b/deep/..c").read_bytes() == b"two"
    assert (tree / LONG / LONG / "x").read_bytes() == b"long"
    assert os.readlink(tree / "dangling") == "nowhere"


def test_special_bits_are_stripped(tmp_path: Path) -> None:
    """Setuid, setgid, sticky and write-for-all do not survive; the execute bit does; owners are ours."""
    members = [file("suid", mode=0o6777, uid=0), file("plain", mode=0o666), file("secret", mode=0o000), folder("d")]
    tree = accept(tmp_path, archive(*members))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tree.iterdir()}
    assert modes == {"suid": 0o755, "plain": 0o644, "secret": 0o644, "d": 0o755}
    assert {path.stat().st_uid for path in tree.iterdir()} == {os.geteuid()}


def test_totals_are_bounded_exactly(tmp_path: Path) -> None:
    """The last byte and the last entry that fit do, one more does not; a header's promise counts, not only what is there."""
    data = archive(file("a", b"x" * 600), file("b", b"x" * 400))
    refuse(tmp_path, data, "E-PKG-010", total_bytes_max=999)
    refuse(tmp_path, data, "E-PKG-011", entries_max=1)
    tree = accept(tmp_path, data, total_bytes_max=1_000, entries_max=2)
    assert sorted(path.name for path in tree.iterdir()) == ["a", "b"]


def test_hundred_thousand_and_one_entries(tmp_path: Path) -> None:
    """The real bound on entries holds, folders and links counted."""
    block = archive(file("f00000", b""))[:512]
    pieces = []
    for number in range(manifest.ENTRIES_MAX + 1):
        header = bytearray(block)
        header[0:7] = b"f%06d" % number
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        pieces.append(bytes(header))
    refuse(tmp_path, b"".join(pieces) + bytes(1_024), "E-PKG-011")


def test_promised_gigabyte_is_refused_by_its_headers(tmp_path: Path) -> None:
    """Two sparse halves of a gibibyte and a byte: refused without reading or writing them."""
    source = tmp_path / "source.tar"
    half = (1 << 29) + 512
    position = 0
    with open(source, "wb") as target:
        for name in ("a", "b"):
            target.seek(position)
            target.write(_sized(name, half).tobuf())
            position += 512 + half
        target.truncate(position + 1_024)
    with pytest.raises(manifest.TooBig):
        extract(source, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def _sized(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_n63_compressed_bomb_is_not_opened(tmp_path: Path, mode: str) -> None:
    """A 1000:1 bomb is refused at its first bytes: only plain archives are read, so nothing ever expands."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as tar:  # type: ignore[call-overload]
        tar.addfile(*_opened(file("bomb", bytes(10 << 20))))
    assert len(target.getvalue()) < 20_000
    refuse(tmp_path, target.getvalue(), "E-PKG-001")


def _opened(member: tuple[tarfile.TarInfo, bytes]) -> tuple[tarfile.TarInfo, io.BytesIO]:
    return member[0], io.BytesIO(member[1])


GOOD = archive(file("a", b"x" * 700), file("b"))


@pytest.mark.parametrize(
    "data",
    {
        "empty": b"", "one block": bytes(512)[:511], "text": b"hello world" * 100,
        "cut in a header": GOOD[:300], "cut in a file": GOOD[:1_000],
        "no end": GOOD[:1_536], "trailing": GOOD + b"x", "second archive behind the end": GOOD + GOOD, "checksum": b"b" + GOOD[1:],
        "binary size": GOOD[:124] + b"\x80" + bytes(10) + b"\x01" + GOOD[136:],
        "negative size": GOOD[:124] + b"-0000000001\0" + GOOD[136:],
        "v7": GOOD[:257] + bytes(8) + GOOD[265:],
        "pax bomb": archive(file("x", pax_headers={"path": "y" * 100_000}), form=tarfile.PAX_FORMAT),
        "pax size": archive(file("x", pax_headers={"size": "99999999"}), form=tarfile.PAX_FORMAT),
    }.items(),
    ids=lambda item: item[0],
)  # fmt: skip
def test_damaged_archive_is_refused(tmp_path: Path, data: tuple[str, bytes]) -> None:
    """What is not exactly one whole plain archive is refused, and two readers cannot see two archives."""
    refuse(tmp_path, data[1], "E-PKG-001")


def _global(fields: dict[str, str]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT, pax_headers=fields) as tar:
        tar.addfile(*_opened(file("a")))
    return target.getvalue()


def test_global_header_may_only_comment(tmp_path: Path) -> None:
    """`git archive` names the commit in a global header; one that renames every member is refused."""
    refuse(tmp_path, _global({"path": "../victim"}), "E-PKG-001")
    assert (accept(tmp_path, _global({"comment": "f" * 40})) / "a").read_bytes() == b"data"


def test_nul_in_a_long_name(tmp_path: Path) -> None:
    """A name with NUL, which a header cannot hold but an extension can, is refused, not cut."""
    data = archive(file("x" * 150 + "AAAA"), form=tarfile.PAX_FORMAT)
    refuse(tmp_path, data.replace(b"x" * 146 + b"xxxxAAAA", b"x" * 146 + b"xxxx\0/..", 1), "E-PKG-004")


def test_existing_tree_is_never_written_into(tmp_path: Path) -> None:
    """A tree or a link that is there already stops the extractor."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tree").symlink_to("elsewhere")
    (tmp_path / "source.tar").write_bytes(GOOD)
    with pytest.raises(UnpackFailed):
        extract(tmp_path / "source.tar", tmp_path / "tree")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("call", ["sendfile", "mkdir", "symlink", "link", "fchmod"])
def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The disk may refuse at the N-th call, for every N: then there is no tree."""
    (tmp_path / "source.tar").write_bytes(archive(folder("d"), file("d/a"), file("b"), link("l", "b"), hard("h", "b")))
    real = getattr(os, call)
    left = 0

    def fail(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(extracting.os, call, fail)
    for number in range(1, 20):
        left = number
        try:
            extract(tmp_path / "source.tar", tmp_path / "tree")
        except StepFailed:
            assert not (tmp_path / "tree").exists()
        else:
            assert number > 1
            return
    pytest.fail("it never succeeded")


PARTS = st.sampled_from(["a", "b", "A", "..", ".", "", "c" * 300, "\x00", "é", "e\u0301", ".enjin", "/"])
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(PATHS, KINDS, PATHS), max_size=8), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
@example([("a/b", tarfile.SYMTYPE, ".."), ("c", tarfile.SYMTYPE, "a/b/../x")], tarfile.GNU_FORMAT)
def test_no_archive_leaves_its_tree(tmp_path: Path, members: list[tuple[str, bytes, str]], form: int) -> None:
    """Property: whatever the archive, either nothing is written, or nothing outside, and no path resolves to outside."""
    jail = tmp_path / "jail"
    for name in ("jail", "source.tar"):
        subprocess.run(["rm", "-rf", str(tmp_path / name)], check=True)
    jail.mkdir()
    data = archive(*(thing(name, kind, target) if kind != tarfile.REGTYPE else file(name) for name, kind, target in members), form=form)
    (tmp_path / "source.tar").write_bytes(data)
    try:
        extract(tmp_path / "source.tar", jail / "tree")
    except Refused:
        assert list(jail.iterdir()) == []
        return
    assert [path.name for path in jail.iterdir()] == ["tree"]
    for path in (jail / "tree").rglob("*"):
        assert Path(os.path.realpath(path)).is_relative_to(jail / "tree")
        assert not stat.S_ISFIFO(path.lstat().st_mode)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_changed_byte_never_crashes_the_reader(tmp_path: Path, place: int, change: int) -> None:
    """One changed byte anywhere gives a tree or a refusal, never another exception."""
    shutil.rmtree(tmp_path / "tree", ignore_errors=True)
    data = bytearray(GOOD)
    data[place] ^= change
    (tmp_path / "source.tar").write_bytes(bytes(data))
    try:
        extract(tmp_path / "source.tar", tmp_path / "tree")
    except Refused:
        assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize(
    "line",
    [
        "web; rm -rf /: x", "$(x): y", "`x`: y", "web\x00: y", "-web: y", "../web: y", "Web: y", "w: y", "web_1: y",
        f"{'w' * 33}: y", "wéb: y",
        "web: a\x1bb", "web: a\rb", "web: a\x00b", "web: ", ": x", "web", "web : x : y\x7f", "[Service]", "web\u2028: x",
    ],
)  # fmt: skip
def test_n60_procfile_cannot_inject(line: str) -> None:
    """N59, N60: a process name is a label and a line is one line, or the Procfile is refused with the line's number."""
    with pytest.raises(BadProcfile) as caught:
        parse_procfile(b"# first\n" + line.encode() + b"\n")
    assert "Procfile line 2 " in caught.value.message
    assert caught.value.details["line"] == 2


def test_procfile_keeps_a_command_as_it_is() -> None:
    """What looks like an attack in a command is the app's own business: it is passed on unchanged, to a shell in the jail only."""
    command = "sh -c 'echo $(id); `id` && x | y > z' # ö"
    assert parse_procfile(f"web:   {command} \n\n# end\nworker: a:b\r\n".encode()) == {"web": command, "worker": "a:b"}
