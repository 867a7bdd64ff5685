"""One signature over many observations: nothing is lost or reordered, nothing gets in that could not have come alone."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.batches import BODY_MAX_BYTES, RECORDS_MAX, SUBJECT, Batch, Run, one_by_one, pack, unpack
from bus.dispatch import Handlers, Seen
from bus.messages import Malformed, NotCanonical, Observation
from bus.opening import Opened
from enjin.canonical import canonical
from tests.bus.parties import CHANNEL, DOMAIN, Cloud, Party, Saw
from tests.bus.test_caller import served
from tests.bus.waiting import asynchronous, until


class Heard(Observation, kind="instance.heard"):
    """An instance was heard."""

    text: str = ""


class Burnt(Observation, kind="node.burnt"):
    """A node burnt down: an agent may not say so."""

    node: str


RECORDS = st.lists(
    st.one_of(
        st.builds(Saw, instance=st.text(max_size=40)), st.builds(Heard, text=st.text(max_size=3000)), st.just(Heard()),
    ),
    max_size=200,
)  # fmt: skip
SHAPES: dict[str, type[Observation]] = {Saw.KIND: Saw, Heard.KIND: Heard}


def told(sent: Observation) -> list[Observation]:
    """Return the records that *sent* carries."""
    if not isinstance(sent, Batch):
        return [sent]
    runs = unpack(msgspec.Raw(canonical(sent)))
    return [msgspec.json.decode(record, type=SHAPES[run.kind]) for run in runs for record in run.records]


@given(RECORDS)
def test_what_is_packed_comes_out_in_its_order_and_fits(records: list[Observation]) -> None:
    """Whatever the kinds and sizes: all of it, once, in order, each batch within its bounds."""
    sent = list(pack(records))
    assert records == [record for one in sent for record in told(one)]
    assert all(len(canonical(one)) <= BODY_MAX_BYTES for one in sent)


def test_a_batch_holds_no_more_records_than_its_bound() -> None:
    """One more begins the next; what comes alone is sent alone."""
    sent = list(pack(Heard() for _ in range(RECORDS_MAX + 1)))
    assert (len(told(sent[0])), sent[1]) == (RECORDS_MAX, Heard())
    assert list(pack([])) == []


def seal(cloud: Cloud, body: bytes, party: Party | None = None) -> bytes:
    """Return *body* as an agent's batch, signed."""
    return cloud.speaker_of(party or cloud.agent, daemon=True).seal(SUBJECT, msgspec.Raw(body), audience=DOMAIN)


def take(cloud: Cloud, frame: bytes) -> None:
    asyncio.run(cloud.dispatcher.handle(frame, channel=CHANNEL, subject=SUBJECT))


GOOD = b'{"runs":[["instance.seen",[{"instance":"i-1"},{"instance":"i-2"}]],["instance.heard",[{"text":"x"}]]]}'


def test_every_record_reaches_the_handler() -> None:
    """Under its own kind, with its own body, signed by whoever signed the batch."""
    cloud = Cloud()
    take(cloud, seal(cloud, GOOD))
    assert [(seen.kind, bytes(seen.body)) for seen in cloud.observed] == [
        ("instance.seen", b'{"instance":"i-1"}'),
        ("instance.seen", b'{"instance":"i-2"}'),
        ("instance.heard", b'{"text":"x"}'),
    ]
    assert {seen.opened.statement.iss for seen in cloud.observed} == {cloud.agent.subject}
    assert (cloud.dispatcher.counters["records"], cloud.dispatcher.counters["passed"]) == (3, 1)


