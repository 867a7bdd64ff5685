"""A real cloud for tests and figures: raised by `enjin up`, driven by `enjin`, removed by `enjin down --destroy`.

Owns nothing of the product: everything goes through the command line and HTTP, as a user would, and through /proc to see (and kill)
processes. Each cloud has a state folder, a configuration folder and ports of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.places import free_port_base, temporary_home

ROOT = Path(__file__).resolve().parent.parent
ENJIN = Path(sys.executable).parent / "enjin"
COMMAND_S_MAX = 110.0
LOG_SHOWN = 20_000  # characters of each log that a cloud left which did not come up


class CommandFailed(AssertionError):
    """A command of the cloud did not end with status 0."""


class Process(NamedTuple):
    """One living process of a cloud."""

    pid: int
    parent: int
    argv: tuple[str, ...]

    @property
    def line(self) -> str:
        """The command line as text."""
        return " ".join(self.argv)


class Response(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes


def wait_for(what: Callable[[], Any], seconds: float, name: str = "") -> Any:
    """Return the first true value of *what*, asked every few milliseconds.

    Raises:
        TimeoutError: It had none within *seconds*.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {name or what}")
        time.sleep(0.005)


def process_table() -> dict[int, Process]:
    """Return every living process of the machine."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            words = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] not in (b"Z", b"X"):
            found[int(name)] = Process(int(name), int(fields[1]), tuple(words))
    return found


class Cloud:
    """One cloud with a folder and ports of its own."""

    def __init__(self, folder: Path, port_base: int, options: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.home = folder / "h"
        self.port_base = port_base
        self.options = options
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ENJIN_", "XDG_"))}
        self.environment = kept | {
            "ENJIN_HOME": str(self.home),
            "ENJIN_PORT_BASE": str(port_base),
            "XDG_CONFIG_HOME": str(folder / "c"),
            "XDG_STATE_HOME": str(folder / "s"),
            "NO_COLOR": "1",
        }

    def run(self, *words: str, check: bool = True, cwd: Path = ROOT, seconds: float = COMMAND_S_MAX) -> subprocess.CompletedProcess[str]:
        """Run `enjin` with *words*.

        Raises:
            CommandFailed: It failed, and *check* is set.
        """
        done = subprocess.run(
            [ENJIN, *words],
            env=self.environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if check and done.returncode != 0:
            raise CommandFailed(f"enjin {' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def json(self, *words: str) -> Any:
        """Return what `enjin WORDS --json` prints."""
        return json.loads(self.run(*words, "--json").stdout)

    def up(self) -> float:
        """Raise the cloud (or mend it) and return the seconds it took. Raises: CommandFailed, with what the cloud logged so far."""
        began = time.monotonic()
        try:
            self.run("up", *self.options)
        except CommandFailed as failed:
            logs = {path.name: path.read_text(errors="replace")[-LOG_SHOWN:] for path in sorted((self.home / "log").glob("*.log"))}
            logs["ring 0"] = self.run("node", "logs", "ring0", "--local", "-n", "200", check=False).stdout
            raise CommandFailed("\n".join([str(failed), *(f"--- {name}\n{text}" for name, text in logs.items())])) from failed
        return time.monotonic() - began

    def down(self) -> None:
        """Stop the cloud and remove all it has; what `enjin down` leaves is killed by process id.

        Raises:
            CommandFailed: `enjin down` did not do it.
        """
        running = self.processes()
        try:
            self.run("down", "--destroy", "--yes")
        finally:
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    if process_table().get(process.pid) == process:
                        self.kill(process)

    def push(self, source: Path, name: str, *options: str) -> dict[str, Any]:
        """Push *source* as app *name* and return the closing line of `--json`."""
        lines = self.run("push", str(source), "--app", name, "--json", *options).stdout.strip().splitlines()
        return dict(json.loads(lines[-1]))

    @property
    def router(self) -> tuple[str, int]:
        """Where the router listens."""
        return _place(self.json("status")["endpoints"]["router"])

    def get(self, app: str, path: str = "/", router: tuple[str, int] | None = None, seconds: float = 5.0) -> Response:
        """Ask *app* through the router, whose address must be asked for only once when it matters.

        Raises:
            OSError: Nobody answered.
        """
        place = router or self.router
        connection = http.client.HTTPConnection(*place, timeout=seconds)
        try:
            connection.request("GET", path, headers={"Host": f"{app}.localhost:{place[1]}", "Connection": "close"})
            answer = connection.getresponse()
            return Response(answer.status, answer.read())
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def answers(self, app: str, router: tuple[str, int] | None = None, path: str = "/") -> bool:
        """Tell whether *app* answers 200."""
        try:
            return self.get(app, path, router).status == 200
        except OSError:
            return False

    def processes(self) -> list[Process]:
        """Return the cloud's living processes: those that name its folder, and all below them."""
        table = process_table()
        roots = [process.pid for process in table.values() if any(str(self.home) in word for word in process.argv)]
        roots = [pid for pid in roots if "init" in table[pid].line]
        children: dict[int, list[int]] = {}
        for process in table.values():
            children.setdefault(process.parent, []).append(process.pid)
        found: dict[int, Process] = {}
        pending = list(roots)
        while pending:
            pid = pending.pop()
            if pid not in found:
                found[pid] = table[pid]
                pending.extend(children.get(pid, ()))
        return sorted(found.values())

    def find(self, *words: str) -> list[Process]:
        """Return the cloud's processes whose command line holds all of *words*."""
        return [process for process in self.processes() if all(word in process.line for word in words)]

    def kill(self, process: Process, number: int = signal.SIGKILL) -> None:
        """Send a signal to one process of this cloud."""
        os.kill(process.pid, number)


def _place(endpoint: str) -> tuple[str, int]:
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    return parts.hostname or "127.0.0.1", int(parts.port or 80)


@contextlib.contextmanager
def cloud(*options: str) -> Iterator[Cloud]:
    """Raise a cloud with *options* for `enjin up`, and remove it afterwards whatever happens."""
    with temporary_home() as folder:
        made = Cloud(folder, free_port_base(), options)
        try:
            made.up()
            yield made
        finally:
            made.down()
