"""A real hands for tests: in a home of its own, over a real channel, with a runtime copy that jails can use.

Owns `Rig` (hands as a child process, steps in and results out) and the making of specifications. Everything it starts it ends, also when a
test fails: hands is killed, then every node's groups, network namespace, links and mounts that bear the rig's tag are removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from supervision import steps
from supervision.cgroups import Groups
from tests.places import temporary_home

CHECKOUT = Path(__file__).resolve().parents[2]
FIRST_UID = 1_900_000_000
DEADLINE_S = 20.0
PACKAGES = ("msgspec", "pyroute2", "pyseccomp.py", "structlog")


class Failed(Exception):
    """Hands answered with an error."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(f"{code} {message}")
        self.code, self.message, self.hint = code, message, hint


def make_runtime(folder: Path) -> Path:
    """Make a runtime copy with just what hands and init need."""
    runtime = folder / "runtime"
    packages = runtime / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (runtime / "bin").mkdir(parents=True)
    packages.mkdir(parents=True)
    (runtime / "bin" / "python").symlink_to("/usr/bin/python3")
    (runtime / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    for name in ("enjin", "supervision"):
        shutil.copytree(CHECKOUT / name, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
    import msgspec as anchor

    site = Path(anchor.__file__).parents[1]
    for name in PACKAGES:
        if (site / name).is_dir():
            shutil.copytree(site / name, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(site / name, packages / name)
    return runtime


class Channel:
    """The daemon's end of a channel to some hands."""

    def __init__(self, ours: socket.socket) -> None:
        self.ours = ours
        self.events: list[dict[str, Any]] = []
        self.number = 0
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def said(self) -> str:
        """Return what this hands logged, for messages."""
        return ""

    def send(self, step: steps.Step, descriptors: tuple[int, ...] = ()) -> int:
        """Send a step without waiting for its answer."""
        self.number += 1
        data = msgspec.json.encode({"id": self.number, "step": step})
        socket.send_fds(self.ours, [data], list(descriptors))
        return self.number

    def answer(self, number: int, deadline_s: float = DEADLINE_S) -> Any:
        """Return the result of a step."""
        end = time.monotonic() + deadline_s
        while True:
            message = self._receive(end)
            if message.get("id") == number:
                if "error" in message:
                    raise Failed(**message["error"])
                return message["result"]

    def _receive(self, end: float) -> dict[str, Any]:
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.ours], [], [], left)[0]:
                raise TimeoutError(f"hands says nothing; its log: {self.said()[-2000:]}")
            message: dict[str, Any] = json.loads(self.ours.recv(1 << 20))
            if "event" in message:
                self.events.append(message)
            return message

    def do(self, step: steps.Step, descriptors: tuple[int, ...] = (), deadline_s: float = DEADLINE_S) -> Any:
        """Carry out a step."""
        return self.answer(self.send(step, descriptors), deadline_s)

    def event(self, node: str, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the event of a node that ended."""
        end = time.monotonic() + deadline_s
        while True:
            for event in self.events:
                if event.get("node") == node:
                    self.events.remove(event)
                    return event
            self._receive(end)


class Rig(Channel):
    """A hands of the host, started and killed by the test."""

    def __init__(self, home: Path, runtime: Path, **config: Any) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(ours)
        self.home, self.tag = home, secrets.token_hex(3)
        root = os.geteuid() == 0
        self.config = {
            "tag": self.tag, "home": str(home), "runtime": str(runtime), "privileged": root,
            "uids": [[FIRST_UID, FIRST_UID + 4 * 65_536 - 1]] if root else [], **config,
        }  # fmt: skip
        (home / "run").mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.uid: int | None = None
        self.interpreter = [sys.executable]
        self.environment = dict(os.environ)

    @property
    def bridge(self) -> str:
        """The bridge of this cloud's fabric."""
        return f"enj{self.tag}0"

    @property
    def netns(self) -> str:
        """The network namespace of this cloud's fabric."""
        return f"enjin-{self.tag}"

    def fabric(self) -> None:
        """Make the fabric."""
        self.do(steps.EnsureFabric(bridge=self.bridge, netns=self.netns, addresses=("10.80.0.1/24", "fd00:80::1/64")))

    def start(self) -> None:
        """Start hands."""
        path = self.home / "run" / "hands.json"
        path.write_text(json.dumps(self.config))
        self.log = open(self.home / "hands.log", "ab")  # noqa: SIM115
        line = [*self.interpreter, "-m", "supervision.hands", "--channel", str(self.theirs.fileno()), "--config", str(path)]
        who: dict[str, Any] = {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}
        self.process = subprocess.Popen(
            line, pass_fds=[self.theirs.fileno()], cwd=CHECKOUT if self.uid is None else "/",
            stdin=subprocess.DEVNULL, stderr=self.log, env=self.environment, **who,
        )  # fmt: skip

    def kill(self) -> None:
        """Kill hands, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.log.close()

    def said(self) -> str:
        return (self.home / "hands.log").read_text()

    def clean(self) -> None:
        """End and remove everything that bears the rig's tag."""
        self.kill()
        self.ours.close()
        self.theirs.close()
        if os.geteuid() != 0:
            return
        groups = Groups(self.tag)
        end = time.monotonic() + 5
        for node in groups.nodes():
            while (groups.processes(node) or not groups._remove(node)) and time.monotonic() < end:
                groups.kill(node)
        groups.remove_parent()
        space = f"/run/netns/enjin-{self.tag}"
        if os.path.exists(space):
            subprocess.run(["umount", "-l", space], check=False)
            with contextlib.suppress(OSError):
                os.unlink(space)


@contextlib.contextmanager
def rig(runtime: Path, **config: Any) -> Iterator[Rig]:
    """A running hands in a home of its own."""
    with temporary_home() as folder:
        home = folder / "h"
        home.mkdir(mode=0o711)
        home.chmod(0o711)
        one = Rig(home, runtime, **config)
        try:
            one.start()
            yield one
        finally:
            one.clean()


def ask_init(control: Path, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """Ask an init something over its control socket; return the result and descriptors that came with it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.settimeout(DEADLINE_S)
        link.connect(str(control))
        link.send(json.dumps({"id": 1, **request}).encode())
        data, descriptors, _, _ = socket.recv_fds(link, 1 << 16, 4)
    answer = json.loads(data)
    if "error" in answer:
        raise Failed(**{"hint": "", **{key: answer["error"][key] for key in ("code", "message")}})
    return answer["result"], descriptors


class Ring1(Channel):
    """A ring 1 jail and the hands inside it."""

    def __init__(self, outer: Rig, address: str = "10.80.0.2", **more: Any) -> None:
        self.outer, self.node = outer, node_name()
        self.home = outer.home / "nodes" / self.node / "state"
        self.tag = secrets.token_hex(3)
        self.home.mkdir(parents=True, mode=0o755)
        for path in (self.home.parent.parent, self.home.parent, self.home):
            path.chmod(0o755)
        (self.home / "run").mkdir()
        config = {"tag": self.tag, "home": "/var/lib/enjin", "runtime": "/opt/enjin", "uids": [[1000, 60_000]], "privileged": True}
        config |= more.pop("config", {})
        (self.home / "run" / "hands.json").write_text(json.dumps(config))
        first = FIRST_UID + 65_536
        for path in (self.home, self.home / "run", self.home / "run" / "hands.json"):
            os.chown(path, first, first)
        hands = steps.Service(
            name="hands", fds={"3": "channel:hands:0"}, env={"PATH": "/usr/sbin:/usr/bin"}, umask=0o022,
            argv=("/opt/enjin/bin/python", "-I", "-m", "supervision.hands", "--channel", "3", "--config", "/var/lib/enjin/run/hands.json"),
        )  # fmt: skip
        self.spec = steps.NodeSpec(
            node=self.node, generation=1, strategy="jail", purpose="ring1", range=first, hostname="ring1", channels=("hands",),
            interface=steps.Interface(bridge=outer.bridge, addresses=(f"{address}/24",)), services=(hands,),
            limits=steps.Limits(memory_bytes=1 << 30, processes=2000), **more,
        )  # fmt: skip
        self.running = outer.do(steps.StartNode(spec=self.spec))
        self.control = outer.home / self.running["control"]
        _, (channel,) = ask_init(self.control, {"op": "take", "handle": "channel:hands:1"})
        super().__init__(socket.socket(fileno=channel))
        self.do(steps.EnsureFabric(bridge="apps", addresses=("10.80.16.1/24", "fd00:16::1/64")))

    def said(self) -> str:
        return json.dumps(ask_init(self.control, {"op": "logs", "name": "hands"})[0])

    def close(self) -> None:
        self.ours.close()


def app_spec(place: Channel, number: int, **more: Any) -> steps.NodeSpec:
    """Return the specification of an app on the fabric of *place*, the *number*-th."""
    inner = isinstance(place, Ring1)
    network = "10.80.16" if inner else "10.80.0"
    six = "fd00:16" if inner else "fd00:80"
    bridge = "apps" if isinstance(place, Ring1) else place.bridge if isinstance(place, Rig) else ""
    values: dict[str, Any] = {
        "node": node_name(), "generation": 1, "strategy": "jail", "purpose": "app", "uid": 1000 + number if inner else FIRST_UID + number,
        "interface": steps.Interface(bridge=bridge, addresses=(f"{network}.{number}/24", f"{six}::{number}/64")),
        "limits": steps.Limits(memory_bytes=256 << 20, processes=128, cpu_millicores=1000), "services": (sleeper(),),
    }  # fmt: skip
    return steps.NodeSpec(**{**values, **more})


def run_inside(place: Channel, running: dict[str, Any], code: str, deadline_s: float = DEADLINE_S, **more: Any) -> Any:
    """Run Python *code* as a service of a node's init and return what it prints last, as JSON."""
    home = place.home  # type: ignore[attr-defined]
    control = home / running["control"]
    name = f"try-{secrets.token_hex(4)}"
    service = {"name": name, "generation": 1, "argv": ["/usr/bin/python3", "-I", "-c", code], "restart": "never", "log": True, **more}
    ask_init(control, {"op": "spawn", "service": service})

    def finished() -> Any:
        view = ask_init(control, {"op": "list"})[0]["services"]
        return next((one for one in view if one["name"] == name and not one["pid"]), None)

    view = wait_until(finished, deadline_s)
    lines = [text for _, _, text in ask_init(control, {"op": "logs", "name": name})[0]["lines"]]
    if view["status"] != 0 or not lines:
        raise AssertionError(f"{view}: {lines}")
    return json.loads(lines[-1])


def node_name() -> str:
    """Return a fresh node id."""
    return f"node-{secrets.token_hex(8)}"


def sleeper(name: str = "main", **more: Any) -> steps.Service:
    """A service that does nothing."""
    return steps.Service(name=name, argv=("/usr/bin/sleep", "1000"), **more)


def wait_until(condition: Any, deadline_s: float = 10.0) -> Any:
    """Return the first true value of *condition*."""
    end = time.monotonic() + deadline_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise TimeoutError("it did not become true in time")
        select.select([], [], [], 0.01)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def stop_process(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
