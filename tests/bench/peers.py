"""Bare isolation tools, measured as hands is: from the asking until the first instruction of the program inside.

`python -m tests.bench.peers TOOL COUNT` prints the milliseconds of each start as a JSON array; it is run as a process of its own, in a
mount namespace of its own, because crun refuses a machine with both kinds of control groups and must not see the unified one.
The program inside is one shell that writes a byte into a named pipe in a mounted folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.figures import Peer

UNIFIED = Path("/sys/fs/cgroup/unified")
PROGRAM = ("/bin/sh", "-c", "echo >/mnt/pipe")
WAIT_S = 10.0


def bwrap(folder: Path) -> list[str]:
    """Return the command for bubblewrap: every namespace, read-only root, no capabilities."""
    tree = ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind", str(folder), "/mnt"]
    return ["bwrap", "--unshare-all", "--cap-drop", "ALL", "--new-session", *tree, "--", *PROGRAM]


def nspawn(folder: Path) -> list[str]:
    """Return the command for systemd-nspawn on a tree that borrows the host's /usr."""
    tree = folder.parent / "tree"
    for name in ("usr", "etc", "mnt"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    shutil.copy("/etc/os-release", tree / "etc/os-release")
    for name in ("bin", "lib", "lib64", "sbin"):
        if not (tree / name).is_symlink():
            (tree / name).symlink_to(f"usr/{name}")
    options = ["--quiet", "--register=no", "--keep-unit", "--private-network", "--as-pid2", "--bind-ro=/usr", f"--bind={folder}:/mnt"]
    return ["systemd-nspawn", "-D", str(tree), *options, *PROGRAM]


def crun(folder: Path) -> list[str]:
    """Return the command for crun with a bundle that borrows the host's folders."""
    bundle = folder.parent / "bundle"
    (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
    subprocess.run(["crun", "spec"], cwd=bundle, check=False, capture_output=True)
    spec = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    spec["process"] |= {"args": list(PROGRAM), "terminal": False}
    bound = [(path, path, "ro") for path in ("/usr", "/bin", "/lib", "/lib64", "/sbin") if Path(path).exists()]
    for source, target, mode in (*bound, (str(folder), "/mnt", "rw")):
        spec["mounts"].append({"destination": target, "source": source, "type": "none", "options": ["rbind", mode]})
    spec["root"] = {"path": "rootfs", "readonly": False}
    (bundle / "config.json").write_text(json.dumps(spec), encoding="utf-8")
    name = f"enjbench{os.getpid()}"
    return ["crun", "--root", str(folder.parent / "state"), "run", "--bundle", str(bundle), name]


TOOLS: dict[str, Callable[[Path], list[str]]] = {"bwrap": bwrap, "nspawn": nspawn, "crun": crun}


def start_ms(command: list[str], folder: Path) -> float:
    """Run *command* and return the milliseconds until its program wrote into the pipe.

    Raises:
        OSError: It ended without, or wrote nothing in time.
    """
    pipe = os.open(folder / "pipe", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        began = time.perf_counter()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while not select.select([pipe], [], [], 0.25)[0]:
                if process.poll() not in (None, 0) or time.perf_counter() - began > WAIT_S:
                    process.kill()
                    said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
                    raise OSError(said.splitlines()[-1] if said else f"{command[0]} wrote nothing")
            taken = time.perf_counter() - began
            os.read(pipe, 16)
        return 1000 * taken
    finally:
        os.close(pipe)


def control_groups() -> set[Path]:
    """Return the control groups that nspawn leaves behind, if they are there."""
    return {path for name in ("payload", "supervisor") for path in Path("/sys/fs/cgroup").rglob(name)}


def measure(tool: str, count: int) -> list[float]:
    """Return the milliseconds of *count* starts of *tool*."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="enjbench") as name:
        folder = Path(name) / "mark"
        folder.mkdir()
        os.mkfifo(folder / "pipe")
        command = TOOLS[tool](folder)
        before = control_groups()
        try:
            start_ms(command, folder)
            return [start_ms(command, folder) for _ in range(count)]
        finally:
            for group in sorted(control_groups() - before, reverse=True):
                with contextlib.suppress(OSError):
                    group.rmdir()


def peer(tool: str, count: int) -> Peer:
    """Return *tool* as a peer, run in a process and a mount namespace of its own."""
    if os.geteuid() != 0 and tool != "bwrap":
        return Peer(tool, why="needs root")
    if shutil.which("systemd-nspawn" if tool == "nspawn" else tool) is None:
        return Peer(tool, why="not installed; ./bootstrap bench installs it")
    script = f'[ ! -d {UNIFIED} ] || mount -t tmpfs none {UNIFIED}; exec "$@"'
    hide = [] if os.geteuid() != 0 else ["unshare", "--mount", "sh", "-c", script, "sh"]
    command = [*hide, sys.executable, "-m", "tests.bench.peers", tool, str(count)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        return Peer(tool, why=(done.stderr.strip().splitlines() or ["it failed"])[-1][:100])
    return Peer(tool, statistics.median(json.loads(done.stdout)))


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
