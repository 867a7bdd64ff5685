"""Two deciders of ring 0, each a process, on one journal in PostgreSQL with a synchronous replica, asked over a real bus."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.journal import Reader, verify
from bus.journal.entry import check_commit
from bus.journal.lease import LIFE_S, read_lease
from bus.messages import Reply
from enjin.errors import Unreachable
from enjin.host import clock, request_id
from keys.signing import BadSignature
from ring0.compartments import CreateCompartment
from tests.bus.hubs import running_hub
from tests.bus.postgres_servers import Servers, running
from tests.bus.waiting import asynchronous, until, until_async
from tests.e2e.deciders import CHANNEL, DECIDERS, Asker, Authority, Process, asking, processes
from tests.places import temporary_home

pytestmark = pytest.mark.timeout(240)
FIRST, SECOND = DECIDERS
BACK_S = 60.0
RETRIED = {"E-FWD-001", "E-JNL-001", "E-JNL-018", "E-JNL-021", "E-JNL-022"}


class Pair:
    """Two deciders, their servers, and an operator who asks them for compartments."""

    def __init__(self, servers: Servers, url: str, authority: Authority, asker: Asker, running: dict[str, Process]) -> None:
        self.servers, self.url, self.authority, self.asker, self.running = servers, url, authority, asker, running
        self.acknowledged: dict[str, tuple[str, Reply]] = {}  # request id -> the name that was asked for, and the answer
        self._names = itertools.count()

    def wish(self) -> tuple[str, str]:
        """Return a fresh request id and a fresh name."""
        return str(request_id(clock().wall_us)), f"c{next(self._names)}"

    async def ask(self, node: str, rid: str, name: str, deadline_s: float = 30.0) -> Reply:
        """Ask *node* for the compartment *name*; note what was acknowledged."""
        reply = await self.asker.ask(node, CreateCompartment(name=name), rid, deadline_s)
        if reply.ok:
            earlier = self.acknowledged.setdefault(rid, (name, reply))
            assert (earlier[1].number, earlier[1].result) == (reply.number, reply.result)
        else:
            assert reply.code in RETRIED, reply
        return reply

    async def ask_until_taken(self, node: str, rid: str, name: str) -> Reply:
        """Ask *node* the same again and again, as a client does, until there is an answer."""
        answers: list[Reply] = []

        async def once() -> bool:
            with contextlib.suppress(Unreachable):
                answers.append(await self.ask(node, rid, name, 2.0))
            return bool(answers) and answers[-1].ok

        await until_async(once, f"{node} has an answer for {name}", BACK_S)
        return answers[-1]

    def holder(self) -> str:
        """Return who holds the lease, as the server has it."""
        with Reader(self.url) as reader:
            lease = reader.view(read_lease)
        return lease.holder if lease is not None else ""

    def head(self) -> int:
        """Return the number of the last entry on the server."""
        with Reader(self.url) as reader:
            meta = reader.meta()
        assert meta is not None
        return meta.head.number

    def check(self) -> None:
        """Check the whole chain with both keys, and that each acknowledged request has exactly the entry that its answer names."""
        keys = list(self.authority.journal_keys().values())
        found = verify(self.url, lambda _domain: keys)
        assert found.ok, found
        with Reader(self.url) as reader:
            rows = reader.requests(list(self.acknowledged))
        assert {rid: rows[rid].number for rid in rows} == {rid: reply.number for rid, (_name, reply) in self.acknowledged.items()}
        assert len({row.number for row in rows.values()}) == len(rows)

    def deciders_after(self, number: int) -> set[str]:
        """Return whose keys signed the commits after entry *number*."""
        found = set()
        with Reader(self.url) as reader:
            while (stretch := reader.stretch(number)) is not None:
                for node, key in self.authority.journal_keys().items():
                    with contextlib.suppress(BadSignature):
                        check_commit(stretch.commit, self.authority.cloud, CHANNEL, (key,))
                        found.add(node)
                number = stretch.commit.number
        return found


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """Two deciders that run, the first of which holds the lease."""
    with running() as servers, temporary_home() as folder, running_hub(folder) as hub:
        url, authority = servers.url(), Authority()
        servers.replicate()
        with processes(folder, authority, hub, url) as started:
            for node in DECIDERS:
                started[node] = one = Process(node, Path(folder), authority, hub, url)
                await until(lambda one=one: one.said("daemon.started"), f"{node} runs", BACK_S)  # type: ignore[misc]
            async with asking(authority, hub) as asker:
                yield Pair(servers, url, authority, asker, started)


@asynchronous
async def test_whoever_is_asked_each_command_takes_effect_once() -> None:
    """The same requests to both at once: one entry each, one chain; the answers are the decider's own, whoever passed them on."""
    async with pair() as both:
        assert both.holder() == FIRST
        wishes = [both.wish() for _ in range(40)]
        answers = await asyncio.gather(*(both.ask(node, *wish) for wish in wishes for node in DECIDERS))
        assert all(reply.ok for reply in answers)
        alone = [both.wish() for _ in range(10)]  # of the other one only: nothing but forwarding brings these about
        assert all([(await both.ask(SECOND, *wish)).ok for wish in alone])
        assert {signer for rid, _name in (*wishes, *alone) for signer in both.asker.signers[rid]} == {FIRST}
        both.check()
        assert both.deciders_after(0) == {FIRST}
        # A refusal comes from the decider as well.
        reply = await both.asker.ask(SECOND, CreateCompartment(name=alone[0][1]), both.wish()[0])
        assert (reply.ok, reply.code) != (True, "")
        assert reply.code not in RETRIED


