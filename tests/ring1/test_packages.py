"""The store of blobs, and which releases may go."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enjin.errors import Invalid
from enjin.names import Digest
from ring1.packages import (
    BlobFailed,
    BlobStore,
    BlobTooLarge,
    NoSuchBlob,
    QuotaExceeded,
    Tree,
    WrongDigest,
    list_trees,
    releases_to_drop,
    trees_to_remove,
)


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def put(store: BlobStore, data: bytes, digest: str = "") -> int:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1_000):
            yield data[start : start + 1_000]

    return asyncio.run(store.put(Digest(digest) if digest else digest_of(data), pieces()))


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_blob_is_found_under_its_digest(tmp_path: Path) -> None:
    """What was put is there, read-only, byte for byte, and only once however often it is put."""
    store = BlobStore(tmp_path)
    data = b"x" * 2_500
    assert (put(store, data), put(store, data)) == (2_500, 2_500)
    path = store.path(digest_of(data))
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (data, 0o444)
    assert (store.digests(), store.used_bytes) == ([digest_of(data)], 2_500)


def test_wrong_digest_leaves_nothing(tmp_path: Path) -> None:
    """Bytes sent under another digest are refused, and no file stays."""
    store = BlobStore(tmp_path)
    with pytest.raises(WrongDigest):
        put(store, b"these", digest_of(b"others"))
    assert (files(tmp_path), store.used_bytes) == ([], 0)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "incoming", "0" * 64 + "\n"])
def test_bad_digest_is_no_path(tmp_path: Path, digest: str) -> None:
    """What is not 64 hex digits never becomes a part of a path."""
    store = BlobStore(tmp_path)
    for attempt in (store.path, store.has, store.receive, store.remove):
        with pytest.raises(Invalid):
            attempt(digest)  # type: ignore[operator, arg-type]


def test_quota_holds_while_bytes_arrive(tmp_path: Path) -> None:
    """Neither one blob nor two at once pass the quota, announced or not, and the room comes back."""
    store = BlobStore(tmp_path, quota_bytes=3_000, blob_bytes_max=2_000)
    with pytest.raises(BlobTooLarge):
        put(store, b"x" * 2_001)
    with pytest.raises(BlobTooLarge):
        store.receive(digest_of(b""), announced=2_001)
    with store.receive(digest_of(b"a")) as first, store.receive(digest_of(b"b")) as second:
        first.write(b"x" * 2_000)
        with pytest.raises(QuotaExceeded):
            second.write(b"x" * 1_001)
    assert (files(tmp_path), store.used_bytes) == ([], 0)
    assert put(store, b"y" * 2_000) == 2_000
    with pytest.raises(QuotaExceeded):
        store.receive(digest_of(b""), announced=1_001)


def test_killed_upload_is_swept_at_the_next_start(tmp_path: Path) -> None:
    """A temporary file that a killed daemon left is removed, the blobs are counted again."""
    store = BlobStore(tmp_path)
    put(store, b"kept")
    incoming = store.receive(digest_of(b"half"))
    incoming.write(b"ha")
    again = BlobStore(tmp_path)
    assert (files(tmp_path), again.used_bytes) == ([digest_of(b"kept")], 4)
    with incoming:
        pass


def test_disk_error_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk refuses to keep a blob, it is not there."""
    store = BlobStore(tmp_path)

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(BlobFailed):
        put(store, b"data")
    assert (files(tmp_path), store.used_bytes) == ([], 0)


def test_prune_spares_the_named_and_the_young(tmp_path: Path) -> None:
    """Only blobs that nobody names and that are old are removed."""
    store = BlobStore(tmp_path)
    for data in (b"named", b"old", b"young"):
        put(store, data)
    for data in (b"named", b"old"):
        os.utime(store.path(digest_of(data)), (1_000, 1_000))
    os.utime(store.path(digest_of(b"young")), (4_000, 4_000))
    assert store.prune([digest_of(b"named")], minimum_age_s=600, now_s=4_100) == [digest_of(b"old")]
    assert store.digests() == sorted([digest_of(b"named"), digest_of(b"young")])
    with pytest.raises(NoSuchBlob):
        store.path(digest_of(b"old"))
    assert store.remove(digest_of(b"old")) is False


def test_ten_releases_are_kept_and_never_a_live_one_lost() -> None:
    """The newest ten stay, and an older one that runs."""
    releases = {"app": [(number, f"{number:064x}") for number in range(1, 15)], "new": [(1, "f" * 64)]}
    assert releases_to_drop(releases, live=[f"{2:064x}"]) == {"app": [1, 3, 4]}
    assert releases_to_drop({"app": releases["app"][:10]}, live=[]) == {}


def test_shared_tree_stays(tmp_path: Path) -> None:
    """A tree goes only when no release of any app names it; foreign names in the folder are not ours."""
    for name in ("a" * 64, "b" * 64, "c" * 64, "notes", ".tmp"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ("a" * 64), (5, 5))
    trees = list_trees(tmp_path)
    assert trees[-1] == Tree("a" * 64, 5)
    assert trees_to_remove(trees, {"one": [(1, "a" * 64)]}, live=["b" * 64]) == ["c" * 64]
    assert list_trees(tmp_path / "absent") == []
