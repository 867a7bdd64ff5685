"""Sealed trees: the same content gives the same digest, nothing in them can change, and what a release may not hold is refused."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from supervision.steps import BadStep, TooBig
from supervision.trees import remove, seal

OWNER = 0 if os.geteuid() == 0 else None


def make(root: Path, name: str = "out") -> Path:
    tree = root / name
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "run").write_text("#!/bin/sh\n")
    (tree / "bin" / "run").chmod(0o775)
    (tree / "data.txt").write_text("data")
    (tree / "link").symlink_to("bin/run")
    (tree / "python").symlink_to("/usr/bin/python3")
    return tree


def sealed(root: Path, name: str = "out", limit_bytes: int = 1 << 20, limit_entries: int = 100) -> str:
    return seal(root, name, root / "releases", limit_bytes, limit_entries, OWNER).digest


def test_the_same_content_has_the_same_digest(tmp_path: Path) -> None:
    """Times, owners and write permissions do not matter; content, names, links and the executable bit do."""
    make(tmp_path, "one")
    other = make(tmp_path, "two")
    os.utime(other / "data.txt", (1, 1))
    (other / "data.txt").chmod(0o600)
    first = sealed(tmp_path, "one")
    assert sealed(tmp_path, "two") == first
    assert not other.exists()
    for number, change in enumerate((
        lambda t: (t / "data.txt").write_text("Data"),
        lambda t: (t / "data.txt").chmod(0o755),
        lambda t: (t / "data.txt").rename(t / "data2.txt"),
        lambda t: (t / "empty").mkdir(),
        lambda t: ((t / "link").unlink(), (t / "link").symlink_to("data.txt")),
    )):  # fmt: skip
        change(make(tmp_path, f"other{number}"))
        assert sealed(tmp_path, f"other{number}") != first


def test_nothing_in_it_can_change(tmp_path: Path) -> None:
    """Every file and directory is read-only, without setuid bits, and under the digest's name."""
    tree = make(tmp_path)
    (tree / "bin" / "run").chmod(0o4755)
    target = tmp_path / "releases" / sealed(tmp_path)
    assert not tree.exists()
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) in (0o555, 0o444), path
    assert remove(tmp_path / "releases", target.name)
    assert not target.exists()
    assert not remove(tmp_path / "releases", target.name)


def test_a_file_with_another_name_is_copied(tmp_path: Path) -> None:
    """A hard link to a file of the tree that somebody kept outside does not reach into the release."""
    if OWNER is None:
        pytest.skip("needs root")
    tree = make(tmp_path)
    os.link(tree / "data.txt", tmp_path / "kept")
    target = tmp_path / "releases" / sealed(tmp_path)
    (tmp_path / "kept").write_text("changed")
    assert (target / "data.txt").read_text() == "data"
    assert sorted(path.name for path in target.iterdir()) == ["bin", "data.txt", "link", "python"]


@pytest.mark.parametrize("link", ["/etc/passwd", "../../outside", "bin/../../x", "/usr/../etc/passwd", "/app/../etc"])
def test_links_that_leave_are_refused(tmp_path: Path, link: str) -> None:
    """A link out of the release is refused, and the tree is not moved."""
    tree = make(tmp_path)
    (tree / "evil").symlink_to(link)
    with pytest.raises(TooBig):
        sealed(tmp_path)
    assert tree.exists()
    assert list((tmp_path / "releases").iterdir()) == [] if (tmp_path / "releases").exists() else True


def test_special_files_and_too_much_are_refused(tmp_path: Path) -> None:
    """A pipe, a socket, a device, too many bytes, too many entries or too deep a tree are refused."""
    for number, spoil in enumerate((
        lambda t: os.mkfifo(t / "pipe"),
        lambda t: socket.socket(socket.AF_UNIX).bind(str(t / "s")),
        lambda t: (t / "big").write_bytes(bytes(2 << 20)),
        lambda t: [(t / f"f{i}").touch() for i in range(200)],
        lambda t: (t / "/".join(["d"] * 80)).mkdir(parents=True),
    )):  # fmt: skip
        spoil(make(tmp_path, f"t{number}"))
        with pytest.raises(TooBig):
            sealed(tmp_path, f"t{number}")


def test_the_way_to_the_tree_follows_no_link(tmp_path: Path) -> None:
    """A link on the way to the tree is refused, for sealing and for removing."""
    make(tmp_path, "real")
    (tmp_path / "sly").symlink_to("real")
    with pytest.raises(BadStep):
        sealed(tmp_path, "sly")
    with pytest.raises(BadStep):
        sealed(tmp_path, "sly/bin")
    assert not remove(tmp_path, "sly/bin")
    assert remove(tmp_path, "sly")
    assert (tmp_path / "real" / "bin" / "run").exists()


def test_a_second_seal_after_a_crash_converges(tmp_path: Path) -> None:
    """A tree that was made read-only but not moved (a crash between) is sealed by the next try to the same digest."""
    first = sealed(tmp_path, "out") if make(tmp_path) else ""
    tree = make(tmp_path)
    for path in tree.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() or path.name == "run" else 0o444)
    assert sealed(tmp_path) == first
