"""The sealed releases on disk.

Owns the look at HOME/releases. Blobs are the HTTP door's (``bus.http.blobs``), sealing and removing trees is hands', and
which releases are kept is decided in ``rollouts``.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path


def list_trees(root: Path) -> frozenset[str]:
    """Return the digests of the sealed trees in *root*; what is not named by a digest is not ours to see."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(root):
            if re.fullmatch(r"[0-9a-f]{64}", entry.name) and entry.is_dir(follow_symlinks=False):
                found.add(entry.name)
    return frozenset(found)
