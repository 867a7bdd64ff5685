"""What ring 1 believes of an instance is what its agent said last, however late ring 1 comes to hear it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bus.envelope import open_frame, read_statement
from bus.messages import Reply
from bus.over_pipe import PipeTransport
from bus.speaker import Speaker, reply_subject
from compartments.identity import Identity
from enjin.canonical import canonical
from keys.grants import Capability, Grant, PublicKeys, sign_grant
from ring1.agent import Agent
from ring1.agents import Agents
from supervision.instances import AgentBegan, Ready, RunInstance, Started, Status
from tests.bus.waiting import asynchronous, until
from tests.compartments.parents import HOUR, Node, Parents, Person, Steady
from tests.supervision.inits import running

COMPARTMENT, AGENT, INSTANCE = "c-0000000000000001", "a-0000000000000001", "i-0000000000000001"
WISH = RunInstance(instance=INSTANCE, generation=1, control="instance.sock", address="127.0.0.1", port=1, line="true")


class Scripted(NamedTuple):
    """A real ring 1 domain and its agents' side; and an agent's end of the pipe, whose words a test chooses."""

    agents: Agents
    pipe: PipeTransport
    speaker: Speaker
    asked: list[tuple[str, str]]
    node: str

    def begin_anew(self) -> Scripted:
        """Be the agent's next start: another boot speaks from now on."""
        old = self.speaker
        speaker = Speaker(
            cloud=old.cloud, channel=old.channel, issuer=AGENT, grant=old.grant, signer=old.signer, clock=Steady().now, daemon=True,
        )  # fmt: skip
        return self._replace(speaker=speaker)

    async def say(self, *seen: Any) -> None:
        """Send observations, one frame each."""
        for one in seen:
            subject = f"seen.{one.KIND}"
            await self.pipe.publish(subject, self.speaker.seal(subject, one, audience=self.node))

    async def answer(self, state: Any) -> None:
        """Answer what was asked last."""
        rid, digest = self.asked[-1]
        status = Status(instance=INSTANCE, generation=1, state=state)
        reply = Reply(ok=True, result=msgspec.Raw(canonical(status)))
        await self.pipe.publish(reply_subject(rid), self.speaker.seal(reply_subject(rid), reply, audience=self.node, rid=rid, re=digest))

    def state(self) -> str:
        """What ring 1 believes of the instance; empty when it knows nothing."""
        found = self.agents.processes().get(INSTANCE)
        return found.state if found is not None else ""

    async def heard(self) -> None:
        """Return when ring 1 has handled all that was said so far."""
        other = "i-00000000000000ff"
        self.agents.all()[0].processes.pop(other, None)
        await self.say(Started(instance=other, generation=1, pid=1))
        await until(lambda: other in self.agents.processes(), "all was heard")


@contextlib.asynccontextmanager
async def scripted(folder: Path) -> AsyncIterator[Scripted]:
    """Real domain, init, pipe and signatures."""
    node = Node(Parents(Steady()), "n-0000000000000001", folder)
    keyring, who = node.domain.keyring, Person(node.parents.cloud, AGENT)
    assert keyring.issuer is not None
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    async with running({}) as init:
        agents = Agents(node.domain, keyring, _identity(node, folder), init.link, folder, lambda: None)
        agent = Agent(COMPARTMENT, AGENT)
        agent.grant = node.trust.add(sign_grant(_grant(node, who), keyring.issuer))
        speaker = Speaker(
            cloud=node.parents.cloud, channel=node.channel, issuer=AGENT, grant=agent.grant, signer=who.keyring.message, clock=Steady().now,
            daemon=True,
        )  # fmt: skip
        asked: list[tuple[str, str]] = []
        pipe = PipeTransport(ends[1].detach())

        def take(_subject: str, data: bytes) -> None:
            frame = open_frame(data)
            asked.append((read_statement(frame).rid, frame.digest))

        await pipe.subscribe("command.instance.run", take)
        await agents.attach(agent, ends[0].detach())
        try:
            yield Scripted(agents, pipe, speaker, asked, node.node)
        finally:
            await agents.close()
            await pipe.close()
            await node.ours.close()
            await node.domain.close()


def _identity(node: Node, folder: Path) -> Identity:
    return Identity(
        cloud=node.parents.cloud, node=node.node, parent="n-0", label="ring1", domain=node.node, strategy="process", home=str(folder),
        runtime="/usr", root="", seed="", issuer_seed="", grant="", grants=(), charter="",
    )  # fmt: skip


def _grant(node: Node, who: Person) -> Grant:
    now = node.domain.journal.now()
    return Grant(
        v=1, cloud=node.parents.cloud, subject=AGENT, role=1, ring=2, depth=0, compartment="cloud/acme",
        keys=PublicKeys(message=who.keyring.message.public.hex()), allowed=(Capability("instance", "cloud/acme"),),
        channels=("ring1",), not_before=now - HOUR // 2, expiry=now + HOUR, parent=node.domain.grant,
    )  # fmt: skip


@asynchronous
async def test_an_answer_that_is_read_late_undoes_nothing_said_after_it(home: Path) -> None:
    """A busy ring 1 reads "pending", "started" and "ready" at once: the instance is ready, and no agent would say so again."""
    async with scripted(home) as one:
        asking = asyncio.ensure_future(one.agents.ask(COMPARTMENT, WISH))
        await until(lambda: one.asked, "the wish")
        await one.answer("pending")  # all three lie in the pipe before ring 1 reads the first
        await one.say(Started(instance=INSTANCE, generation=1, pid=7), Ready(instance=INSTANCE, generation=1))
        assert (await asking).state == "pending"
        await one.heard()
        assert one.state() == "ready"


@asynchronous
async def test_an_answer_of_the_agent_before_is_not_the_next_ones(home: Path) -> None:
    """It answered "ready" and was killed; its successor has begun and knows of nothing: ring 1 must tell it what is wanted."""
    async with scripted(home) as one:
        asking = asyncio.ensure_future(one.agents.ask(COMPARTMENT, WISH))
        await until(lambda: one.asked, "the wish")
        await one.answer("ready")
        await one.begin_anew().say(AgentBegan(compartment="acme"))
        assert (await asking).state == "ready"
        await one.begin_anew().heard()
        assert one.state() == ""


@asynchronous
async def test_an_answer_alone_is_believed(home: Path) -> None:
    """The valid twin: what an agent has known for long it says in its answer only."""
    async with scripted(home) as one:
        asking = asyncio.ensure_future(one.agents.ask(COMPARTMENT, WISH))
        await until(lambda: one.asked, "the wish")
        await one.answer("ready")
        assert (await asking).state == "ready"
        assert one.state() == "ready"
