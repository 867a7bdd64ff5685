"""A whole cloud in one process: three rings, their machine, their bus and their disks, and the faults that a seed or a test chooses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import bus.journal.journal
import compartments.domain_journal
import ring0.caring
import ring0.children
import ring0.daemon
import ring1.agents
import ring1.daemon
import ring2.daemon
import supervision.hub_service
from bus.journal.reserve import Reserve
from compartments.identity import read_identity
from enjin import failpoints, host
from enjin.config import Config
from keys.operator import load_operator_key
from ring0.foundation import Foundation, found, read_foundation
from ring0.launch import write_build_settings
from ring0.registry import Registry
from tests.sim.bus import SimulatedNetwork
from tests.sim.disk import Disk
from tests.sim.loop import LIFE, Crashed, Life, VirtualLoop
from tests.sim.machine import Acting, Door, Hands, Init, Link
from tests.sim.person import Person

START_US: Final = 1_800_000_000_000_000
RESTART_S: Final = 0.2
RINGS: Final = ("ring0", "ring1", "ring2")


class Process:
    """One daemon under an init that starts it again: its disk, its life, and when it is going to die."""

    def __init__(self, name: str, disk: Disk | None, start: Callable[[Process], Awaitable[None]]) -> None:
        self.name, self.disk, self.start = name, disk, start
        self.life: Life | None = None
        self.parts: Any = None
        self.wanted = False
        self.points: Counter[str] = Counter()
        self.passed = 0
        self.dies_after: int | None = None
        self.dies_at = ""
        self.fault: Exception | None = None
        self.faults = 0
        self.power = False
        self.tearing = False
        self.deaths = 0
        self.wall_skew_us = 0
        self.died_at: list[str] = []


class Cloud:
    """Made, used and closed by one test.

    Args:
        root: An empty directory, best in memory.
        seed: Of everything that is left to chance.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed = root, seed
        self.chance = random.Random(seed)
        self.loop = VirtualLoop(lambda: self.chance.uniform(0.0002, 0.004))
        self.home = root / "h"
        self.networks: dict[str, SimulatedNetwork] = {}
        self.inits = {name: Init(name, self._service_started, self._service_stopped) for name in ("ring0", "ring1")}
        self.trace: list[str] = []
        self.persons: list[Person] = []
        self.processes: dict[str, Process] = {
            "ring0": Process("ring0", Disk(self.home, root / "spare0", "nodes"), self._start_ring0),
            "ring2": Process("ring2", None, self._start_ring2),
        }
        self._agent_service: dict[str, Any] = {}
        self.node = ""
        self._stack = contextlib.ExitStack()
        self._client = Life("person")
        try:
            self._enter()
        except BaseException:
            self._stack.close()  # else every test after this one would live on our time
            raise

    # -- what is substituted ------------------------------------------------------------------------

    def _enter(self) -> None:
        replace = self._replace
        replace(host, "time", SimpleNamespace(
            time_ns=lambda: self._wall_us() * 1000, clock_gettime_ns=lambda _clock: self._boot_us() * 1000,
            monotonic=lambda: self.loop.now_s, CLOCK_BOOTTIME=7,
        ))  # fmt: skip
        chance = random.Random(f"{self.seed} keys")
        replace(host, "secrets", SimpleNamespace(token_bytes=chance.randbytes, token_hex=lambda count: chance.randbytes(count).hex()))
        replace(supervision.hub_service, "connect", self._connect)
        replace(ring0.children, "connect", self._connect)
        for module in (ring0.daemon, ring0.children, ring1.daemon):
            replace(module, "InitLink", Link)
        replace(ring0.caring, "HandsLink", Hands)
        for module in (ring0.daemon, ring1.daemon):
            replace(module, "DomainDoor", Door)
        replace(ring1.daemon, "Acting", Acting)
        for module in (ring1.agents, ring2.daemon):
            replace(module, "PipeTransport", self._pipe)
        replace(compartments.domain_journal, "Reserve", lambda path: Reserve(path, size=4096, low=1024, free=lambda _folder: 1 << 30))
        replace(bus.journal.journal, "os", SimpleNamespace(_exit=self._exit))
        Link.inits, Hands.nodes, Hands.started = self.inits, {}, [self._node_started]
        self._stack.enter_context(failpoints.armed(self._reached))

    def _replace(self, module: Any, name: str, value: Any) -> None:
        before = getattr(module, name)
        setattr(module, name, value)
        self._stack.callback(setattr, module, name, before)

    def _boot_us(self) -> int:
        return 1_000_000_000 + int(self.loop.now_s * 1e6)

    def _wall_us(self) -> int:
        life = self.loop.current
        process = self.processes.get(life.name) if life is not None else None
        return START_US + int(self.loop.now_s * 1e6) + (process.wall_skew_us if process is not None else 0)

    def network(self, name: str, *, ordered: bool = False) -> SimulatedNetwork:
        """Return the channel called *name*."""
        if name not in self.networks:
            self.networks[name] = SimulatedNetwork(name, self.seed, ordered=ordered)
        return self.networks[name]

    def _connect(self, endpoint: str, *_keys: object) -> Any:
        return self.network("ring1" if "/nodes/" in str(endpoint) else "ring0").enter(LIFE.get().name)

    def _pipe(self, handle: str, _on_closed: Any = None) -> Any:
        return self.network(handle.split(":")[1], ordered=True).enter(handle)

    def _exit(self, _status: int) -> None:
        life = self.loop.current
        if life is not None and life.alive:
            self.kill(life.name)
        raise Crashed("the process ended itself")

    # -- lives ----------------------------------------------------------------------------------------

    def _reached(self, name: str) -> None:
        life = self.loop.current
        process = self.processes.get(life.name) if life is not None else None
        if process is None or process.life is not life or not process.life.alive:
            return
        process.points[name] += 1
        process.passed += not process.dies_at or process.dies_at == name
        if process.tearing and name == "journal.committed":
            self._die(process, name)
        if process.dies_after is None or process.passed < process.dies_after or process.tearing:
            return
        if process.fault is not None:
            fault, process.dies_after, process.dies_at, process.fault = process.fault, None, "", None
            process.faults += 1
            raise fault
        if process.power and name == "journal.commit" and process.disk is not None:
            process.disk.mark()
            process.tearing = True
            return
        self._die(process, name)

    def _die(self, process: Process, name: str) -> None:
        process.died_at.append(name)
        self.kill(process.name)
        raise Crashed(name)

    def kill(self, name: str, *, power: bool = False) -> None:
        """End process *name* now; its init starts it again unless it is not wanted."""
        process = self.processes[name]
        life = process.life
        if life is None or not life.alive:
            return
        life.alive = False
        process.deaths += 1
        self.trace.append(f"{self.loop.now_s:.6f} {name} died")
        if process.disk is not None:
            process.disk.hold()
            if process.tearing:
                process.disk.tear(self.chance)
        process.dies_after, process.dies_at, process.tearing, process.power = None, "", False, power
        for task in tuple(life.tasks):
            task.cancel()
        self.loop.call_later(RESTART_S, lambda: self._again(process), context=self._client.context)

    def _again(self, process: Process) -> None:
        """Start *process* once everything of its last life has let go of its files."""
        if process.life is not None and process.life.tasks:
            self.loop.call_later(0.01, lambda: self._again(process))
        elif process.wanted:
            if process.disk is not None:
                process.disk.restore()
            self.begin(process)

    def begin(self, process: Process) -> None:
        """Start a process."""
        process.life = Life(process.name)
        process.wanted, process.parts = True, None
        self.loop.create_task(self._run(process, process.life), context=process.life.context)

    async def _run(self, process: Process, life: Life) -> None:
        try:
            await process.start(process)
        except (Crashed, asyncio.CancelledError):
            return
        except Exception as error:
            if life.alive:
                self.trace.append(f"{self.loop.now_s:.6f} {process.name} failed: {error!r}")
                self.kill(process.name)
                raise

    async def _start_ring0(self, process: Process) -> None:
        foundation = read_foundation(self.home)
        assert foundation is not None
        process.parts = None
        parts = ring0.daemon.Ring0(self.home, foundation)
        process.parts = parts
        await parts.run(asyncio.Event())

    async def _start_ring1(self, process: Process) -> None:
        process.parts = None
        parts = ring1.daemon.Ring1(read_identity(self.inits["ring1"].given["identity"]), 3)
        process.parts = parts
        await parts.run(asyncio.Event())

    async def _start_ring2(self, process: Process) -> None:
        name = self._agent_service["name"]
        configuration = ring2.daemon.read_configuration(os.dup(self.inits["ring1"].given[name]))
        process.parts = ring2.daemon.Agent(configuration, self._agent_service["fds"]["3"])
        await process.parts.serve(asyncio.Event())

    def _node_started(self, node: str) -> None:
        self.node = node
        state = self.home / "nodes" / node / "state"
        for name in ("ring1", "blobs", "bus", "router"):
            (state / name).mkdir(parents=True, exist_ok=True)
        self.inits["ring1"].given["identity"] = os.dup(self.inits["ring0"].given[f"identity-{node}"])
        self.processes["ring1"] = Process("ring1", Disk(state, self.root / "spare1"), self._start_ring1)
        self.loop.call_later(0.05, lambda: self.begin(self.processes["ring1"]), context=self._client.context)

    def _service_started(self, name: str, service: dict[str, Any]) -> None:
        if name.startswith("agent-"):
            self._agent_service = service
            self.loop.call_later(0.05, lambda: self.begin(self.processes["ring2"]), context=self._client.context)

    def _service_stopped(self, name: str) -> None:
        """End an agent that is stopped, until it is started."""
        if name.startswith("agent-"):
            self.processes["ring2"].wanted = False
            self.kill("ring2")

    # -- driving ----------------------------------------------------------------------------------------

    def run(self, coroutine: Any) -> Any:
        """Run *coroutine* as the person to its end."""
        return self.loop.run_until_complete(self.loop.create_task(coroutine, context=self._client.context))

    def run_as(self, name: str, function: Callable[[], Any]) -> Any:
        """Return what *function* says within process *name*: by its own clock, for one."""
        life = self.processes[name].life
        assert life is not None

        async def call() -> Any:
            return function()

        return self.loop.run_until_complete(self.loop.create_task(call(), context=life.context))

    def advance(self, seconds: float) -> None:
        """Let *seconds* of virtual time pass."""
        self.run(asyncio.sleep(seconds))

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run *coroutine* as the person, beside what follows."""
        task: asyncio.Task[Any] = self.loop.create_task(coroutine, context=self._client.context)
        return task

    async def until(self, what: Callable[[], bool], seconds: float, name: str, why: Callable[[], object] = lambda: "") -> None:
        """Wait until *what*() holds. Raises: AssertionError after *seconds* of virtual time."""
        end = self.loop.now_s + seconds
        while not what():
            assert self.loop.now_s < end, f"not within {seconds:g} simulated seconds: {name} {why()}; {self.trace[-8:]}"
            await asyncio.sleep(0.05)

    def raise_cloud(self) -> None:
        """Found a cloud and let its three rings come up."""
        self._client.context.run(self._found)
        self.run(self._come_up())

    def _found(self) -> None:
        config = Config(home=str(self.home), keys=str(self.root / "keys"))
        self.foundation: Foundation = found(config, privileged=False, ring1="process", first_uid=-1, checkout="")
        write_build_settings(self.home, self.home / "runtime", Registry(environment={}, paths=()), (), os.geteuid())
        key = load_operator_key(config.keys, self.foundation.cloud)
        self.enlist(Person("operator", key.keyring(), key.account, key.root, key.grant, self.home))

    def enlist(self, person: Person) -> None:
        """Let *person* stand on the cloud's channels; the first one is the operator."""
        person.join({0: self.network("ring0"), 1: self.network("ring1")})
        self.persons.append(person)

    @property
    def operator(self) -> Person:
        """The person who founded the cloud."""
        return self.persons[0]

    def domain(self, name: str) -> Any:
        """Return the running Domain of process *name*."""
        return self.processes[name].parts.domain

    async def _come_up(self) -> None:
        from ring0.nodes import PlaceNode

        self.begin(self.processes["ring0"])
        await self.until(lambda: (self.home / "run" / "cloud.json").exists(), 10, "ring 0 publishes its directory")
        told = await self.operator.wish(0, PlaceNode(label="ring1", strategy="process"))
        assert told.granted, told
        await self.until(self.up, 20, "three rings run")

    def up(self) -> bool:
        """Whether every ring runs."""
        lives = [process.life for process in self.processes.values()]
        return (
            set(self.processes) == set(RINGS)
            and all(life is not None and life.alive for life in lives)
            and all(process.parts is not None for process in self.processes.values())
        )

    def doom(self, name: str, after: int, *, at: str = "", power: bool = False) -> None:
        """Let process *name* die when it passes its *after*-th I/O call from now on, or its *after*-th call of the point *at*.

        With *power* the machine's power goes: what was not synced is torn.
        """
        process = self.processes[name]
        process.passed, process.dies_after, process.dies_at, process.power, process.fault = 0, after, at, power, None

    def fail(self, name: str, at: str, fault: Exception) -> None:
        """Let the next call of the point *at* in process *name* fail with *fault*, as a disk fails."""
        self.doom(name, 1, at=at)
        self.processes[name].fault = fault

    def heal(self) -> None:
        """End every fault of the network, and every death that was planned."""
        self.run(self._heal())
        for process in self.processes.values():
            process.dies_after, process.dies_at = None, ""

    async def _heal(self) -> None:
        for network in self.networks.values():
            network.heal()

    def close(self) -> None:
        """End every process and give back what was replaced."""
        for process in self.processes.values():
            process.wanted = False
            if process.life is not None:
                process.life.alive = False
                for task in tuple(process.life.tasks):
                    task.cancel()
        try:
            self.run(self._let_go())
        finally:
            for init in self.inits.values():
                init.close()
            self._stack.close()
            self.loop.close()

    async def _let_go(self) -> None:
        for task in tuple(self._client.tasks - {asyncio.current_task()}):
            task.cancel()
        await self.until(
            lambda: not any(process.life is not None and process.life.tasks for process in self.processes.values()), 60, "tasks end"
        )


@contextlib.contextmanager
def simulated(root: Path, seed: int) -> Iterator[Cloud]:
    """A cloud that is up, and closed in the end."""
    cloud = Cloud(root, seed)
    try:
        cloud.raise_cloud()
        yield cloud
    finally:
        cloud.close()
