"""Packing a directory for a push."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ring1 import source
from ring1.source import BadDirectory, CannotPack, Packed, TooLarge, pack

GIT = shutil.which("git")


def packed(directory: Path) -> tuple[Packed, bytes]:
    target = io.BytesIO()
    return pack(directory, target), target.getvalue()


def names(directory: Path) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(packed(directory)[1])) as archive:
        return archive.getnames()


def fill(root: Path, *files: str) -> None:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {name}\n")


def git(root: Path, *arguments: str) -> None:
    quiet = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, env=quiet)


def test_default_leaves_out_what_nobody_pushes(tmp_path: Path) -> None:
    """Checkout, environments, bytecode and modules never go; the rest does, in the order of its bytes."""
    fill(tmp_path, "b.py", "a/x.py", ".git/config", ".venv/bin/python", "__pycache__/b.pyc")
    fill(tmp_path, "node_modules/x/y.js", "a/__pycache__/x.pyc", ".env")
    assert names(tmp_path) == [".env", "a/x.py", "b.py"]


def test_gitignore_without_git(tmp_path: Path) -> None:
    """Where there is no checkout, .gitignore files rule as git would let them: nearer and later wins."""
    fill(tmp_path, "keep.txt", "no.log", "yes.log", "sub/no.log", "sub/deep.log", "out/x", "sub/out/x")
    (tmp_path / ".gitignore").write_text("*.log\n!yes.log\n/out/\n")
    (tmp_path / "sub/.gitignore").write_text("!deep.log\n")
    assert names(tmp_path) == [".gitignore", "keep.txt", "sub/.gitignore", "sub/deep.log", "sub/out/x", "yes.log"]


def test_enjinignore_replaces_gitignore(tmp_path: Path) -> None:
    """.enjinignore rules alone: what git ignores can be pushed, what git tracks can stay."""
    fill(tmp_path, "built.js", "notes.txt", "app.py")
    (tmp_path / ".gitignore").write_text("built.js\n")
    (tmp_path / ".enjinignore").write_text("notes.txt\n")
    assert names(tmp_path) == [".enjinignore", ".gitignore", "app.py", "built.js"]


@pytest.mark.skipif(GIT is None, reason="git is not installed")
def test_checkout_sends_what_git_would(tmp_path: Path) -> None:
    """In a checkout tracked and new files go, ignored and deleted ones do not, and neither does anything above DIR."""
    git(tmp_path, "init", "-q")
    fill(tmp_path, "above.txt", "app/tracked.py", "app/new.py", "app/ignored.log", "app/deleted.py")
    (tmp_path / ".gitignore").write_text("*.log\n")
    git(tmp_path, "add", "app/tracked.py", "app/deleted.py")
    (tmp_path / "app/deleted.py").unlink()
    assert names(tmp_path / "app") == ["new.py", "tracked.py"]


@pytest.mark.skipif(GIT is None, reason="git is not installed")
def test_checkout_cannot_run_programs(tmp_path: Path) -> None:
    """A program that the checkout's own configuration names is not started by packing."""
    git(tmp_path, "init", "-q")
    fill(tmp_path, "app.py")
    hook = tmp_path / ".git" / "monitor"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    git(tmp_path, "config", "core.fsmonitor", str(hook))
    packed(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_same_tree_same_bytes(tmp_path: Path) -> None:
    """Times, owners, umask and order of creation leave no trace; contents, names and the execute bit do."""
    one, two = tmp_path / "one", tmp_path / "two"
    fill(one, "a", "b/c")
    fill(two, "b/c", "a")
    for root in (one, two):
        (root / "b/c").write_text("same")
        (root / "a").write_text("same")
    os.utime(two / "a", (1, 1))
    (two / "a").chmod(0o600)
    assert packed(one)[1] == packed(two)[1]
    (two / "a").chmod(0o700)
    assert packed(one)[0].digest != packed(two)[0].digest


def test_result_describes_the_bytes(tmp_path: Path) -> None:
    """Digest and size are those of what was written."""
    import hashlib

    fill(tmp_path, "a", "b")
    result, data = packed(tmp_path)
    assert (result.digest, result.size, result.entries) == (hashlib.sha256(data).hexdigest(), len(data), 2)


def test_links_inside_are_kept(tmp_path: Path) -> None:
    """A link whose every step stays inside is packed as a link."""
    fill(tmp_path, "sub/a")
    (tmp_path / "up").symlink_to("sub/a")
    (tmp_path / "sub/back").symlink_to("../up")
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path)[1])) as archive:
        assert {member.name: member.linkname for member in archive if member.issym()} == {"up": "sub/a", "sub/back": "../up"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub/../../outside", "."])
def test_links_outside_are_refused(tmp_path: Path, target: str) -> None:
    """A link that leaves is refused by name (the directory itself is inside)."""
    root = tmp_path / "root"
    fill(root, "sub/a")
    (root / "link").symlink_to(target)
    if target == ".":
        assert "link" in names(root)
        return
    with pytest.raises(CannotPack, match="link"):
        packed(root)


def test_sockets_and_pipes_are_refused(tmp_path: Path) -> None:
    """What is no file, directory or link is refused, unless it is ignored; a pipe is not waited for."""
    fill(tmp_path, "a")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CannotPack):
        packed(tmp_path)
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tmp_path)
        try:
            listener.bind("sock")
        finally:
            os.chdir(here)
        with pytest.raises(CannotPack):
            packed(tmp_path)
        (tmp_path / ".enjinignore").write_text("sock\n")
        assert names(tmp_path) == [".enjinignore", "a"]


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes are bounded at exactly the limit; a sparse file of 2 GiB costs nothing to refuse."""
    fill(tmp_path, "a", "b")
    monkeypatch.setattr(source, "ENTRIES_MAX", 2)
    assert len(names(tmp_path)) == 2
    monkeypatch.setattr(source, "ENTRIES_MAX", 1)
    with pytest.raises(TooLarge):
        packed(tmp_path)
    monkeypatch.undo()
    os.truncate(tmp_path / "a", 2 << 30)
    with pytest.raises(TooLarge):
        packed(tmp_path)


def test_nothing_to_push_is_refused(tmp_path: Path) -> None:
    """An empty directory, a file and a name that is not there are refused."""
    fill(tmp_path, "file", "empty/.git/x")
    for bad in (tmp_path / "empty", tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(BadDirectory):
            packed(bad)


def test_odd_names(tmp_path: Path) -> None:
    """Names with a line break or outside UTF-8 are refused; long, spaced and accented ones go."""
    fill(tmp_path, "ä ö/" + "x" * 200, "-rf")
    assert names(tmp_path) == ["-rf", "ä ö/" + "x" * 200]
    fill(tmp_path, "line\nbreak")
    with pytest.raises(CannotPack):
        packed(tmp_path)
    (tmp_path / "line\nbreak").unlink()
    with open(os.fsencode(tmp_path) + b"/\xff", "wb"):
        pass
    with pytest.raises(CannotPack):
        packed(tmp_path)


CONTENTS = st.dictionaries(st.from_regex(r"[a-d]{1,3}(/[e-h]{1,3}){0,2}", fullmatch=True), st.binary(max_size=600), min_size=1, max_size=8)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(CONTENTS)
def test_whatever_is_packed_unpacks_to_the_same(tmp_path: Path, contents: dict[str, bytes]) -> None:
    """Our packer's archives pass our extractor and give the same tree."""
    from ring2.packaging.extract import extract

    shutil.rmtree(tmp_path / "in", ignore_errors=True)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    wanted = {}
    for name, data in contents.items():
        path = tmp_path / "in" / name
        if any((tmp_path / "in" / other).is_file() for other in map(str, Path(name).parents)) or path.is_dir():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        wanted[name] = data
    archive = tmp_path / "source.tar"
    with open(archive, "wb") as file:
        result = pack(tmp_path / "in", file)
    extract(archive, tmp_path / "out", digest=result.digest)
    out = tmp_path / "out"
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == wanted
