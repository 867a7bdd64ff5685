"""Which strategies really work on this machine: each is tried, in a child with a deadline, and the answer says why.

Owns the trials and their words. A trial makes a tiny jail and lets it say one line; it leaves nothing. May import: enjin,
supervision.{cgroups,kernel,landlock,steps}.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Final

from enjin.host import monotonic_s
from supervision import kernel, landlock
from supervision.cgroups import Layout
from supervision.steps import Verdict

DEADLINE_S: Final = 5.0
BWRAP: Final = (
    "/usr/bin/bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1", "--new-session", "--clearenv",
    "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
    "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
)  # fmt: skip
NOBODY: Final = 65_534


def try_bubblewrap(uid: int | None, network: bool) -> str:
    """Return "" when bubblewrap makes a jail as *uid* (None: the caller), else why not."""
    line = [*BWRAP, *(["--unshare-net"] if network else []), "--", "/usr/bin/true"]
    if not os.access(BWRAP[0], os.X_OK):
        return "bubblewrap is not installed"
    try:
        options = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
        done: subprocess.CompletedProcess[bytes] = subprocess.run(  # type: ignore[call-overload]
            line, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S, check=False, **options
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"bubblewrap does not work: {error}"
    text = done.stderr.decode(errors="replace").strip().splitlines()
    return "" if done.returncode == 0 else f"bubblewrap does not work: {text[-1] if text else done.returncode}"


def try_namespaces(flags: int) -> str:
    """Return "" when a child can enter new namespaces of *flags* and mount its own /proc, else why not."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            kernel.unshare(flags)
            if os.fork() == 0:
                if flags & kernel.NEWPID and flags & kernel.NEWNS:
                    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
                    kernel.mount("proc", "/proc", "proc")
                os.write(write, b"ok")
            else:
                os.wait()
        except OSError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    try:
        said = _read_until(read, DEADLINE_S)
    finally:
        os.close(read)
        _end(pid)
    return "" if said == "ok" else said or "the trial did not end in time"


def _read_until(descriptor: int, deadline_s: float) -> str:
    import select

    end, data = monotonic_s() + deadline_s, b""
    while (left := end - monotonic_s()) > 0 and select.select([descriptor], [], [], left)[0]:
        part = os.read(descriptor, 4096)
        if not part:
            break
        data += part
    return data.decode(errors="replace")


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def probe_jail(privileged: bool) -> Verdict:
    """Try what strategy jail needs."""
    if not privileged or os.geteuid() != 0:
        return Verdict(works=False, reason="hands is not root, so it can neither give nodes uids of their own nor limit them")
    wanted = kernel.NEWNS | kernel.NEWPID | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS
    why = try_namespaces(wanted) or try_bubblewrap(NOBODY, network=True)
    layout = Layout.probe()
    if not why and not {"memory", "pids"} <= layout.controllers:
        why = "no usable control groups for memory and pids"
    if why:
        return Verdict(works=False, reason=why)
    versions = sorted({f"v{h.version}" for h in layout.hierarchies if h.controllers})
    reason = f"namespaces, bubblewrap and control groups ({', '.join(versions)}) were tried"
    return Verdict(works=True, reason=reason, isolation="namespaces, a root and uids of its own")


def probe_user(privileged: bool) -> Verdict:
    """Try what strategy user needs."""
    if not privileged or os.geteuid() != 0:
        return Verdict(works=False, reason="hands is not root, so it cannot give nodes uids of their own")
    version = landlock.abi()
    if version == 0:
        return Verdict(works=False, reason="this kernel has no landlock")
    why = try_namespaces(kernel.NEWNET)
    words = f"landlock ABI {version}" + ("" if version >= 6 else "; signals and abstract sockets are not covered below ABI 6")
    return Verdict(works=not why, reason=why or words, isolation=words)


def probe_process() -> Verdict:
    """Say what strategy process can isolate; it always works."""
    why = try_bubblewrap(None, network=False)
    if why:
        return Verdict(works=True, reason=why, isolation="no isolation")
    words = "user, mount, pid, ipc and uts namespaces; shared network and user"
    return Verdict(works=True, reason="bubblewrap works without privileges", isolation=words)
