"""Telling others what happens: operations as they go on, and what instances write.

Owns two kinds of observation that followers of the API and of the bus get. What an agent signed is passed on unchanged.
"""

from __future__ import annotations

from bus.dispatch import Seen
from bus.messages import Observation
from compartments import graph
from compartments.domain import Domain
from compartments.rows import Compartment, Task
from supervision.instances import Logged


class OperationProgressed(Observation, kind="operation.progressed", kw_only=True):
    """How far a wish has come; *request* is its id, *reason* why it failed."""

    request: str
    app: str
    state: str
    stage: str = ""
    reason: str = ""


class Progress:
    """Follows the domain's tasks and its agents' logs."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._told: dict[str, tuple[str, str]] = {task.id: (task.state, task.stage) for task in domain.world.all(Task)}
        domain.on_change.append(self._changed)
        domain.observers[Logged.KIND] = self._relay

    def _changed(self) -> None:
        world = self._domain.world
        tasks = world.all(Task)
        for task in tasks:
            now = (task.state, task.stage)
            if self._told.get(task.id) != now:
                self._told[task.id] = now
                path = graph.path_text(world, task.compartment) if world.get(Compartment, task.compartment) is not None else ""
                progressed = OperationProgressed(request=task.id, app=task.subject, state=task.state, stage=task.stage, reason=task.reason)
                self._domain.tell_soon(progressed, path)
        if len(self._told) > 2 * len(tasks) + 100:
            self._told = {task.id: (task.state, task.stage) for task in tasks}

    async def _relay(self, seen: Seen) -> None:
        """Pass an agent's frame on, as it signed it."""
        await self._domain.relay(seen)