async def load(both: Pair, node: str, ending: asyncio.Event, open_ended: list[tuple[str, str]]) -> None:
    """Ask *node* for one thing after the other until *ending*; what is not acknowledged is kept."""
    while not ending.is_set():
        rid, name = both.wish()
        with contextlib.suppress(Unreachable):
            if (await both.ask(node, rid, name, 2.0)).ok:
                continue
        open_ended.append((rid, name))


@asynchronous
async def test_the_decider_is_killed_under_load() -> None:
    """The other takes over within seconds; nothing acknowledged is gone, and every request asked again has the answer that it had."""
    async with pair() as both:
        ending, lost = asyncio.Event(), []  # type: ignore[var-annotated]
        loads = [asyncio.create_task(load(both, node, ending, lost)) for node in DECIDERS * 2]
        await until(lambda: len(both.acknowledged) >= 60, "sixty answers", BACK_S)
        both.running[FIRST].signal(signal.SIGKILL)
        await until(lambda: both.holder() == SECOND, "the other decides", BACK_S)
        after = len(both.acknowledged)
        await until(lambda: len(both.acknowledged) >= after + 20, "it answers", BACK_S)
        ending.set()
        await asyncio.gather(*loads)
        both.check()
        for rid, (name, reply) in list(both.acknowledged.items()):
            again = await both.ask_until_taken(SECOND, rid, name)
            assert (again.number, again.result) == (reply.number, reply.result)
        for rid, name in lost:
            await both.ask_until_taken(SECOND, rid, name)
        both.check()


@asynchronous
async def test_a_decider_that_stood_still_past_its_lease_wins_no_number() -> None:
    """The server ends its session; the other decides. Resumed, with wishes waiting, it writes nothing and passes on what it is asked."""
    async with pair() as both:
        assert (await both.ask(FIRST, *both.wish())).ok
        first = both.running[FIRST]
        first.signal(signal.SIGSTOP)
        waiting = both.wish()
        refused = await both.ask(SECOND, *waiting)
        assert (refused.ok, refused.code) == (False, "E-FWD-001")
        before = both.head()
        heard = [asyncio.create_task(both.ask(FIRST, *both.wish())) for _ in range(5)]
        await until(lambda: both.holder() == SECOND, "the other decides", LIFE_S + BACK_S)
        await both.ask_until_taken(SECOND, *waiting)
        assert all([(await both.ask(SECOND, *both.wish())).ok for _ in range(5)])
        first.signal(signal.SIGCONT)
        await asyncio.gather(*heard, return_exceptions=True)
        wish = both.wish()
        await both.ask_until_taken(FIRST, *wish)
        assert both.asker.signers[wish[0]] >= {SECOND}
        assert first.process.poll() is None
        assert first.said("journal.following")
        assert both.deciders_after(before) == {SECOND}
        both.check()


@asynchronous
async def test_the_primary_is_lost_and_the_replica_promoted() -> None:
    """Whoever is asked refuses with a stable code, nothing acknowledged is lost, and it goes on after the promotion."""
    async with pair() as both:
        ending, lost = asyncio.Event(), []  # type: ignore[var-annotated]
        loads = [asyncio.create_task(load(both, node, ending, lost)) for node in DECIDERS]
        await until(lambda: len(both.acknowledged) >= 30, "thirty answers", BACK_S)
        await asyncio.to_thread(both.servers.primary.kill)
        ending.set()
        await asyncio.gather(*loads)
        for node in DECIDERS:

            async def away(node: str = node) -> bool:
                with contextlib.suppress(Unreachable):
                    return (await both.ask(node, *both.wish(), 5.0)).code == "E-JNL-021"
                return False

            await until_async(away, f"{node} says that the server is away", BACK_S)
        acknowledged = dict(both.acknowledged)
        await asyncio.to_thread(both.servers.replica.promote)
        for node in DECIDERS:
            await both.ask_until_taken(node, *both.wish())
        for rid, (name, reply) in acknowledged.items():
            again = await both.ask_until_taken(FIRST, rid, name)
            assert (again.number, again.result) == (reply.number, reply.result)
        for at, (rid, name) in enumerate(lost):
            await both.ask_until_taken(DECIDERS[at % 2], rid, name)
        both.check()
        assert all(one.process.poll() is None for one in both.running.values())
