"""What carries one decider's channel, and going over to another bus while the cloud runs.

Owns the order of a move: the new broker beside the old, the decider on both, the word that the new one serves, a while in
which everybody follows, the end of the old. No daemon is started again and no command is refused: who has not moved yet is
heard and answered where it asks. Which bus is wanted the ring decides, from its own world.

INV-KEE-1: the old broker ends only after the decider has been heard on the new one for ``GRACE_S``.
INV-KEE-2: a move that was cut off ends, after the next start of the daemon, with the wanted broker and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from bus.moving import Both
from bus.transport import Transport
from compartments.domain import Domain
from enjin import log
from enjin.errors import EnjinError, InvariantError
from keys.trust import TrustSet
from supervision.hub_service import NAMES, close_quietly
from supervision.init_link import InitLink, InitUnknown

GRACE_S: Final = 5.0
AGAIN_S: Final = 0.5
END_MS: Final = 3_000


class Service(Protocol):
    """A broker as init runs it, and as the decider beside it uses it."""

    name: str

    def admit(self, trust: TrustSet, now: int) -> None:
        """Let those connect who are believed *now*, and nobody else."""

    def connect(self) -> Any:
        """Return the decider's own connection."""

    async def start(self, init: InitLink) -> None:
        """Have init run it."""

    async def run(self) -> None:
        """Keep it told who may connect, until cancelled."""


class User(Protocol):
    """Who speaks and hears on the decider's connection beside the dispatcher."""

    async def use(self, transport: Transport) -> None:
        """Speak and hear on *transport* from now on."""


class BusKeeper:
    """The bus of one domain.

    Args:
        domain: Whose channel it is.
        make: Makes the broker for a port of NATS; 0: ZeroMQ's hub.
        wanted: Returns the port that is wanted now.
        moved: Called when the decider is heard on another bus than before.
    """

    def __init__(self, domain: Domain, make: Callable[[int], Service], wanted: Callable[[], int], moved: Callable[[], None]) -> None:
        self._domain, self._make, self._wanted, self._told = domain, make, wanted, moved
        self._log = log.get("bus.keeper")
        self.port = wanted()
        self.service = make(self.port)
        self._fresh: Service | None = None
        self._init: InitLink | None = None
        self._changed = asyncio.Event()
        self.users: list[User] = []

    def admit(self) -> None:
        """Let those connect who are believed now, and look whether another bus is wanted."""
        for service in (self.service, self._fresh):
            if service is not None:
                service.admit(self._domain.trust, self._domain.journal.now())
        if self._wanted() != self.port:
            self._changed.set()

    async def start(self, init: InitLink) -> Transport:
        """Have the wanted broker run, and return the decider's connection to it."""
        self._init = init
        if (port := self._wanted()) != self.port:
            self.port, self.service = port, self._make(port)
        self.admit()
        await self._run(self.service)
        transport: Transport = self.service.connect()
        return transport

    async def _run(self, service: Service) -> None:
        """Have init run *service*, also when it was stopped before."""
        init = self._link()
        await service.start(init)
        views = {view["name"]: view for view in (await init.list())["services"]}
        if service.name in views and not views[service.name]["pid"] and not views[service.name]["wanted"]:
            await init.start(service.name)

    def _link(self) -> InitLink:
        if self._init is None:
            raise InvariantError("the bus is kept before it was started")
        return self._init

    async def run(self) -> None:
        """Keep the broker, and go over to another when one is wanted, until cancelled."""
        await self._end_others()
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self.service.run())
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self._wanted() == self.port:
                    continue
                try:
                    telling = await self._move(group, telling, self._wanted())
                except (EnjinError, OSError) as error:
                    self._log.warning("bus.not_moved", error=error)
                    await asyncio.sleep(AGAIN_S)
                    self._changed.set()
                else:
                    self.admit()

    async def _move(self, group: asyncio.TaskGroup, telling: asyncio.Task[None], port: int) -> asyncio.Task[None]:
        """Go over to the broker at *port* and return the task that keeps it told. Raises: what its start and connection do."""
        domain, old, old_transport = self._domain, self.service, self._domain.transport
        if old_transport is None:
            raise InvariantError("the domain is not served yet")
        importlib.invalidate_caches()  # what NATS needs may have come since we started
        fresh = await asyncio.to_thread(self._make, port)
        self._fresh = fresh
        self.admit()
        await self._run(fresh)
        transport = fresh.connect()
        told = group.create_task(fresh.run())
        both = Both(old_transport, transport)
        try:
            await domain.dispatcher.serve(transport)
            for user in self.users:
                await user.use(both)
        except BaseException:
            told.cancel()
            self._fresh = None
            await close_quietly(transport)
            raise
        domain.transport = both
        self.port, self.service, self._fresh = port, fresh, old
        self._log.info("bus.moved", broker=fresh.name)
        self._told()
        await asyncio.sleep(GRACE_S)
        domain.transport, self._fresh = transport, None
        telling.cancel()
        await close_quietly(old_transport)
        await self._end_others()
        return told

    async def _end_others(self) -> None:
        """End every broker of ours but the one that serves."""
        for name in NAMES:
            if name != self.service.name:
                with contextlib.suppress(InitUnknown):
                    await self._link().stop(name, END_MS)
