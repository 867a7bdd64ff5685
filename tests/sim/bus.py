"""The simulated bus: the in-memory network of ``bus.transport`` with latency, partitions and the deaths of processes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from bus.transport import Faults, MemoryNetwork, MemoryTransport
from tests.sim.loop import LIFE, Life


class SimulatedTransport(MemoryTransport):
    """One participant that belongs to a life: what a dead one says is never heard."""

    def __init__(self, network: SimulatedNetwork, name: str, life: Life) -> None:
        super().__init__(network, name)
        self.life = life

    async def publish(self, subject: str, frame: bytes) -> None:
        if self.life.alive:
            await super().publish(subject, frame)

    def receive(self, subject: str, frame: bytes) -> None:
        if self.life.alive:
            super().receive(subject, frame)


class SimulatedNetwork(MemoryNetwork):
    """One channel. Each delivery takes a time of its own, so messages overtake each other unless *ordered*."""

    def __init__(self, name: str, seed: int, *, ordered: bool = False) -> None:
        super().__init__(Faults(), seed)
        self.name, self.ordered = name, ordered
        self.latency_s = (0.0005, 0.004)
        self.carried = 0
        self.silenced: set[str] = set()
        self._chance = random.Random(f"{seed} {name}")

    def enter(self, name: str) -> SimulatedTransport:
        """Return a new participant for the process that asks; a pipe's end does not hear itself."""
        member = SimulatedTransport(self, name, LIFE.get())
        self._members[name] = member
        if self.ordered:
            self.cut(name, name)
        return member

    def send(self, sender: str, subject: str, frame: bytes) -> None:
        """Carry one frame as the faults and cuts allow; one whose subject is silenced is lost."""
        if subject not in self.silenced:
            super().send(sender, subject, frame)

    def heal(self) -> None:
        super().heal()
        self.silenced.clear()
        self.latency_s = (0.0005, 0.004)
        self.faults = Faults()
        if self.ordered:
            for name in self._members:
                self.cut(name, name)
        self.release()

    def _hand_over(self, name: str, subject: str, frame: bytes) -> None:
        member: Any = self._members.get(name)
        if member is None:
            return
        self.carried += 1
        delay = 0.001 if self.ordered else self._chance.uniform(*self.latency_s)
        asyncio.get_running_loop().call_later(delay, member.receive, subject, frame, context=member.life.context)
