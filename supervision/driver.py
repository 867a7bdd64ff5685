"""What every supervision strategy can do, whichever it is.

Owns the protocol between hands and a strategy. Implementations: jail, user, process (here), vm and cloud (later).
May import: enjin, supervision.steps.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from supervision.steps import NodeSpec, Running, Verdict


class Capabilities(msgspec.Struct, frozen=True):
    """What a strategy offers: plans depend on it."""

    sockets_passed: bool
    """Listening sockets go in by descriptor; else they are forwarded."""
    own_network: bool
    own_root: bool
    limits: bool


class Driver(Protocol):
    """A strategy of running nodes.

    Every call may be repeated at any point and converges. ``start`` of a node that runs in the same generation answers with it.
    """

    capabilities: Capabilities

    def probe(self) -> Verdict:
        """Try, within a deadline, whether this strategy works here."""
        ...

    async def prepare(self, spec: NodeSpec) -> None:
        """Make what a node needs before its processes: directories, limits."""
        ...

    async def start(self, spec: NodeSpec, listeners: dict[str, int]) -> Running:
        """Make the node run."""
        ...

    async def inspect(self, node: str) -> Running | None:
        """Say what is there of *node*; None when there is no record of it."""
        ...

    async def stop(self, node: str, grace_s: float) -> None:
        """End its processes; keep its state."""
        ...

    async def destroy(self, node: str, keep_state: bool) -> None:
        """Leave nothing of it."""
        ...

    async def recover(self) -> list[Running]:
        """Take up again what an earlier hands started."""
        ...
