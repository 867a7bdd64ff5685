"""Taking over a pid that another process had, for tests of whoever is taken for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def recycle(pid: int) -> subprocess.Popen[bytes]:
    """Return a process that has just this pid."""
    strangers = []
    try:
        for _ in range(500):
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
            stranger = subprocess.Popen(["/usr/bin/sleep", "1000"])
            if stranger.pid == pid:
                return stranger
            strangers.append(stranger)
        pytest.skip("the pid could not be taken again")
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait()
