"""Ring 2's agents as ring 1 runs them: their identity, their process, and what they say of instances.

Owns one agent per compartment: a key and a grant of its own, a service of our init, a pipe. What an agent says is
believed as far as its grant goes and kept in memory only; what must bind others becomes a wish of ring 1's daemon.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from bus.caller import Caller
from bus.dispatch import Seen as SeenMessage
from bus.messages import Command, Reply
from bus.over_pipe import PipeTransport
from compartments import graph
from compartments.domain import Domain
from compartments.identity import Identity
from enjin import log
from enjin.canonical import to_text
from enjin.errors import Refused, Unreachable, from_reply
from enjin.failpoints import failpoint, inherited
from enjin.host import clock
from keys.keyring import Keyring, create_seed
from ring1.agent import Agent
from ring1.beliefs import Beliefs
from ring1.granting import agent_grant
from ring1.plan import ProcessSeen
from ring1.relaying import Relay
from ring1.tenancy import agent_node
from supervision import instances
from supervision.init_link import InitLink, InitStale, InitUnknown

ANSWER_S: Final = 15.0


class AgentAway(Unreachable):
    """A compartment's agent does not run."""

    code = "E-AGT-101"
    remedy = "it is started again by itself; try once more"


class Agents:
    """Every agent of this ring 1 node."""

    def __init__(
        self, domain: Domain, keyring: Keyring, identity: Identity, init: InitLink, home: Path, changed: Callable[[], None]
    ) -> None:
        self._domain, self._keyring, self._identity, self.init, self.home = domain, keyring, identity, init, home
        self._changed = changed
        self._log = log.get("agents")
        self._agents: dict[str, Agent] = {}
        self._relay = Relay(domain.trust, lambda: domain.transport)
        self._beliefs = Beliefs(domain.trust, domain.journal.now)
        domain.on_group.append(lambda opened: self._relay.down(opened, {agent.node: agent.pipe for agent in self.all() if agent.pipe}))
        domain.observers |= {
            instances.AgentBegan.KIND: self._began,
            instances.Started.KIND: self._heard,
            instances.Ready.KIND: self._heard,
            instances.Unhealthy.KIND: self._heard,
            instances.Exited.KIND: self._heard,
            instances.Failed.KIND: self._heard,
        }

    def running(self) -> frozenset[str]:
        """Return the compartments whose agent runs."""
        return frozenset(self._agents)

    def all(self) -> list[Agent]:
        """Return the agents that run."""
        return list(self._agents.values())

    @property
    def domain(self) -> str:
        """The domain on whose channel the agents' answers are heard."""
        return self._domain.place.domain

    def frame(self, agent: Agent) -> str:
        """Return the frame of *agent*'s grant as base64url."""
        return to_text(self._domain.trust.frame(agent.grant))

    def inform(self) -> None:
        """Tell each agent whom to believe and whom no longer, if that has changed since it was told."""
        self._beliefs.tell({agent.node: agent.caller for agent in self.all() if agent.caller is not None})

    def processes(self) -> dict[str, ProcessSeen]:
        """Return what the agents say of each instance's process."""
        return {instance: seen for agent in self._agents.values() for instance, seen in agent.processes.items()}

    async def run(self, compartment: str, uid: int) -> None:
        """Have init run the agent of *compartment* (an id) and open the pipe to it; harmless when it runs."""
        agent = Agent(compartment, agent_node(compartment))
        name = f"agent-{compartment}"
        handles = await self.init.channel(name)
        await self.give_configuration(agent, name)
        python = f"{self._identity.runtime}/bin/python"
        own = {"uid": uid, "gid": uid} if self._identity.strategy == "jail" else {}
        service: dict[str, Any] = {
            "name": name,
            "generation": 1,
            "argv": [python, "-I", "-m", "ring2.daemon", "--channel", "3", "--config", "4"],
            "env": {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **inherited()},
            "fds": {"3": handles[0], "4": f"listener:{name}"},
            "restart": "always",
            "log": True,
            **own,
        }
        failpoint("agent.spawn")
        if not (await self.init.spawn(service))["wanted"]:  # it was ended when its compartment had nothing left to run
            await self.init.start(name)
        await self.attach(agent, await self.init.take(handles[1]))

    async def attach(self, agent: Agent, descriptor: int) -> None:
        """Speak from now on with *agent*, whose grant we gave, over our end of its pipe, which is ours to close."""
        agent.pipe = PipeTransport(descriptor)
        await self._domain.dispatcher.serve(agent.pipe, f"pipe:{agent.node}")
        await agent.pipe.subscribe("reply", lambda subject, frame: self._relay.up(agent.node, agent.grant, subject, frame))
        place, speaker, trust = self._domain.place, self._domain.speaker, self._domain.trust
        agent.caller = Caller(agent.pipe, speaker, trust, responder=agent.node, ring=place.ring, home=place.domain)
        self._agents[agent.compartment] = agent
        self.inform()

    async def end(self, compartment: str) -> None:
        """End the agent of *compartment*."""
        agent = self._agents.pop(compartment, None)
        with contextlib.suppress(InitUnknown):
            await self.init.stop(f"agent-{compartment}", grace_ms=2_000)
        if agent is not None and agent.pipe is not None:
            await agent.pipe.close()

    async def close(self) -> None:
        """Close the pipes; the agents run on."""
        await self._beliefs.close()
        for agent in self._agents.values():
            if agent.pipe is not None:
                await agent.pipe.close()

    async def ask(self, compartment: str, wish: Command) -> instances.Status:
        """Ask the agent of *compartment* for *wish* and note the state it answers with.

        Raises:
            Unreachable, and what the agent refuses with.
        """
        agent = self._need(compartment)

        def heard(reply: Reply) -> None:
            """Note it before what the agent said after it; whoever waits for the answer wakes up later than that is handled."""
            if reply.ok:
                status = msgspec.json.decode(reply.result, type=instances.Status)
                self._note(agent, status.instance, status.generation, status.state, status.status, status.text)

        reply = await self._caller(agent).command(wish, deadline_s=ANSWER_S, heard=heard)
        return msgspec.json.decode(_must(reply), type=instances.Status)

    async def read_log(self, compartment: str, instance: str, after: int) -> instances.Lines:
        """Return lines that *instance* wrote. Raises: Unreachable, and what the agent refuses with."""
        query = instances.ReadLog(instance=instance, after=after)
        return msgspec.json.decode(
            _must(await self._caller(self._need(compartment)).query(query, deadline_s=ANSWER_S)), type=instances.Lines
        )

    def _need(self, compartment: str) -> Agent:
        if compartment not in self._agents:
            raise AgentAway(f"the agent of compartment {compartment} does not run")
        return self._agents[compartment]

    def _caller(self, agent: Agent) -> Caller:
        if agent.caller is None:
            raise AgentAway(f"the agent of compartment {agent.compartment} cannot be spoken to")
        return agent.caller

    async def give_configuration(self, agent: Agent, name: str) -> None:
        """Leave the agent's keys and grants with init, where every start of the agent finds them."""
        directory = self.home / "ring1" / "agents" / agent.compartment
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        generation = self._keyring.generation(self._domain.trust.grant(self._domain.grant).keys.message)  # with ours, theirs is replaced
        keyring = Keyring(self._identity.cloud, create_seed(directory / "node.seed"), generation=generation)
        path = graph.path_text(self._domain.world, agent.compartment)
        trust, now = self._domain.trust, self._domain.journal.now()
        grant = agent_grant(agent.node, path, keyring.message.public, self._domain, self._keyring, now)
        agent.grant = trust.add(grant)
        chain = [*reversed(trust.authority(self._domain.grant, now, self.domain).chain)]
        with contextlib.suppress(Refused):  # while our own is renewed we still speak with the older one; one that has ended says nothing
            chain += reversed(trust.authority(self._domain.speaker.grant, now, self.domain).chain)
        needed = [*(trust.frame(digest) for digest in dict.fromkeys(chain)), grant]
        configuration = {
            "cloud": self._identity.cloud,
            "channel": self._domain.place.channel,
            "node": agent.node,
            "supervisor": self._domain.place.node,
            "domain": self._domain.place.domain,
            "compartment": agent.compartment,
            "path": path,
            "seed": keyring.message_seed.hex(),
            "root": self._identity.root,
            "roots": [to_text(frame) for frame in trust.roots.successors],
            "grants": [to_text(frame) for frame in needed],
            "offset_us": self._domain.journal.now() - clock().boot_us,
            "home": str(self.home),
            "compartments": [row.id for row in graph.home_path(self._domain.world, agent.compartment)],
            "revoked": sorted(trust.revoked),
        }
        descriptor = os.memfd_create("agent", os.MFD_CLOEXEC)
        try:
            failpoint("agent.configuration.write")
            os.write(descriptor, msgspec.json.encode(configuration))
            with contextlib.suppress(InitUnknown):
                await self.init.drop(f"listener:{name}")
            with contextlib.suppress(InitStale):
                await self.init.give(name, descriptor)
        finally:
            os.close(descriptor)

    def _began(self, message: SeenMessage) -> None:
        """An agent that has just started knows nothing: forget what the one before it said."""
        agent = self._of(message)
        if agent is not None:
            agent.processes.clear()
            self._beliefs.forget(agent.node)
            self.inform()
            self._changed()

    def _heard(self, message: SeenMessage) -> None:
        agent = self._of(message)
        if agent is None:
            return
        said = msgspec.json.decode(message.body, type=_Said)
        state = {"instance.started": "starting"}.get(message.kind, message.kind.rpartition(".")[2])
        self._note(agent, said.instance, said.generation, state, said.status, said.text)

    def _note(self, agent: Agent, instance: str, generation: int, state: str, status: int, text: str) -> None:
        if agent.note(instance, generation, state, status, text):
            self._changed()

    def _of(self, message: SeenMessage) -> Agent | None:
        issuer = message.opened.statement.iss  # an agent speaks of its own compartment only
        return next((agent for agent in self._agents.values() if agent.node == issuer), None)


class _Said(msgspec.Struct):
    instance: str
    generation: int
    status: int = 0
    text: str = ""


def _must(reply: Reply) -> msgspec.Raw:
    if not reply.ok:
        raise from_reply(reply.code, reply.message, reply.hint)
    return reply.result
