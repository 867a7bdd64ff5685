"""Facts about the end of a compartment: closing, condemned, destroyed, or kept after all.

Owns how these rows change, the same in ring 0, which decides it, and in ring 1, which holds what is in it. Decides nothing.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from bus.messages import Fact
from compartments.rows import Compartment, Containment
from compartments.rows_apps import Agent, SealingKey, UsedUid
from compartments.rows_endings import Ending
from compartments.world import World


class CompartmentClosing(Fact, kind="compartment.closing", kw_only=True):
    """A compartment is to be destroyed: nothing new is made in it. *asked* and *given* are the signed messages (base64url)."""

    compartment: str
    name: str
    asker: str
    asked: str = ""
    request: str = ""
    given: tuple[str, ...] = ()
    reason: str = ""
    time: int

    def apply(self, world: World) -> None:
        """Begin its end."""
        world.put(
            Ending(
                compartment=self.compartment, name=self.name, state="closing", asker=self.asker, asked=self.asked, request=self.request,
                given=self.given, reason=self.reason, since=self.time,
            )
        )  # fmt: skip


class CompartmentCondemned(Fact, kind="compartment.condemned", kw_only=True):
    """Nothing is left in a closing compartment: its key is destroyed, and it is not kept any more."""

    compartment: str
    time: int

    def apply(self, world: World) -> None:
        """Mark its end."""
        world.put(replace(world.need(Ending, self.compartment), state="condemned", condemned=self.time))


class CompartmentKept(Fact, kind="compartment.kept", kw_only=True):
    """A closing compartment is not destroyed after all, and open as before; *why* says what it holds."""

    compartment: str
    why: str
    time: int

    def apply(self, world: World) -> None:
        """Undo the closing."""
        world.put(
            replace(world.need(Ending, self.compartment), state="kept", why=self.why, ended=self.time, asked="", request="", given=())
        )


class CompartmentDestroyed(Fact, kind="compartment.destroyed", kw_only=True):
    """A condemned compartment is no more; its name is free. *uid* was its agent's (-1: it had none) and rests until *uid_free*."""

    compartment: str
    name: str
    asker: str
    reason: str = ""
    uid: int = -1
    uid_free: int = 0
    time: int

    def apply(self, world: World) -> None:
        """Remove the compartment, its edges, its key's row and its agent; what is left tells who did it and why."""
        world.delete(Compartment, self.compartment)
        for edge in (*world.find(Containment, child=self.compartment), *world.find(Containment, parent=self.compartment)):
            world.delete(Containment, edge.parent, edge.child)
        world.delete(SealingKey, self.compartment)
        world.delete(Agent, self.compartment)
        if self.uid >= 0:
            world.put(UsedUid(uid=self.uid, until=self.uid_free))
        known = world.need(Ending, self.compartment)
        world.put(replace(known, state="destroyed", ended=self.time, asked="", request="", given=()))


FACTS: Final = (CompartmentClosing, CompartmentCondemned, CompartmentKept, CompartmentDestroyed)
