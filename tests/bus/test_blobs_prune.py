"""Blobs that nothing names any more give their room back."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from bus.http.blobs import BlobStore
from enjin.names import Digest


def put(store: BlobStore, data: bytes) -> Digest:
    """Store *data* and return its digest."""

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    digest = Digest(hashlib.sha256(data).hexdigest())
    asyncio.run(store.put(digest, "somebody", chunks(), len(data)))
    return digest


def test_only_old_blobs_that_nothing_names_go(tmp_path: Path) -> None:
    """A blob that is wanted or young stays; what goes frees its account's quota."""
    store = BlobStore(tmp_path / "blobs")
    wanted, old, young = (put(store, text) for text in (b"wanted", b"old one", b"young"))
    for digest in (wanted, old):
        os.utime(store.path(digest), (1, 1))
    assert store.prune({str(wanted)}, 60) == 1
    assert tuple(store.path(digest).exists() for digest in (wanted, old, young)) == (True, False, True)
    assert len(b"wanted") + len(b"young") == store.used("somebody")
    assert store.prune({str(wanted)}, 60) == 0
