"""What acts on a machine's processes, simulated: init, hands and the HTTP listener. They outlive the daemons, as the real ones do."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

from enjin.errors import EnjinError
from supervision.init_link import InitUnknown
from supervision.steps import Done, InspectAll, Running, Seen, StartNode

TICK_S = 1.0


class Init:
    """One init: descriptors that it was given, and services that it was told to run."""

    def __init__(self, name: str, started: Callable[[str, dict[str, Any]], None], stopped: Callable[[str], None]) -> None:
        self.name, self.started, self.stopped = name, started, stopped
        self.ended: set[str] = set()
        self.given: dict[str, int] = {}
        self.services: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        """Give every descriptor back."""
        for descriptor in self.given.values():
            os.close(descriptor)
        self.given.clear()


class Link:
    """A daemon's connection to an init."""

    inits: ClassVar[dict[str, Init]] = {}

    def __init__(self, init: Init) -> None:
        self._init = init
        self.closed = False

    @classmethod
    async def connect(cls, address: Any) -> Link:
        return cls(cls.inits["ring1" if "nodes" in str(address) else "ring0"])

    async def __aenter__(self) -> Link:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        await asyncio.get_running_loop().create_future()
        yield {}

    async def watch(self) -> dict[str, Any]:
        return {"services": [{"name": name, "pid": 2, "wanted": True} for name in ("hands", "daemon")]}

    list = watch

    async def spawn(self, service: Any) -> dict[str, Any]:
        new = service["name"] not in self._init.services
        self._init.services[service["name"]] = dict(service)
        if new:
            self._init.started(service["name"], dict(service))
        return {"wanted": service["name"] not in self._init.ended, "pid": 2, "new": new}

    async def start(self, name: str) -> dict[str, Any]:
        if name in self._init.ended:
            self._init.ended.discard(name)
            self._init.started(name, self._init.services[name])
        return {"wanted": True, "pid": 2}

    async def stop(self, name: str, grace_ms: int = 0) -> dict[str, Any]:
        self._init.ended.add(name)
        self._init.stopped(name)
        return {"wanted": False, "pid": 0}

    async def take(self, handle: str) -> Any:
        """Return a descriptor; of a channel's end its name, which the simulated pipe takes for one."""
        return handle

    async def give(self, name: str, descriptor: int) -> str:
        self._init.given[name] = os.dup(descriptor)
        return f"listener:{name}"

    async def drop(self, handle: str) -> None:
        name = handle.partition(":")[2]
        if name not in self._init.given:
            raise InitUnknown(f"there is no {handle}")
        os.close(self._init.given.pop(name))

    async def channel(self, name: str) -> tuple[str, str]:
        return f"channel:{name}:0", f"channel:{name}:1"


class Hands:
    """Ring 0's hands: nodes that run once they were started, whatever becomes of the daemon that asked."""

    nodes: ClassVar[dict[str, Running]] = {}
    started: ClassVar[list[Callable[[str], None]]] = []

    def __init__(self, _channel: int, _exited: Any) -> None:
        self.steps = 0

    async def step(self, step: Any, shape: type, timeout_s: float = 60) -> Any:
        await asyncio.sleep(0.002)
        if isinstance(step, InspectAll):
            return Seen(nodes=tuple(self.nodes.values()))
        if isinstance(step, StartNode):
            spec = step.spec
            fresh = spec.node not in self.nodes
            self.nodes[spec.node] = Running(
                node=spec.node, generation=spec.generation, state="running", strategy=spec.strategy, purpose=spec.purpose, pid=2,
                control=f"nodes/{spec.node}/init.sock", isolation="simulated",
            )  # fmt: skip
            if fresh:
                for callback in self.started:
                    callback(spec.node)
            return self.nodes[spec.node]
        return Done()

    def close(self) -> None:
        """Nothing is open."""


class Door:
    """The HTTP door, at which nobody knocks."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        self._open = True

    async def serve(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        self._open = False


class Acting:
    """Ring 1's acting part with one thing to do: one compartment's agent runs."""

    def __init__(self, domain: Any, _identity: Any, _hands: int, agents: Any, *_more: Any) -> None:
        self._domain, self._agents = domain, agents
        self._moved = asyncio.Event()

    def poke(self) -> None:
        self._moved.set()

    def running(self) -> dict[str, Any]:
        return {}

    def logs(self) -> Any:
        return self._agents.read_log

    async def run(self) -> None:
        from compartments.rows import Compartment

        while (place := self._domain.world.first(Compartment, name="default")) is None:
            self._moved.clear()
            await self._moved.wait()
        await self._domain.journal.settled()
        while True:
            if place.id not in self._agents.running():
                with contextlib.suppress(EnjinError):  # as the real loop does: it tries again
                    await self._agents.run(place.id, 0)
            await asyncio.sleep(TICK_S)
