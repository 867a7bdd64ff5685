"""The processes of one tenant compartment: what ring 1 wants, by instance.

Owns the set of wanted instances and the commands that change it. Keeps nothing on disk: after a restart ring 1 says again
what it wants, and each process is found in its init. The shapes are ``supervision.instances``', for both rings.

INV-AGT-3: of two wishes for one instance the higher generation counts, whatever their order.

May import: enjin, bus, supervision, ring2.instance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

from bus.messages import Question, Role, Rule
from enjin import log
from enjin.errors import Conflict, Invalid, NotFound, Refused
from ring2.instance import Instance, Report
from supervision.instances import Lines, ReadLog, RunInstance, Status, StopInstance

INSTANCES_MAX: Final = 256
_log = log.get("agent")


class StaleGeneration(Conflict):
    """A wish is about an older generation of an instance than the one that is wanted."""

    code = "E-AGT-001"


class ForeignControl(Invalid):
    """The path of an init's control socket leaves the agent's home."""

    code = "E-AGT-002"


class UnknownInstance(NotFound):
    """The agent has no such instance."""

    code = "E-AGT-003"


class TooManyInstances(Refused):
    """The agent serves as many instances as it can."""

    code = "E-AGT-004"


class Processes:
    """The wanted instances.

    Args:
        home: Directory below which the control sockets lie.
        report: Sends an observation to ring 1.
        offset_us: Returns cloud time minus boot time.
    """

    def __init__(self, home: Path, report: Report, offset_us: Callable[[], int]) -> None:
        self._home, self._report, self._offset_us = home, report, offset_us
        self._instances: dict[str, Instance] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self, wish: RunInstance) -> Status:
        """Run an instance, or answer how it is when this generation is wanted already.

        Raises:
            StaleGeneration, ForeignControl, TooManyInstances.
        """
        path = PurePosixPath(wish.control)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise ForeignControl("the path of a control socket stays below the agent's home")
        known = self._instances.get(wish.instance)
        if known is not None:
            if known.wish.generation > wish.generation:
                raise StaleGeneration(f"{wish.instance} is wanted at generation {known.wish.generation}")
            if known.wish.generation == wish.generation:
                return known.status()
            await self._leave(wish.instance)
        elif len(self._instances) >= INSTANCES_MAX:
            raise TooManyInstances(f"an agent serves at most {INSTANCES_MAX} instances")
        instance = Instance(wish, self._home, self._report, self._offset_us)
        self._instances[wish.instance] = instance
        self._tasks[wish.instance] = asyncio.create_task(self._keep(instance))
        _log.info("instance.wanted", instance=wish.instance, generation=wish.generation, kind=wish.kind)
        return instance.status()

    async def stop(self, wish: StopInstance) -> Status:
        """End an instance and answer when it has ended; one that is not here has ended. Raises: StaleGeneration."""
        instance = self._instances.get(wish.instance)
        gone = Status(instance=wish.instance, generation=wish.generation, state="stopped")
        if instance is None:
            return gone
        if instance.wish.generation > wish.generation:
            raise StaleGeneration(f"{wish.instance} is wanted at generation {instance.wish.generation}")
        instance.stop(wish.grace_ms)
        await asyncio.wait({self._tasks[wish.instance]})
        return instance.status()

    async def logs(self, query: ReadLog) -> Lines:
        """Return lines of an instance. Raises: UnknownInstance, InitGone, InitUnknown."""
        instance = self._instances.get(query.instance)
        if instance is None:
            raise UnknownInstance(f"there is no instance {query.instance} here")
        return await instance.read_log(query.after)

    def states(self) -> list[Status]:
        """Return how every instance is."""
        return [instance.status() for instance in self._instances.values()]

    async def close(self) -> None:
        """Let go of every instance; their processes run on."""
        for name in tuple(self._instances):
            await self._leave(name)

    async def _leave(self, name: str) -> None:
        """Stop watching; the process is taken over, or ended, by whoever comes next."""
        del self._instances[name]
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _keep(self, instance: Instance) -> None:
        try:
            await instance.run()
        except Exception:
            _log.exception("instance.failed", **instance.about)
        if self._instances.get(instance.wish.instance) is instance:
            del self._instances[instance.wish.instance]
            del self._tasks[instance.wish.instance]


TABLE: Final = (
    Rule(RunInstance, Processes.run, allow=Role.SUPERVISOR),  # type: ignore[arg-type]
    Rule(StopInstance, Processes.stop, allow=Role.SUPERVISOR),  # type: ignore[arg-type]
    Question(ReadLog, Processes.logs, allow=Role.SUPERVISOR),  # type: ignore[arg-type]
)
"""What the agent obeys: the functions act, they decide nothing that would be journaled."""