MALFORMED = {
    "a space in a record": GOOD.replace(b'"i-1"', b' "i-1"'),
    "a space in the batch": GOOD.replace(b"]],[", b"]], ["),
    "a key twice": GOOD.replace(b'{"instance":"i-1"}', b'{"instance":"i-0","instance":"i-1"}'),
    "another order of keys": GOOD.replace(b'{"text":"x"}', b'{"text":"x","a":1}'),
    "another spelling of a letter": GOOD.replace(b'"x"', b'"\\u0078"'),
    "a run cut in two": GOOD.replace(b'},{"instance":"i-2"}', b'}]],["instance.seen",[{"instance":"i-2"}'),
    "an empty run": GOOD.replace(b'{"text":"x"}', b""),
    "no runs": b'{"runs":[]}',
    "no batch": b'{"instance":"i-1"}',
    "a batch in a batch": b'{"runs":[["batch",[%s]]]}' % GOOD,
    "a record that is a number": GOOD.replace(b'{"text":"x"}', b"1"),
    "a kind that is none": GOOD.replace(b"instance.heard", b"instance..heard"),
    "a third thing in a run": GOOD.replace(b'{"text":"x"}]', b'{"text":"x"}],0'),
    "too many records": b'{"runs":[["instance.heard",[%s]]]}' % b",".join([b"{}"] * (RECORDS_MAX + 1)),
    "too many records in two runs": b'{"runs":[["instance.heard",[%s]],["instance.seen",[{}]]]}' % b",".join([b"{}"] * RECORDS_MAX),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_n04_a_malformed_batch_is_refused_whole(name: str) -> None:
    """Signed or not, a second spelling or a wrong shape anywhere in it: none of its records is taken."""
    cloud = Cloud()
    take(cloud, seal(cloud, MALFORMED[name]))
    assert (cloud.observed, cloud.dispatcher.counters["canonical"]) == ([], 1)
    with pytest.raises((Malformed, NotCanonical)):
        unpack(msgspec.Raw(MALFORMED[name]))


def test_n01_one_bit_of_any_record_spoils_the_batch() -> None:
    """The signature covers every byte of it."""
    cloud = Cloud()
    frame = seal(cloud, GOOD)
    start = frame.index(GOOD)
    for at in range(start, start + len(GOOD), 7):
        take(cloud, frame[:at] + bytes([frame[at] ^ 4]) + frame[at + 1 :])
    assert (cloud.observed, cloud.dispatcher.counters["passed"]) == ([], 0)
    assert cloud.dispatcher.counters["signature"] == len(range(start, start + len(GOOD), 7))
    take(cloud, frame)
    assert len(cloud.observed) == 3


def test_a_batch_says_nothing_that_could_not_be_said_alone() -> None:
    """One record beyond the signer's grant, and none of them is taken; without it all are."""
    cloud = Cloud()
    narrow = cloud.enrol_agent("n-00000000000000bb", ("instance",))
    mixed = canonical(next(pack([Saw(instance="i-1"), Burnt(node="n-1")])))
    take(cloud, seal(cloud, mixed, narrow))
    assert (cloud.observed, cloud.dispatcher.counters["permission"]) == ([], 1)
    take(cloud, seal(cloud, canonical(next(pack([Saw(instance="i-1"), Heard()]))), narrow))
    assert [seen.kind for seen in cloud.observed] == ["instance.seen", "instance.heard"]


def test_n07_a_replayed_batch_is_taken_once() -> None:
    """It has one sequence number, like any other message."""
    cloud = Cloud()
    frame = seal(cloud, GOOD)
    take(cloud, frame)
    take(cloud, frame)
    assert (len(cloud.observed), cloud.dispatcher.counters["sequence"]) == (3, 1)


def test_a_record_that_fails_costs_itself_alone() -> None:
    """The handler's own fault with one record is logged and counted; the others are taken."""
    cloud = Cloud()
    taken: list[str] = []

    def observe(seen: Seen) -> None:
        if seen.kind == "instance.seen" and b"i-1" in bytes(seen.body):
            raise RuntimeError("a handler's own fault")
        taken.append(seen.kind)

    cloud.dispatcher.handlers = Handlers(decide=cloud.journal.decide, answer=lambda *_: None, observe=observe)
    take(cloud, seal(cloud, GOOD))
    assert (taken, cloud.dispatcher.counters["defect"]) == (["instance.seen", "instance.heard"], 1)


@asynchronous
async def test_a_follower_hears_records_as_if_they_had_come_alone() -> None:
    """By prefix, in order, each once; what is malformed is counted and not handed over."""
    cloud = Cloud()
    async with served(cloud) as (network, caller):
        heard: list[Opened] = []
        await caller.follow("seen.instance.heard", heard.append)
        agent = network.join("agent")
        await agent.publish(SUBJECT, seal(cloud, MALFORMED["a space in a record"]))
        await agent.publish(SUBJECT, seal(cloud, GOOD))
        await until(lambda: heard, "the record")
        assert [(one.statement.kind, bytes(one.statement.body)) for one in heard] == [("seen.instance.heard", b'{"text":"x"}')]
        assert caller.counters["canonical"] == 1
        await agent.close()


def test_what_is_no_batch_comes_as_it_is() -> None:
    """One by one, an observation that came alone is itself."""
    opened: Any = Opened(b"", None, type("S", (), {"kind": "seen.instance.seen"})(), None)  # type: ignore[arg-type]
    assert list(one_by_one(opened)) == [opened]
    assert Run("instance.seen", (msgspec.Raw(b"{}"),)).kind == "instance.seen"
