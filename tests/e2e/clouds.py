"""A cloud under test, seen from outside: what its inits run, where its journals stand, what it leaves on the machine.

Owns nothing of the product. Goes through the command line, HTTP, the bus (with the operator's key), the inits' own control
sockets and /proc, so that a test can name exactly the process it kills and exactly what must still be there afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from bus.messages import Query
from bus.session import Session
from compartments.history import GetHead, VerifyAudit
from enjin import config as configuration
from enjin.errors import EnjinError
from enjin.host import process_start_time
from ring0.commands.cloud import collect
from supervision.init_link import InitLink
from tests.cloud import Cloud, Process, Response, process_table, wait_for

BACK_S = 30.0
CONNECTIONS = 8


class Head(NamedTuple):
    """Where a journal stands, and the digest of its projection."""

    number: int
    hash: str
    digest: str


class Started(NamedTuple):
    """A process that cannot be taken for another one."""

    pid: int
    start: int


class Raised(Cloud):
    """One cloud with everything of its own, keys included."""

    def __init__(self, folder: Path, port_base: int, options: tuple[str, ...] = ()) -> None:
        super().__init__(folder, port_base, options)
        self.keys = folder / "keys"
        self.environment |= {"ENJIN_KEYS": str(self.keys)}

    @property
    def config(self) -> configuration.Config:
        """The configuration that the command line has."""
        return configuration.load({}, self.environment)

    @property
    def tag(self) -> str:
        """The six digits in all its names on the host."""
        return str(self.json("status")["cloud"])[:6]

    @property
    def place(self) -> tuple[str, int]:
        """Where the router listens, without asking."""
        return "127.0.0.1", self.port_base + 1000

    # -- inits and processes -----------------------------------------------------------------------

    def init(self, ring: int) -> Path:
        """Return the control socket of a ring's init: on the host for ring 0, of the jail for ring 1."""
        if ring == 0:
            return self.home / "init/init.sock"
        found = sorted((self.home / "hands").glob("n-*.sock"))
        if len(found) != 1:
            raise FileNotFoundError(f"one ring 1 node was expected: {found}")
        return found[0]

    def services(self, ring: int) -> dict[str, dict[str, Any]]:
        """Return what a ring's init runs, by name; pids are the host's for ring 0 and the jail's own for ring 1."""

        async def ask() -> dict[str, Any]:
            async with await InitLink.connect(self.init(ring)) as init:
                return await init.list()

        return {service["name"]: service for service in asyncio.run(ask())["services"]}

    def written(self, ring: int) -> str:
        """Return every line that the services of a ring's init have written and init still holds."""

        async def ask() -> list[str]:
            lines: list[str] = []
            async with await InitLink.connect(self.init(ring)) as init:
                for service in (await init.list())["services"]:
                    after = 0
                    while part := (await init.logs(service["name"], after))["lines"]:
                        lines += [line[2] for line in part]
                        after = part[-1][0]
            return lines

        return "\n".join(asyncio.run(ask()))

    def one(self, *words: str) -> Started:
        """Return the one process whose command line has all of *words*."""
        found = self.find(*words)
        if len(found) != 1:
            raise LookupError(f"{len(found)} processes are {words}: {[process.line for process in found]}")
        return Started(found[0].pid, process_start_time(found[0].pid) or 0)

    def init_of(self, ring: int) -> Started:
        """Return the process of a ring's init."""
        if ring == 0:
            return self.one("supervision/init/", str(self.home))
        found = [known for record in (self.home / "hands/nodes").glob("n-*.json") if (known := _recorded(record))]
        if len(found) != 1:
            raise LookupError(f"{len(found)} ring 1 nodes run")
        return found[0]

    def processes(self) -> list[Process]:
        """Return the cloud's living processes; also those of its jail when ring 0's init was killed."""
        found = {process.pid: process for process in super().processes()}
        with contextlib.suppress(LookupError):
            pending, table = [self.init_of(1).pid], process_table()
            while pending:
                pid = pending.pop()
                if pid in table and pid not in found:
                    found[pid] = table[pid]
                pending += [process.pid for process in table.values() if process.parent == pid]
        return sorted(found.values())

    def service(self, ring: int, name: str) -> Started:
        """Return the process of a service as its init knows it, found on the host."""
        pid = self.services(ring)[name]["pid"]
        if ring:
            inside = {_pid_inside(process.pid): process.pid for process in self.processes()}
            pid = inside.get((self.init_of(ring).pid, pid), 0) if pid else 0
        if not pid:
            raise LookupError(f"{name} does not run")
        return Started(pid, process_start_time(pid) or 0)

    def wait_back(self, look: Callable[[], Started], killed: Started) -> Started:
        """Return the process that has taken the place of *killed*."""

        def another() -> Started | None:
            with contextlib.suppress(LookupError, OSError, EnjinError):
                found = look()
                return found if found != killed and found.start else None
            return None

        found: Started = wait_for(another, BACK_S, f"another process instead of {killed.pid}")
        return found

    # -- the world -----------------------------------------------------------------------------------

    def ask(self, ring: int, query: Query, seconds: float = 20.0) -> Any:
        """Ask a ring's decider over the bus."""

        async def work() -> Any:
            async with await Session.open(self.config) as session:
                return await session.query(ring, query, deadline_s=seconds)

        return asyncio.run(work())

    def tell(self, ring: int, wish: Any, reason: str = "", rid: str = "") -> Any:
        """Want something of a ring's decider over the bus."""

        async def work() -> Any:
            async with await Session.open(self.config) as session:
                return await session.command(ring, wish, reason=reason, rid=rid)

        return asyncio.run(work())

    def head(self, ring: int) -> Head:
        """Return where a ring's journal stands."""
        found = self.ask(ring, GetHead())
        return Head(found["number"], found["hash"], found["digest"])

    def verify(self, ring: int) -> dict[str, Any]:
        """Return what a ring says of chain and signatures of its whole journal."""
        found: dict[str, Any] = self.ask(ring, VerifyAudit())
        return found

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return every node by its label."""
        return {node["label"]: node for node in asyncio.run(collect(self.config))["nodes"]}

    def instances(self, app: str) -> list[dict[str, Any]]:
        """Return an app's instances."""
        found: list[dict[str, Any]] = self.json("ps", "--app", app)
        return found

    def journal(self, ring: int) -> Path:
        """Return the file of a ring's journal."""
        if ring == 0:
            return self.home / "ring0/journal.db"
        return next((self.home / "nodes").glob("n-*")) / "state/ring1/journal.db"

    def copy_journal(self, ring: int, folder: Path) -> Path:
        """Copy a ring's journal, with what is not yet in its main file, so that looking at it never touches it."""
        folder.mkdir(exist_ok=True)
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{self.journal(ring)}{suffix}", folder / f"journal.db{suffix}")
        with contextlib.closing(sqlite3.connect(folder / "journal.db")) as copy:
            copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return folder / "journal.db"

    # -- what must hold after a process was killed -----------------------------------------------------

    def settled(self, app: str) -> bool:
        """Tell whether both rings answer, and the app with every instance of it is ready."""
        try:
            ring1 = self.nodes()["ring1"]
            apps = [one for one in self.json("app", "list") if one["name"] == app]
        except Exception:
            return False
        return ring1["state"] == "running" and bool(apps) and apps[0]["state"] == "live" and self.answers(app, self.place)


