"""A Debian root whose PID 1 is a real systemd, started by systemd-nspawn: where a cloud becomes a unit.

Owns the root's folder, the container and a control group of its own in each hierarchy. It has a network of its own with nothing but a
loopback, and sees this checkout at its own path, read-only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cloud import ENJIN, ROOT, wait_for
from tests.e2e.minimal_root import make_tree
from tests.places import temporary_home

PACKAGES = ("systemd", "systemd-sysv", "python3-venv", "bubblewrap", "haproxy", "iptables", "libseccomp2", "nftables", "slirp4netns")
HIERARCHIES = [path for name in ("memory", "pids", "cpu", "cpuacct") if (path := Path("/sys/fs/cgroup") / name).is_dir()]


class Booted:
    """The root, while its systemd runs."""

    def __init__(self, tree: Path, leader: int) -> None:
        self.tree = tree
        self.leader = leader

    def run(self, *words: str, seconds: float = 110) -> subprocess.CompletedProcess[str]:
        """Run *words* inside as root, as a new login would."""
        enter = ["nsenter", f"--target={self.leader}", "--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--wdns=/"]
        setting = ["env", "-i", "HOME=/root", "LANG=C.UTF-8", f"PATH={ENJIN.parent}:/usr/sbin:/usr/bin:/sbin:/bin"]
        return subprocess.run(
            [*enter, *setting, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=seconds
        )

    def show(self, unit: str, name: str) -> str:
        """Return property *name* of *unit*."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()


def _groups() -> set[Path]:
    """Return the groups that nspawn leaves in every hierarchy."""
    return {path for name in ("payload", "supervisor") for path in Path("/sys/fs/cgroup").rglob(name)}


def _leader(container: subprocess.Popen[bytes]) -> int:
    """Return the pid of the container's systemd; 0 while nspawn is still on the way to it."""
    for child in Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text(encoding="utf-8").split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text(encoding="utf-8") == "systemd\n":
                return int(child)
    return 0


def _end(container: subprocess.Popen[bytes], leader: int) -> None:
    """Tell systemd to halt (SIGRTMIN+4, systemd(1)), and do without it if it does not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(leader, signal.SIGRTMIN + 4)
    with contextlib.suppress(subprocess.TimeoutExpired):
        container.wait(20)
    if container.poll() is None:
        container.kill()
        container.wait()


def _remove_groups(own: list[Path], before: set[Path]) -> None:
    """Remove the container's groups; the kernel lets go of them a little after the last process."""
    extra = sorted(_groups() - before, reverse=True)

    def gone() -> bool:
        for top in (*own, *extra):
            for folder, _names, _files in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        return not any(top.exists() for top in (*own, *extra))

    with contextlib.suppress(TimeoutError):
        wait_for(gone, 10, "the end of the groups")


@contextlib.contextmanager
def booted_root() -> Iterator[Booted]:
    """Make the root, boot it, and remove it with everything that still runs inside."""
    before = _groups()
    with temporary_home() as folder, contextlib.ExitStack() as stack:
        tree = folder / "root"
        make_tree(tree, PACKAGES)
        # The packages' own service is none of ours.
        subprocess.run(["systemctl", f"--root={tree}", "disable", "haproxy.service"], check=True, capture_output=True)
        own = [hierarchy / f"enjin-boot-{folder.name}" for hierarchy in HIERARCHIES]
        stack.callback(_remove_groups, own, before)
        for group in own:
            group.mkdir()
        script = 'for group in "$@"; do [ "$group" = -- ] && break; echo $$ >"$group/cgroup.procs"; shift; done; shift; exec "$@"'
        words = ["systemd-nspawn", "--quiet", "-D", str(tree), "--boot", "--register=no", "--keep-unit", "--private-network"]
        words += ["--console=pipe", f"--bind-ro={ROOT}", "--bind=/dev/net/tun", "--capability=all", "--system-call-filter=@keyring bpf"]
        container = stack.enter_context(
            subprocess.Popen(
                ["sh", "-euc", script, "sh", *map(str, own), "--", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        stack.callback(container.kill)
        leader = int(wait_for(lambda: _leader(container), 20, "systemd"))
        stack.callback(_end, container, leader)
        root = Booted(tree, leader)
        wait_for(lambda: root.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"), 30, "the boot")
        # nspawn shows the controllers read-only; a machine of its own may write them.
        for hierarchy in HIERARCHIES:
            root.run("mount", "-o", "remount,rw,bind", str(hierarchy))
        yield root
