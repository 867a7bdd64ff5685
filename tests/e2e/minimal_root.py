"""A minimal Debian root, made by mmdebstrap, in namespaces of its own: as near to a new machine as a test can come.

Owns the root's folder and the namespaces (mount, pid, ipc, uts, network). Its network is user-mode: it can fetch packages, has a
loopback and ports of its own, and reaches nothing of this machine. How packages are fetched (sources, certificates) is this
machine's own setting.

What it does not prove is in `UNPROVEN`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cloud import ROOT, wait_for
from tests.places import temporary_home

UNPROVEN = (
    "the kernel and its settings are this machine's",
    "packages come over this machine's network, by its own sources and certificates",
    "PID 1 is a shell, so no systemd unit is made here",
    "the control groups are this machine's hierarchies",
)
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--net")
# PID 1 reaps whatever it inherits; a plain `sleep` would leave every orphan behind as a zombie.
FIRST = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $! || true; done"
# The root is changed by pivot_root, not chroot: a process in a chroot may make no user namespace.
ENTER = """
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs sysfs "$1/sys"
mount --rbind /sys/fs/cgroup "$1/sys/fs/cgroup"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
hostname minimal
mkdir -p "$1/old"
cd "$1"
pivot_root . old
cd /
umount -l /old
rmdir /old
exec /bin/sh -c "$2"
"""


class Root:
    """The root, while its namespaces live."""

    def __init__(self, tree: Path, pid: int) -> None:
        self.tree = tree
        self.pid = pid
        self.environment = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

    def run(
        self, *words: str, cwd: str = "/root", seconds: float = 300, user: int = 0, home: str = "/root"
    ) -> subprocess.CompletedProcess[str]:
        """Run *words* inside, with a new login's environment."""
        environment = self.environment | {"HOME": home}
        enter = ["nsenter", f"--target={self.pid}", *NAMESPACES, f"--wdns={cwd}"]
        drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        return subprocess.run(
            [*enter, *drop, "env", "-i", *(f"{key}={value}" for key, value in environment.items()), *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=seconds,
        )


def make_tree(tree: Path, packages: tuple[str, ...] = ()) -> None:
    """Fill *tree* with a minimal system and *packages*; this takes half a minute."""
    sources = next((str(path) for path in SOURCES if path.exists() and path.stat().st_size), None)
    include = [f"--include={','.join(packages)}"] if packages else []
    files = sorted(Path("/etc/apt/apt.conf.d").glob("*"))
    settings = [f"--aptopt={path}" for path in files if "Acquire::Check" in path.read_text(encoding="utf-8")]
    options = ["--quiet", "--variant=minbase", "--mode=root", *settings, *include]
    subprocess.run(
        ["mmdebstrap", *options, "bookworm", str(tree), *([sources] if sources else [])],
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    (tree / "etc/resolv.conf").write_text("nameserver 10.0.2.3\n", encoding="utf-8")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost minimal\n::1 localhost\n", encoding="utf-8")


def lend_certificates(root: Root) -> None:
    """Give the root the certificates by which this machine trusts its package registries, if it has such a setting."""
    for name in CERTIFICATES:
        source = os.environ.get(name)
        if source and Path(source).exists():
            target = root.tree / "etc/machine-certificates.pem"
            shutil.copyfile(source, target)
            target.chmod(0o644)
            root.environment[name] = "/etc/machine-certificates.pem"


def _inner_pid(holder: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text(encoding="utf-8").split()
    return int(children[0]) if children else 0


@contextlib.contextmanager
def minimal_root() -> Iterator[Root]:
    """Make the root and its namespaces, and remove them with everything that still runs inside."""
    with temporary_home() as folder, contextlib.ExitStack() as stack:
        tree = folder / "root"
        make_tree(tree)
        words = ["unshare", *NAMESPACES, "--fork", "--kill-child", "sh", "-euc", ENTER, "sh", str(tree), FIRST]
        holder = stack.enter_context(subprocess.Popen(words, stdin=subprocess.DEVNULL))
        stack.callback(holder.kill)
        pid = int(wait_for(lambda: _inner_pid(holder), 10, "the namespaces"))
        wait_for(lambda: b"sleep 3600" in Path(f"/proc/{pid}/cmdline").read_bytes(), 10, "the change of root")
        outside = stack.enter_context(
            subprocess.Popen(
                ["slirp4netns", "--configure", "--disable-host-loopback", "--mtu=65520", str(pid), "tap0"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        stack.callback(outside.terminate)
        root = Root(tree, pid)
        lend_certificates(root)
        wait_for(lambda: "tap0" in root.run("cat", "/proc/net/route").stdout, 10, "the network")
        yield root


def clone_checkout(root: Root, folder: str, owner: int = 0) -> None:
    """Put a clean clone of this checkout into the root at *folder*."""
    target = f"{root.tree}{folder}"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), target], check=True, capture_output=True)
    if owner:
        subprocess.run(["chown", "-R", f"{owner}:{owner}", target], check=True)