class Load:
    """A steady load of requests through the router, on connections that are kept, and what failed of it."""

    def __init__(self, cloud: Raised, app: str) -> None:
        self.cloud, self.host = cloud, f"{app}.localhost:{cloud.place[1]}"
        self.answered, self.failures = 0, list[str]()
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask_again, name=f"load {number}") for number in range(CONNECTIONS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def wait_answers(self, count: int) -> None:
        """Wait until *count* more requests were answered, so that the load really ran meanwhile."""
        goal = self.answered + count
        wait_for(lambda: self.answered >= goal or self.failures, BACK_S, f"{count} more answers")

    def _ask_again(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._ending.wait(0.01):
            try:
                connection = connection or http.client.HTTPConnection(*self.cloud.place, timeout=10)
                connection.request("GET", "/", headers={"Host": self.host})
                answer = connection.getresponse()
                answer.read()
                wrong = "" if answer.status == 200 else f"status {answer.status}"
            except (OSError, http.client.HTTPException) as error:
                wrong, connection = repr(error), None
            with self._lock:
                if wrong:
                    self.failures.append(wrong)
                else:
                    self.answered += 1
        if connection is not None:
            connection.close()


@contextlib.contextmanager
def raised(folder: Path, port_base: int, *options: str) -> Iterator[Raised]:
    """Raise a cloud, and remove it afterwards whatever happens."""
    made = Raised(folder, port_base, options)
    try:
        made.up()
        yield made
    finally:
        made.down()


def write_app(folder: Path, **files: str) -> Path:
    """Write an app's files, ``__`` in a name standing for a dot, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def _recorded(record: Path) -> Started | None:
    """Return the process that a record of hands names, while it lives."""
    known = json.loads(record.read_text()).get("identity") or {}
    found = Started(known.get("pid", 0), known.get("started", 0))
    return found if found.pid and process_start_time(found.pid) == found.start else None


def _pid_inside(pid: int) -> tuple[int, int]:
    """Return the pid of the jail's init (1 inside) that a process is below, and its own pid in that namespace."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        parent = pid
        own = [int(word) for word in next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]]
        while len(own) == 2 and parent > 1:
            status = Path(f"/proc/{parent}/status").read_text()
            lines = {line.split(":")[0]: line.split()[1:] for line in status.splitlines()}
            if lines["NSpid"][-1] == "1":
                return parent, own[1]
            parent = int(lines["PPid"][0])
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        pass
    return 0, 0


def namespaces(pid: int) -> dict[str, str]:
    """Return the namespaces of a process."""
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in ("pid", "net", "user", "mnt", "ipc", "uts")}


__all__ = ["BACK_S", "Head", "Load", "Raised", "Response", "Started", "namespaces", "raised", "wait_for", "write_app"]
