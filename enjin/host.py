"""The only door to clock, random bytes and plain files.

Everything that is not a pure function of its arguments and touches time, chance or a file's durability goes through
here, so that a simulation can substitute one module and a test can make the N-th call fail.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import NamedTuple

from enjin.errors import Invalid, StepFailed
from enjin.failpoints import failpoint
from enjin.names import RequestId


class TooLarge(Invalid):
    """A file is larger than its reader allows."""

    code = "E-HST-001"


class FileFailed(StepFailed):
    """A file could not be read or written."""

    code = "E-HST-002"


class Clock(NamedTuple):
    """One reading of the host's clocks, in microseconds."""

    wall_us: int
    boot_us: int


def clock() -> Clock:
    """Return the wall clock (since 1970) and the boot-time clock (counts sleep, never runs back)."""
    return Clock(time.time_ns() // 1000, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000)


def boot_id() -> str:
    """Return what names this boot of the machine: the boot-time clock of another one says nothing about it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def monotonic_s() -> float:
    """Return seconds of a clock that never runs back, for deadlines."""
    return time.monotonic()


def random_bytes(count: int) -> bytes:
    """Return *count* bytes fit for keys."""
    return secrets.token_bytes(count)


def request_id(wall_us: int | None = None) -> RequestId:
    """Return a fresh UUIDv7 (RFC 9562, 5.7)."""
    milliseconds = (clock().wall_us if wall_us is None else wall_us) // 1000
    chance = int.from_bytes(random_bytes(10), "big")
    value = (milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | (chance >> 68 & 0xFFF) << 64 | 0b10 << 62 | chance & ((1 << 62) - 1)
    text = f"{value:032x}"
    return RequestId(f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}")


def read_bounded(path: Path | str, limit: int) -> bytes:
    """Return the file's bytes.

    Raises:
        FileNotFoundError: There is none.
        TooLarge: It holds more than *limit* bytes.
    """
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise TooLarge(f"{path} holds more than {limit} bytes")
    return data


def write_atomic(path: Path | str, data: bytes, mode: int = 0o644, owner: int | None = None) -> None:
    """Replace the file at *path* by *data* so that a crash leaves the old or the new bytes, on disk.

    Raises:
        FileFailed: The file system refused; the old file stands.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            os.fchmod(descriptor, mode)
            if owner is not None:
                os.fchown(descriptor, owner, owner)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            failpoint("file.sync")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        failpoint("file.rename")
        os.replace(temporary, target)
        sync_directory(target.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise FileFailed(f"cannot write {target}: {error.strerror}") from error


def sync_directory(path: Path | str) -> None:
    """Make the names in directory *path* durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        failpoint("directory.sync")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def process_start_time(pid: int) -> int | None:
    """Return the start time of process *pid* in clock ticks since boot; None when it is gone or a zombie.

    Source: proc(5), /proc/PID/stat fields 3 and 22.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
