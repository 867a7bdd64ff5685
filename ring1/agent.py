"""One agent of ring 2 as ring 1 knows it: how to reach it, and what it has said of each instance since it began.

Owns that memory and nothing of how it is filled; nothing here binds anybody.

May import: enjin, bus, ring1.plan.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from bus.caller import Caller
from bus.over_pipe import PipeTransport
from ring1.plan import CRASHES_MAX, ProcessSeen

STATES: Final = {"stopped": "exited"}


class Life(NamedTuple):
    """How an instance's process has fared in one generation: it is started again within milliseconds, so ends are counted here."""

    generation: int
    exits: int = 0
    ready: bool = False


class Agent:
    """One compartment's agent and what it has said since it began."""

    def __init__(self, compartment: str, node: str) -> None:
        self.compartment, self.node = compartment, node
        self.grant = ""
        self.pipe: PipeTransport | None = None
        self.caller: Caller | None = None
        self.processes: dict[str, ProcessSeen] = {}
        self.lives: dict[str, Life] = {}

    def note(self, instance: str, generation: int, state: str, status: int, text: str) -> bool:
        """Take what it says of *instance* and return whether that is new; must be called in the order in which it was said."""
        held, life = self.processes.get(instance), self.lives.get(instance, Life(generation))
        if life.generation != generation:
            life = Life(generation)
        life = Life(generation, life.exits + (state == "exited"), life.ready or state == "ready")
        self.lives[instance] = life
        if life.exits >= CRASHES_MAX and not life.ready:
            if held is not None and held.state == "failed" and held.generation == generation:
                return False
            state = "failed"
        seen = ProcessSeen(generation=generation, state=STATES.get(state, state), status=status, text=text)  # type: ignore[arg-type]
        if held == seen:
            return False
        self.processes[instance] = seen
        return True
