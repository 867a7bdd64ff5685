"""A person with a key: asks over the simulated bus as the command line does, repeats what was not answered, and notes what was."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from bus.caller import Caller
from bus.directory import read_directory
from bus.messages import Command, Query, Reply
from bus.speaker import Speaker
from enjin.canonical import from_text
from enjin.errors import EnjinError
from enjin.host import request_id
from keys.keyring import Keyring
from keys.trust import TrustSet
from tests.sim.bus import SimulatedNetwork
from tests.sim.loop import LIFE


class Told(NamedTuple):
    """What became of one wish: its request, the domain's ring, and the verified reply; None: nobody answered in time."""

    ring: int
    request: str
    kind: str
    reply: Reply | None

    @property
    def granted(self) -> bool:
        """Whether it was acknowledged."""
        return self.reply is not None and self.reply.ok


class Person:
    """One key, its grant, and everything that was answered to it."""

    def __init__(self, name: str, keyring: Keyring, account: str, root: str, grant: str, home: Path) -> None:
        self.name, self.keyring, self.account, self.grant = name, keyring, account, grant
        self.told: list[Told] = []
        self.asked: list[tuple[int, Command, str]] = []
        self._root, self._home = root, home
        self._networks: dict[int, SimulatedNetwork] = {}

    def join(self, networks: dict[int, SimulatedNetwork]) -> None:
        """Stand on these channels."""
        self._networks = networks

    def caller(self, ring: int) -> Caller:
        """Return a voice on the channel of *ring*, believing what the cloud's public directory says now. Raises: EnjinError."""
        directory = read_directory(self._home)
        reach = directory.reach(ring)
        trust = TrustSet(from_text(self._root))
        for text in (*directory.grants, self.grant):
            trust.add(from_text(text))
        channel = "ring0" if ring == 0 else f"ring1.{reach.domain}"
        speaker = Speaker(
            cloud=directory.cloud, channel=channel, issuer=self.account, grant=trust.add(from_text(self.grant)),
            signer=self.keyring.message, daemon=False,
        )  # fmt: skip
        transport = self._networks[ring].enter(f"{self.name} {LIFE.get().name} {len(self.told)} {request_id()}")
        return Caller(transport, speaker, trust, responder=reach.decider, ring=ring, home=reach.domain)

    async def wish(self, ring: int, command: Command, *, request: str = "", deadline_s: float = 30.0) -> Told:
        """Ask for *command* until the deadline and note the outcome."""
        request = request or str(request_id())
        if not any(known == request for _ring, _command, known in self.asked):
            self.asked.append((ring, command, request))
        reply: Reply | None = None
        try:
            caller = self.caller(ring)
            try:
                reply = await caller.command(command, rid=request, reason="simulated", deadline_s=deadline_s)
            finally:
                await caller.transport.close()
        except EnjinError:
            reply = None
        told = Told(ring, request, command.KIND, reply)
        self.told.append(told)
        return told

    async def ask(self, ring: int, query: Query, *, deadline_s: float = 10.0) -> Any:
        """Return the answer to *query*. Raises: EnjinError."""
        caller = self.caller(ring)
        try:
            return await caller.query(query, deadline_s=deadline_s)
        finally:
            await caller.transport.close()
