"""Going over from one bus to another: what was heard is heard, what is said is said on both, and nobody goes where nobody answers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from bus import moving
from bus.caller import Caller
from bus.dispatch import Dispatcher, Handlers, Place
from bus.messages import Table
from bus.moving import Both, go_over, take_over
from bus.roll_call import Ping, questions
from bus.transport import MemoryNetwork, MemoryTransport, TransportClosed
from enjin.errors import Unreachable
from tests.bus.parties import CHANNEL, DOMAIN, NODE, PATH, Cloud
from tests.bus.waiting import asynchronous, until


class Buses:
    """Two networks, a decider on the older one, and an operator who asks it there."""

    def __init__(self) -> None:
        self.cloud = Cloud()
        self.old, self.new = MemoryNetwork(), MemoryNetwork()
        self.decider = Dispatcher(
            place=Place(node=NODE, domain=DOMAIN, channel=CHANNEL, ring=1, path=PATH),
            table=Table.of(questions(NODE, 1)),
            trust=self.cloud.trust,
            speaker=self.cloud.speaker,
            handlers=Handlers(decide=self.cloud.journal.decide, answer=lambda question, query, asker: question.answer(query, None, asker)),
        )
        self.caller = Caller(self.old.join("operator"), self.cloud.speaker_of(self.cloud.operator), self.cloud.trust, responder=NODE)


@contextlib.asynccontextmanager
async def buses() -> AsyncIterator[Buses]:
    """Both networks, with the decider on the older one."""
    made = Buses()
    await made.decider.serve(made.old.join("decider"))
    yield made


@asynchronous
async def test_what_was_subscribed_is_heard_on_the_new_one() -> None:
    """Also what is subscribed on the old one while the new one takes over; and once each."""
    old, new = MemoryNetwork().join("one"), MemoryNetwork()
    heard: list[tuple[str, str]] = []
    await old.subscribe("seen.a", lambda subject, _frame: heard.append(("a", subject)))

    class Late(MemoryTransport):
        async def subscribe(self, prefix: str, handler: object) -> None:
            if prefix == "seen.a":
                await old.subscribe("seen.b", lambda subject, _frame: heard.append(("b", subject)))
            await super().subscribe(prefix, handler)  # type: ignore[arg-type]

    fresh = Late(new, "one")
    new._members["one"] = fresh
    await take_over(old, fresh)
    for word in ("seen.a", "seen.b", "seen.c"):
        await new.join("other").publish(word, b"")
    await until(lambda: len(heard) == 2, "both")
    assert [("a", "seen.a"), ("b", "seen.b")] == heard


@asynchronous
async def test_a_caller_goes_over_and_is_answered() -> None:
    """Where the decider is on both: asked before on the old bus, afterwards on the new one, which the old one no longer carries."""
    async with buses() as made:
        assert (await made.caller.query(Ping())).ok
        await made.decider.serve(made.new.join("decider"))
        fresh = await go_over(made.caller, made.new.join("operator"))
        assert made.caller.transport is fresh
        made.old.cut("operator", "decider")
        assert (await made.caller.query(Ping(), deadline_s=5.0)).ok


@asynchronous
async def test_nobody_goes_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller stays where it is and is answered there; the connection that was tried is closed."""
    monkeypatch.setattr(moving, "ANSWER_S", 0.05)
    async with buses() as made:
        before, tried = made.caller.transport, made.new.join("operator")
        with pytest.raises(Unreachable):
            await go_over(made.caller, tried)
        assert made.caller.transport is before
        assert (await made.caller.query(Ping())).ok
        with pytest.raises(TransportClosed):
            await tried.publish("seen.x", b"")


@asynchronous
async def test_between_two_buses_both_hear() -> None:
    """What is said reaches both; with one of them gone it still reaches the other; with both gone it is refused."""
    networks = MemoryNetwork(), MemoryNetwork()
    old, new = (network.join("decider") for network in networks)
    heard: list[tuple[int, bytes]] = []
    for number, network in enumerate(networks):
        await network.join("other").subscribe("seen", lambda _subject, frame, number=number: heard.append((number, frame)))
    both = Both(old, new)
    await both.publish("seen.x", b"1")
    await until(lambda: sorted(heard) == [(0, b"1"), (1, b"1")], "both have it")
    await old.close()
    await both.publish("seen.x", b"2")
    await until(lambda: heard[2:] == [(1, b"2")], "the new one has it")
    await both.close()
    with pytest.raises(TransportClosed):
        await both.publish("seen.x", b"3")


@asynchronous
async def test_what_the_new_one_does_not_take_the_old_one_does() -> None:
    """A new bus that fails costs nothing that the old one carries."""
    network = MemoryNetwork()
    old, new = network.join("decider"), MemoryNetwork().join("decider")
    heard: list[bytes] = []
    await network.join("other").subscribe("seen", lambda _subject, frame: heard.append(frame))
    await new.close()
    await Both(old, new).publish("seen.x", b"1")
    await until(lambda: heard == [b"1"], "the old one has it")
