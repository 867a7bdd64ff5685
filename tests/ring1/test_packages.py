"""Sealed releases are known by their digests."""

from __future__ import annotations

from pathlib import Path

from ring1.packages import list_trees


def test_only_trees_named_by_a_digest_are_seen(tmp_path: Path) -> None:
    """Other names, files and links are not ours; a directory that is not there holds nothing."""
    digest = "ab" * 32
    (tmp_path / digest).mkdir()
    (tmp_path / "half-done").mkdir()
    (tmp_path / ("cd" * 32)).write_text("a file")
    (tmp_path / ("ef" * 32)).symlink_to(tmp_path / digest)
    assert frozenset({digest}) == list_trees(tmp_path)
    assert frozenset() == list_trees(tmp_path / "absent")
