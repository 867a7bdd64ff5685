"""Facts about the keys to which a compartment's secrets are sealed: condemned, destroyed, forgotten.

Owns how these rows change. Decides nothing. That a key is enrolled is a fact of ``apps``.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from bus.messages import Fact
from compartments.rows_apps import SealingKey
from compartments.world import World


class SealingKeyCondemned(Fact, kind="sealing-key.condemned", kw_only=True):
    """A key must be destroyed; nothing is sealed to it or opened with it any more."""

    compartment: str
    public: str
    time: int

    def apply(self, world: World) -> None:
        """Mark the key."""
        world.put(replace(world.need(SealingKey, self.compartment), state="condemned", condemned=self.time))


class SealingKeyShredded(Fact, kind="sealing-key.shredded", kw_only=True):
    """A condemned key is gone."""

    compartment: str
    public: str
    time: int

    def apply(self, world: World) -> None:
        """Mark the key."""
        world.put(replace(world.need(SealingKey, self.compartment), state="shredded", shredded=self.time))


class SealingKeyForgotten(Fact, kind="sealing-key.forgotten"):
    """A shredded key makes room for another one."""

    compartment: str

    def apply(self, world: World) -> None:
        """Delete the row."""
        world.delete(SealingKey, self.compartment)


FACTS: Final = (SealingKeyCondemned, SealingKeyShredded, SealingKeyForgotten)
