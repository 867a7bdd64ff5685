"""Where a test's cloud may live: a folder with a short path, and free ports.

Short, because the path of a Unix socket deep inside the folder has at most 107 bytes; in /var/tmp, because other uids must reach it.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

# The APIs listen at the base and after it, the router a thousand above: so bases are taken from every other thousand, all of them
# below the range from which the kernel takes ports for outgoing connections.
PORTS = 20
BASES = tuple(base for thousand in range(20_000, 32_000, 2_000) for base in range(thousand, thousand + 1_000, PORTS))


def mounts_below(folder: Path) -> list[str]:
    """Return the mount points below *folder*; a folder that has one is never removed."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [target for line in lines if (target := line.split()[4]).startswith(f"{folder}/")]


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """Make a folder, and remove it afterwards unless something is still mounted in it (then the leak check names it)."""
    folder = Path("/var/tmp") / f"enj{secrets.token_hex(3)}"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        if not mounts_below(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def free_port_base() -> int:
    """Return a port base whose ports nobody listens on, another one at (almost) every call."""
    start = secrets.randbelow(len(BASES))
    for base in BASES[start:] + BASES[:start]:
        if all(_is_free(port + offset) for port in (base, base + 1_000) for offset in range(PORTS)):
            return base
    raise OSError("no free ports")
