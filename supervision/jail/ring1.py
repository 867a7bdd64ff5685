"""The inside of a ring 1 jail, made by the child that becomes its PID 1.

Owns the order: as root of the host the tree is staged (nothing in it depends on who may read what on the way); then the user namespace and
with it all others; then, as root of that, /proc, the terminals and the temporary directories, and the old root is let go.

INV-RNG-1: all that was staged is locked for the jail: it cannot be unmounted, nor made writable, by the jail's root.
INV-RNG-2: no directory of the host is left reachable, not even beneath another mount.

May import: supervision.{confinement,kernel,steps} and this package.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from typing import Final, NamedTuple, NoReturn

from enjin.failpoints import failpoint
from supervision import kernel, seccomp
from supervision.confinement import Held, execute, set_limits
from supervision.jail import files
from supervision.steps import NodeSpec
from supervision.workshop import INSIDE_HOME, INSIDE_RUNTIME

NAMESPACES: Final = kernel.NEWUSER | kernel.NEWNS | kernel.NEWPID | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWCGROUP
DEVICES: Final = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0), "net/tun": (10, 200)}
TEMPORARY: Final = {
    "/tmp": "mode=1777,size=1g",
    "/run": "mode=755,size=64m",
    "/var/tmp": "mode=1777,size=1g",
    "/dev/shm": "mode=1777,size=256m",
}
SYS_MOUNT_SETATTR: Final = 442
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
BLOCK: Final = 65_536


class Plan(NamedTuple):
    """What the child needs, settled before the fork."""

    spec: NodeSpec
    stage: str
    runtime: str
    state: str
    binds: tuple[tuple[str, str, bool], ...]
    groups: tuple[tuple[str, str], ...]
    argv: tuple[str, ...]
    filters: bytes


def body(held: Held, plan: Plan) -> NoReturn:
    """Become the jail's PID 1: three words to and from the parent, then exec."""
    held.wait()
    set_limits(plan.spec.limits)
    _stage(plan)
    kernel.unshare(NAMESPACES)
    held.say("unshared")
    held.wait()
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    failpoint("jail.spawn")
    pid = os.fork()
    if pid:
        held.say(f"pid {pid}")
        os._exit(0)
    _inside(plan)
    execute(list(plan.argv), {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"})


def _set(path: str, attributes: int) -> None:
    kernel.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), AT_RECURSIVE, struct.pack("=QQQQ", attributes, 0, 0, 0), 32)


def _bind(plan: Plan, source: str, target: str, attributes: int) -> None:
    place = plan.stage + target
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    elif not os.path.lexists(place):
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    kernel.mount(source, place, None, kernel.MS_BIND | kernel.MS_REC)
    _set(place, attributes)


def _stage(plan: Plan) -> None:
    """Put the tree together, with the rights of the host's root."""
    kernel.unshare(kernel.NEWNS)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    owner = plan.spec.range
    kernel.mount("enjin", plan.stage, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"mode=755,size=16m,uid={owner},gid={owner}")
    for target, link in files.links().items():
        os.symlink(link, plan.stage + target)
    for path in ("/usr", *files.plain_directories()):
        _bind(plan, path, path, RDONLY | NOSUID | NODEV)
    for directory in ("/etc/ssl", "/proc", "/sys/fs/cgroup", "/dev", "/root", "/var/lib", "/home", "/mnt", *TEMPORARY):
        os.makedirs(plan.stage + directory, exist_ok=True)
    for path, text in files.generated(plan.spec).items():
        with open(plan.stage + path, "w") as file:
            file.write(text)
    os.symlink("/proc/mounts", plan.stage + "/etc/mtab")
    for path in files.shown():
        _bind(plan, os.path.realpath(path), path, RDONLY | NOSUID | NODEV)
    _bind(plan, plan.runtime, INSIDE_RUNTIME, RDONLY | NOSUID | NODEV)
    _bind(plan, plan.state, INSIDE_HOME, NOSUID | NODEV)
    for source, target, writable in plan.binds:
        _bind(plan, source, target, NOSUID | NODEV | (0 if writable else RDONLY))
    if os.path.isdir("/sys/devices/system/cpu"):
        _bind(plan, "/sys/devices/system/cpu", "/sys/devices/system/cpu", RDONLY | NOSUID | NODEV | NOEXEC)
    for source, key in plan.groups:
        _bind(plan, source, f"/sys/fs/cgroup/{key}".rstrip("/"), NOSUID | NODEV | NOEXEC)
    _devices(plan, owner)


def _devices(plan: Plan, owner: int) -> None:
    """Make the few devices; the host's own /dev/net/tun may be for root only, so it is a node of the jail's."""
    kernel.mount("enjin", f"{plan.stage}/dev", "tmpfs", kernel.MS_NOSUID | kernel.MS_NOEXEC, f"mode=755,size=64k,uid={owner},gid={owner}")
    for name, (major, minor) in DEVICES.items():
        path = f"{plan.stage}/dev/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.chmod(path, 0o666)
    for link, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")):
        os.symlink(target, f"{plan.stage}/dev/{link}")
    for directory in ("pts", "shm"):
        os.makedirs(f"{plan.stage}/dev/{directory}", exist_ok=True)


def _inside(plan: Plan) -> None:
    """Finish the tree as root of the new namespaces and let the old root go."""
    stage = plan.stage
    kernel.mount(stage, stage, None, kernel.MS_BIND | kernel.MS_REC)
    # Locked-down users and agents live in this very namespace: none of them sees another's processes.
    kernel.mount("proc", f"{stage}/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, "hidepid=2")
    kernel.mount("devpts", f"{stage}/dev/pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5")
    for path, options in TEMPORARY.items():
        kernel.mount("tmpfs", stage + path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    os.chdir(stage)
    kernel.pivot_root(".", ".")
    kernel.umount(".", kernel.MNT_DETACH)
    os.chdir("/")
    kernel.mount("none", "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV)
    with contextlib.suppress(OSError):
        kernel.mount("none", "/dev", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NOEXEC)
    kernel.sethostname(plan.spec.hostname or plan.spec.node)
    if plan.filters:
        kernel.seccomp_filter(plan.filters)


def map_ids(pid: int, first: int) -> None:
    """Map the 65,536 host uids and gids from *first* into the user namespace of *pid*."""
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(f"0 {first} {BLOCK}")


def filters() -> bytes:
    """Return the filter for a whole ring 1 jail: what its root needs from the kernel for its own jails stays."""
    return seccomp.ring1_program()
