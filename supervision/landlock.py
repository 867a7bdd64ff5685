"""Landlock: a process gives up the files, and the signals and sockets of others, that it does not need.

Owns the three system calls and the probe of the ABI, since older kernels know less. Used where there is no mount namespace (strategy user).
May import: supervision.kernel.

Source: landlock(7); kernel Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Final

from supervision import kernel

CREATE, ADD, RESTRICT = 444, 445, 446
EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIRECTORY: Final = 1 << 3
TRUNCATE: Final = 1 << 14
READ: Final = EXECUTE | READ_FILE | READ_DIRECTORY
SCOPES: Final = 3  # abstract Unix sockets, signals


def abi() -> int:
    """Return the ABI of this kernel; 0 where it has no landlock."""
    try:
        return kernel.syscall(CREATE, 0, 0, 1)
    except OSError:
        return 0


def _handled(version: int) -> int:
    rights = (1 << 13) - 1
    for since, bit in ((2, 13), (3, 14), (5, 15)):
        rights |= 1 << bit if version >= since else 0
    return rights


def restrict(readable: Iterable[str], writable: Iterable[str]) -> int:
    """Leave the caller (and what it executes) only these trees; paths that do not exist are left out.

    From ABI 6 on it can also signal only its own descendants, and connect only to their abstract sockets. Needs no_new_privs.
    Returns the ABI used.
    """
    version = abi()
    handled = _handled(version)
    attributes = struct.pack("=QQQ", handled, 0, SCOPES) if version >= 6 else struct.pack("=Q", handled)
    ruleset = kernel.syscall(CREATE, attributes, len(attributes), 0)
    try:
        for paths, rights in ((readable, READ), (writable, handled)):
            for path in paths:
                _add(ruleset, path, rights & handled)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.syscall(RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _add(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | 1 << 15
        kernel.syscall(ADD, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)
