"""The ring 2 agent: serves one tenant compartment on one ring 1 node, under a uid of its own.

``python -m ring2.daemon --channel FD --config FD``. Owns the wiring: frames on the channel go through every stage of
``bus.dispatch`` like anybody's; answers and observations are signed with the agent's own key and relayed by ring 1 unchanged.
The channel and the configuration are held by ring 1's init and survive the agent, which begins with nothing and is told anew.

May import: enjin, keys, bus, supervision, ring2. No database, no network to the bus.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from bus import roll_call
from bus.batches import pack
from bus.dispatch import Dispatcher, Handlers, Place
from bus.groups import groups_of
from bus.messages import Asker, Moment, Observation, Query, Question, Reply, Role, Rule, Table
from bus.over_pipe import PipeTransport
from bus.speaker import Speaker
from enjin import daemon, log
from enjin.canonical import canonical, from_text
from enjin.errors import ConfigError, EnjinError
from enjin.failpoints import failpoint
from enjin.host import clock
from keys.signing import Signer
from keys.trust import TrustSet
from ring2.processes import TABLE, Processes
from supervision.instances import AgentBegan, Logged, OfferGrants

CONFIG_MAX_BYTES: Final = 1 << 20
RING: Final = 2
_log = log.get("agent")


class BadConfiguration(ConfigError):
    """The agent's configuration cannot be used."""

    code = "E-AGT-005"


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ring 1 gives an agent on the descriptor ``--config``, as JSON.

    Args:
        cloud: Id of the cloud.
        channel: Name of the channel that the frames are for: ring 1's own, where it relays them.
        node: Subject id of the agent, as in its grant.
        supervisor: Subject id of ring 1's daemon, whom observations are for.
        domain: Subject id of ring 1's domain.
        compartment: Name of the tenant compartment, and *path* its path in grants.
        seed: Secret of the agent's message key, 32 bytes in hex.
        root: The root statement's frame; *grants* the frames of every grant it needs, parents first; *roots* those
            of the root statements after it, in order; base64url.
        offset_us: Cloud time minus boot time, in microseconds: both are of the same machine.
        home: Directory below which the inits' control sockets lie.
        compartments: Ids of the tenant compartment and the homes above it: the groups that the agent is in.
    """

    cloud: str
    channel: str
    node: str
    supervisor: str
    domain: str
    compartment: str
    path: str
    seed: str
    root: str
    grants: tuple[str, ...]
    offset_us: int
    home: str
    compartments: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()


class Agent:
    """One agent; made inside its event loop."""

    def __init__(self, configuration: Configuration, channel: int) -> None:
        self.configuration = configuration
        try:
            self.trust = TrustSet(from_text(configuration.root))
            for text in configuration.grants:
                self.trust.add(from_text(text))
            self.trust.follow_roots(from_text(text) for text in configuration.roots)
            for identity in configuration.revoked:
                self.trust.revoke(identity)
            signer = Signer.from_seed(bytes.fromhex(configuration.seed))
        except (EnjinError, ValueError) as error:
            raise BadConfiguration(f"the agent's keys or grants cannot be used: {error}") from error
        self.speaker = Speaker(
            cloud=configuration.cloud, channel=configuration.channel, issuer=configuration.node,
            grant=self.trust.grant_of(configuration.node) or "", signer=signer, clock=lambda: clock().boot_us, daemon=True,
        )  # fmt: skip
        self.speaker.offset_us = configuration.offset_us
        self.closed = asyncio.Event()
        self._waiting: list[Observation] = []
        self.transport = PipeTransport(channel, self.closed.set)
        self.processes = Processes(Path(configuration.home), self.report, lambda: self.speaker.offset_us)
        place = Place(configuration.node, configuration.domain, configuration.channel, RING, configuration.path)
        believing = Rule(OfferGrants, Agent.believe, allow=Role.SUPERVISOR)  # type: ignore[arg-type]
        table = Table.of(TABLE, (believing,), roll_call.questions(configuration.node, RING))
        groups = groups_of(configuration.node, RING, compartments=configuration.compartments)
        self.dispatcher = Dispatcher(
            place=place, table=table, trust=self.trust, speaker=self.speaker, handlers=Handlers(decide=self._decide, answer=self._answer),
            groups=lambda: groups,
        )  # fmt: skip

    async def serve(self, ending: asyncio.Event) -> None:
        """Obey until *ending* is set or the channel is gone; the processes run on."""
        await self.dispatcher.serve(self.transport, "pipe")
        await self.report(AgentBegan(compartment=self.configuration.compartment))
        _log.info("agent.started", compartment=self.configuration.compartment)
        waiting = [asyncio.create_task(event.wait()) for event in (ending, self.closed)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await self.processes.close()
        await self.transport.close()

    async def report(self, observation: Observation) -> bool:
        """Send *observation* to ring 1, and return whether it is on its way.

        What is seen in one turn of the loop goes out under one signature; lines of a log go alone, because ring 1 passes their
        frame on unchanged.
        """
        self._waiting.append(observation)
        if not isinstance(observation, Logged):
            await asyncio.sleep(0)
        waiting, self._waiting = self._waiting, []
        alone = [waiting.pop()] if waiting and isinstance(waiting[-1], Logged) else []
        sent = [await self._send(one) for one in (*pack(waiting), *alone)]
        return all(sent)

    async def _send(self, observation: Observation) -> bool:
        subject = f"seen.{observation.KIND}"
        try:
            failpoint("agent.observation.send")
            await self.transport.publish(subject, self.speaker.seal(subject, observation, audience=self.configuration.supervisor))
        except EnjinError as error:
            _log.warning("observation.dropped", kind=observation.KIND, error=error)
            return False
        return True

    async def believe(self, wish: OfferGrants) -> dict[str, Any]:
        """Take newer grants, roots and revocations; speak with our newest grant. Raises: GrantRefused, BadSignature, RootRefused."""
        self.trust.follow_roots(from_text(text) for text in wish.roots)
        for text in wish.grants:
            self.trust.add(from_text(text))
        for identity in wish.revoked:
            self.trust.revoke(identity)
        self.speaker.grant = self.trust.grant_of(self.configuration.node) or self.speaker.grant
        self.trust.forget(self.speaker.now())
        return {"grant": self.speaker.grant}

    async def _decide(self, rule: Rule, wish: Any, _moment: Moment, _frame: bytes) -> Reply:
        result = await rule.decide(self if rule.command is OfferGrants else self.processes, wish)  # type: ignore[misc, call-arg]
        return Reply(ok=True, result=msgspec.Raw(canonical(result)))

    async def _answer(self, question: Question, query: Query, asker: Asker) -> Any:
        if question.group:
            return question.answer(query, None, asker)
        return await question.answer(self.processes, query)  # type: ignore[misc, call-arg]


def read_configuration(descriptor: int) -> Configuration:
    """Return the configuration on *descriptor*, from its beginning where it has one: it is read again after a restart.

    Raises:
        BadConfiguration: It cannot be read or is not one.
    """
    data = bytearray()
    try:
        seekable = os.lseek(descriptor, 0, os.SEEK_CUR) >= 0
    except OSError:
        seekable = False
    try:
        while len(data) <= CONFIG_MAX_BYTES:
            part = os.pread(descriptor, 65_536, len(data)) if seekable else os.read(descriptor, 65_536)
            if not part:
                break
            data += part
        os.close(descriptor)
        return msgspec.json.decode(data, type=Configuration)
    except (OSError, msgspec.DecodeError) as error:
        raise BadConfiguration(f"the agent's configuration cannot be read: {error}") from None  # the cause could show the seed


def main(arguments: list[str] | None = None) -> int:
    """Run the agent and return its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    options = dict(zip(words[::2], words[1::2], strict=False))
    if set(options) != {"--channel", "--config"} or not all(value.isdigit() for value in options.values()) or len(words) != 4:
        sys.stderr.write("usage: python -m ring2.daemon --channel FD --config FD\n")
        return ConfigError.exit_status

    log.configure(ring=RING)

    async def run(ending: asyncio.Event) -> None:
        configuration = read_configuration(int(options["--config"]))
        log.configure(ring=RING, node=configuration.node)
        agent = Agent(configuration, int(options["--channel"]))
        gc.freeze()
        await agent.serve(ending)

    return daemon.run(run)


if __name__ == "__main__":
    sys.exit(main())
