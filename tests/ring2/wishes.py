"""Ring 2 decides nothing: its closed table acts, keeps no journal and makes no facts, so there is no decision to sample.

What `tests/test_pure_decisions.py` runs for the other rings is therefore empty here; that it stays so is checked when this is imported:
a function of ring 2's table that yielded facts would need a sample.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from bus.messages import Command, Moment, Table
from compartments.world import World
from ring2 import processes
from ring2.daemon import Agent

TABLE = Table.of()

if any(not inspect.iscoroutinefunction(row.decide) for row in Table.of(processes.TABLE).rules()) or not inspect.iscoroutinefunction(
    Agent.believe
):
    raise AssertionError("ring 2 has a decision: give it a sample here")


def examples() -> Iterator[tuple[World, Command, Moment]]:
    """Yield nothing."""
    yield from ()
