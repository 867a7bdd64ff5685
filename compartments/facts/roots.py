"""Facts about the root: which statement followed which."""

from __future__ import annotations

from typing import Final

from bus.messages import Fact
from compartments.rows import RootSuccessor
from compartments.world import World


class RootSucceeded(Fact, kind="root.succeeded"):
    """The root statement in *frame* (base64url) is in force after the one of the version before; *hash* is its own."""

    version: int
    hash: str
    frame: str
    time: int

    def apply(self, world: World) -> None:
        """Add the statement's row."""
        world.put(RootSuccessor(version=self.version, hash=self.hash, frame=self.frame, time=self.time))


FACTS: Final = (RootSucceeded,)
