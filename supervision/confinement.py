"""What a child of hands does between fork and exec: let go of everything of hands, then become what it shall be.

Owns the fork that can be held until its parent has prepared the world, and the order in which rights are given up. Strategies pass the part
that differs as a function. Nothing here may wait for a lock or start a thread: it runs in a forked copy of an event loop.

INV-CNF-1: a child inherits descriptors 0, 1, 2 and those it is given by number; everything else is closed before exec.
INV-CNF-2: a child that fails before exec says why on its report pipe and ends; it never returns into the parent's code.

May import: enjin, supervision.{kernel,seccomp,steps}.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from enjin.failpoints import failpoint
from supervision import kernel
from supervision.steps import Limits, NodeFailed

ERROR_LIMIT: Final = 4096
INIT_FILES: Final = 1024
ERROR_FILE_BYTES: Final = 65_536
F_ADD_SEALS, F_SEAL_SHRINK, F_SEAL_GROW = 1033, 2, 4


class Held:
    """The child's side: say something to the parent, wait for its word."""

    def __init__(self, report: int, go: int) -> None:
        self._report, self._go = report, go

    @property
    def descriptors(self) -> tuple[int, int]:
        return self._report, self._go

    def say(self, text: str) -> None:
        """Tell the parent one line."""
        os.write(self._report, text.encode() + b"\n")

    def wait(self) -> None:
        """Wait for the parent's word; its death ends this process."""
        if os.read(self._go, 1) != b"+":
            os._exit(126)


class Child:
    """The parent's side of a child that was forked and not yet released for good."""

    def __init__(self, pid: int, report: int, go: int, errors: int) -> None:
        self.pid = pid
        self._report, self._go, self._errors = report, go, errors
        os.set_blocking(report, False)

    def go(self) -> None:
        """Let the child take its next part."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._go, b"+")

    async def said(self, deadline_s: float) -> str:
        """Return the child's next line; "" when it has executed its program.

        Raises:
            NodeFailed: It failed, or said nothing in time.
        """
        data = await read_some(self._report, deadline_s, "a child says nothing")
        text = data.decode(errors="replace").strip()
        if text.startswith("failed: "):
            raise NodeFailed(text.removeprefix("failed: ") + self.errors())
        return text

    def errors(self) -> str:
        """Return what the program wrote on its standard error, shortened, for a message."""
        try:
            text = os.pread(self._errors, ERROR_LIMIT, 0).rstrip(b"\0").decode(errors="replace").strip()
        except OSError:
            return ""
        return f": {text[-400:]}" if text else ""

    def close(self) -> None:
        """Close the parent's descriptors."""
        for descriptor in (self._report, self._go, self._errors):
            with contextlib.suppress(OSError):
                os.close(descriptor)


async def read_some(descriptor: int, deadline_s: float, complaint: str) -> bytes:
    """Return what can be read from a nonblocking *descriptor*, b"" at its end."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, readable)
    try:
        async with asyncio.timeout(deadline_s):
            await ready
    except TimeoutError as error:
        raise NodeFailed(complaint) from error
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, ERROR_LIMIT)


def fork_held(body: Callable[[Held], NoReturn], keep: Iterable[int] = ()) -> Child:
    """Fork a child that runs *body*, with the descriptors *keep* under their numbers and standard error in a bounded file.

    *body* must wait for the parent before it does anything that the parent has to prepare.
    """
    report_read, report_write = os.pipe()
    go_read, go_write = os.pipe()
    errors = error_file()
    failpoint("held.spawn")
    pid = os.fork()
    if pid == 0:
        held = Held(report_write, go_read)
        try:
            _detach((report_write, go_read, *keep), errors, keep)
            body(held)
        except BaseException as error:
            with contextlib.suppress(OSError):
                held.say(f"failed: {type(error).__name__}: {error}")
        finally:
            os._exit(127)
    os.close(report_write)
    os.close(go_read)
    return Child(pid, report_read, go_write, errors)


def error_file() -> int:
    """Return a memory file of fixed size for a program's standard error: it can be read later and never grows."""
    descriptor = os.memfd_create("errors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, ERROR_FILE_BYTES)
    fcntl.fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)
    return descriptor


def _detach(stay: Iterable[int], errors: int, inherited: Iterable[int]) -> None:
    """Leave the parent's session, signal handling and descriptors behind."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.setsid()
    os.umask(0o022)
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.dup2(errors, 2)
    close_others({0, 1, 2, *stay})
    for descriptor in inherited:
        os.set_inheritable(descriptor, True)


def close_others(stay: set[int]) -> None:
    """Close every descriptor that is not in *stay*."""
    previous = -1
    for descriptor in (*sorted(stay), 1 << 30):
        if descriptor > previous + 1:
            os.closerange(previous + 1, min(descriptor, 1 << 20))
        previous = descriptor


def set_limits(limits: Limits, file_bytes: int = 0) -> None:
    """Set the resource limits that no control group covers; init itself needs some files, so a lower limit is its services' own."""
    files = max(limits.files, INIT_FILES)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        files = min(files, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def become(uid: int, gid: int | None = None) -> None:
    """Change to *uid* for good, without groups."""
    os.setgroups([])
    group = uid if gid is None else gid
    os.setresgid(group, group, group)
    os.setresuid(uid, uid, uid)


def execute(argv: list[str], environment: dict[str, str]) -> NoReturn:
    """Execute a program by its absolute path."""
    sys.stderr.flush()
    os.execve(argv[0], argv, environment)


def no_new_privileges() -> None:
    """Forbid the caller and its descendants to gain rights by executing anything."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
