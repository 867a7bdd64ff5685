"""Init as PID 1: in a pid namespace of its own, and as bubblewrap's first process."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.supervision.inits import DEADLINE_S, ROOT, alive, running, script, sleeper, wait_for
from tests.supervision.test_init import run

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
BWRAP = (
    "bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1", "--new-session", "--cap-drop", "ALL",
    "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
    "--ro-bind", str(ROOT), "/opt/enjin", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--clearenv",
)  # fmt: skip


def inside(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes of the pid namespace that *process* made for its children."""
    namespace = os.readlink(f"/proc/{process.pid}/ns/pid_for_children")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and alive(int(entry.name)):
            try:
                if os.readlink(entry / "ns/pid") == namespace:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_pid_1_reaps_restarts_and_keeps_sockets(as_root: None) -> None:
    """As PID 1 init takes every orphan, restarts what is killed, and its death is the end of the jail."""
    orphans = "import os\nfor _ in range(50):\n  if os.fork() == 0:\n    if os.fork() == 0: os._exit(0)\n    os._exit(0)\n  os.wait()"

    async def main() -> None:
        async with running({"services": [sleeper(restart="always")]}, wrapper=UNSHARE) as init:
            assert await init.pid() == 1
            assert (await init.until("job", lambda view: view["pid"]))["pid"] == 2
            await init.link.spawn(script(orphans, name="orphans"))
            assert (await init.until("orphans", lambda view: view["status"] is not None))["status"] == 0
            await init.link.signal("job", "SIGKILL")
            await init.until("job", lambda view: view["restarts"] == 1 and view["pid"])
            await wait_for(lambda: len(inside(init.process)) == 2, "all orphans to be gone")
            first = min(inside(init.process))
            os.kill(first, signal.SIGKILL)
            await asyncio.to_thread(init.process.wait, DEADLINE_S)
            await wait_for(lambda: not alive(first))

    run(main())


def test_pid_1_ends_in_order_on_sigterm_and_shrugs_off_other_signals(as_root: None) -> None:
    """SIGTERM ends services by their own signal; signals that init does not handle do nothing to PID 1 from within."""
    goodbye = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nprint('ready')\ntime.sleep(1000)"
    attack = "import os, signal\nfor n in (1, 2, 3, 6, 9, 11, 12, 13):\n  if n != 2: os.kill(1, n)"

    async def main() -> None:
        async with running(wrapper=UNSHARE) as init:
            await init.link.watch()
            await init.link.spawn(script(goodbye))
            await init.link.logs("job", 0, follow=True)
            await init.link.spawn(script(attack, name="attack"))
            await init.until("attack", lambda view: view["status"] is not None)
            assert await init.pid() == 1
            os.kill(min(inside(init.process)), signal.SIGTERM)
            statuses = {event["name"]: event["status"] async for event in init.link.events() if event["event"] == "exited"}
            assert statuses["job"] == 0
            assert await asyncio.to_thread(init.process.wait, DEADLINE_S) == 0

    run(main())


def test_pid_1_in_bubblewrap() -> None:
    """Bubblewrap runs init as PID 1 with no privilege at all; descriptors go in and out."""
    if shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap")

    async def main() -> None:
        program = Path("/opt/enjin/supervision/init/__main__.py")
        async with running(wrapper=BWRAP, program=program) as init:
            assert await init.pid() == 1
            listener = await init.link.listen("web", "127.0.0.1", 0)
            os.close(listener)
            source = "import os, socket; print(os.getpid(), os.getppid(), socket.socket(fileno=3).getsockname()[0])"
            await init.link.spawn(script(source, fds={"3": "listener:web"}))
            assert (await init.link.logs("job", 0, follow=True))["lines"][0][2] == "2 1 127.0.0.1"

    run(main())


