"""What a test run may leave on a machine, and whether it did.

Owns the snapshot of everything that enjin ever makes on a host: processes, network namespaces, links, mounts, control
groups, folders, users, units. `tests/conftest.py` takes one before the first test and one after the last and fails the
run with the names of what is new. A process belongs to the run when it descends from the run's own reaper (see
`adopt_orphans`), so a daemon that detached itself is still found.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
OURS = re.compile(r"^(enjin-|enj[0-9a-f]{6})")
FOLDERS = (
    ("/run", "enj*"),
    ("/var/lib", "enjin*"),
    ("/var/tmp", "enj[0-9a-f]*"),
    ("/tmp", "enjin*"),
    ("/etc/systemd/system", "enjin*"),
    ("/run/systemd/system", "enjin*"),
    ("/etc/enjin", "*"),
    ("/usr/local/bin", "enjin*"),
    ("/dev/shm", "enj*"),
)
SESSIONS = Path("/var/tmp") / f".enjin-test-sessions.{os.getuid()}"


def adopt_orphans() -> int | None:
    """Put the rest of this process under a parent of its own that inherits every orphan of the run.

    The parent only reaps, passes signals on and ends with the child's status. Without it a daemon that detaches would
    become a child of the machine's init and nobody could say whose it was.

    Returns:
        The parent's pid (in the child; the parent never returns).
    """
    child = os.fork()
    if child == 0:
        parent = os.getppid()
        return parent
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.stderr.write("cannot become a subreaper: detached processes will not be found\n")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def processes() -> dict[int, tuple[int, str, int]]:
    """Return every process: pid -> (parent, state, start time in ticks)."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(name)] = (int(fields[1]), fields[0].decode(), int(fields[19]))
    return found


def descendants(root: int) -> list[int]:
    """Return the living processes below *root*, without this one."""
    table = processes()
    children: dict[int, list[int]] = {}
    for pid, (parent, _state, _start) in table.items():
        children.setdefault(parent, []).append(pid)
    found, pending = [], list(children.get(root, ()))
    while pending:
        pid = pending.pop()
        pending.extend(children.get(pid, ()))
        if pid != os.getpid() and table[pid][1] not in "ZX":
            found.append(pid)
    return found


def describe(pid: int) -> str:
    """Return a line about process *pid*."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return f"process {pid}: {words[:160] or Path(f'/proc/{pid}/comm').read_text().strip()}"
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return f"process {pid}: (gone)"


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return []


def _control_groups() -> Iterator[str]:
    for folder, names, _files in os.walk("/sys/fs/cgroup"):
        for name in list(names):
            if OURS.match(name):
                yield f"control group {folder}/{name}"
                names.remove(name)
        if folder.count("/") >= 8:
            names.clear()


def things() -> set[str]:
    """Return everything on this machine that has a name only enjin gives, or that a test leaves."""
    found = {f"network namespace {name}" for name in _names("/run/netns") if OURS.match(name)}
    found |= {f"link {name}" for name in _names("/sys/class/net") if OURS.match(name)}
    found |= set(_control_groups())
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        target = line.split()[4]
        # `ip netns add` of a test binds the directory of namespaces onto itself: that has no name of ours, and is left all the same.
        if target == "/run/netns" or any(OURS.match(part) for part in target.split("/")):
            found.add(f"mount {target}")
    for folder, pattern in FOLDERS:
        found |= {f"path {path}" for path in Path(folder).glob(pattern)} if os.access(folder, os.R_OK) else set()
    for kind in ("passwd", "group"):
        for line in Path(f"/etc/{kind}").read_text(encoding="utf-8").splitlines():
            if OURS.match(line):
                found.add(f"{kind} entry {line.split(':')[0]}")
    return found


def settled(look: Callable[[], object], seconds: float) -> object:
    """Return what *look* finds once it is empty, or what is still there after *seconds*."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


class Session:
    """One run of the tests on this machine; several at once know of each other through a shared lock."""

    def __init__(self, reaper: int) -> None:
        self.reaper = reaper
        self.before = things()
        self._lock = os.open(SESSIONS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def alone(self) -> bool:
        """Tell whether no other run is going on, so that everything new must be ours."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def leaks(self) -> tuple[list[str], list[str]]:
        """Return what is certainly left by this run, and what is new but may be another run's."""
        living = settled(lambda: descendants(self.reaper), 5.0)
        certain = [describe(pid) for pid in living] if isinstance(living, list) else []
        new = settled(lambda: things() - self.before, 2.0)
        rest = sorted(str(item) for item in new) if isinstance(new, set) else []
        return (certain + rest, []) if self.alone() else (certain, rest)

    def end_processes(self) -> None:
        """Kill what this run left running, by process id."""
        for pid in descendants(self.reaper):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
