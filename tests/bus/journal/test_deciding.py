"""Deciding through the journal: order, refusals, request ids, replies, and who is told when."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from bus.journal import Journal, Stretch, read_entry
from bus.journal.remembered import Remembered
from bus.messages import Reply
from enjin import host
from enjin.errors import Conflict, InvariantError, Refused, code_of
from tests.bus.journal.conftest import Desk
from tests.bus.journal.small_world import SECOND, Add, Drop


def reply_of(outcome: Any) -> Reply:
    return msgspec.json.decode(outcome.reply, type=Reply)


def state(desk: Desk, journal: Journal) -> tuple[Any, ...]:
    """Head, World's digest, projection and request rows: what a refusal must leave alone."""
    rows = desk.look("select name, value from counters order by name")
    return journal.head, journal.world.digest(), rows, desk.look("select count(*) from journal_requests")


def test_a_wish_becomes_an_entry(desk: Desk) -> None:
    """The entry is on disk, chained and signed, with cause, facts and time, when the caller is answered."""

    async def work(journal: Journal) -> None:
        outcome = await desk.ask(Add(name="a", by=3), reason="because").of(journal)
        assert (outcome.number, outcome.hash, outcome.repeated) == (1, journal.head.hash, False)
        reply = reply_of(outcome)
        assert (reply.ok, msgspec.json.decode(reply.result), reply.number) == (True, {"value": 3}, 1)
        entry = read_entry(journal.entries(0, 10)[0])
        assert (entry.number, entry.time, entry.epoch) == (1, desk.time, 1)
        assert (entry.cause.asker, entry.cause.kind, entry.cause.reason) == ("person-1", "counter.add", "because")
        assert [msgspec.json.decode(fact) for fact in entry.facts] == [{"kind": "counter.set", "name": "a", "value": 3}]
        assert desk.look("select name, value from counters") == [("a", 3)]

    desk.run(work)
    assert desk.verify().ok
    assert desk.verify().causes == 1


def test_wishes_are_decided_in_order_on_the_world_before_them(desk: Desk) -> None:
    """Many at once commit together, and each sees what those before it did."""

    async def work(journal: Journal) -> None:
        outcomes = await asyncio.gather(*(desk.ask(Add(name="a")).of(journal) for _ in range(200)))
        assert [outcome.number for outcome in outcomes] == list(range(1, 201))
        assert [msgspec.json.decode(reply_of(outcome).result)["value"] for outcome in outcomes] == list(range(1, 201))

    desk.run(work)
    assert desk.look("select count(*) from journal_commits")[0][0] <= 3
    assert desk.look("select name, value from counters") == [("a", 200)]


def test_time_rises_although_the_clock_falls(desk: Desk) -> None:
    """An entry's time is max(previous + 1 microsecond, cloud time)."""

    async def work(journal: Journal) -> list[int]:
        await desk.ask(Add(name="a")).of(journal)
        desk.time -= 7200 * SECOND
        await desk.ask(Add(name="a"), rid=host.request_id(desk.time + 7200 * SECOND)).of(journal)
        desk.time += 7300 * SECOND
        await desk.ask(Add(name="a")).of(journal)
        return [read_entry(entry).time for entry in journal.entries(0, 10)]

    first = desk.time
    assert desk.run(work) == [first, first + 1, first + 100 * SECOND]


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        (Add(name="a", by=-1), Refused),
        (Add(name="closed"), Conflict),
        (Add(name="defect"), InvariantError),
        (Add(name="many", by=5000), Refused),
        (Add(name="foreign"), Refused),
    ],
)
def test_a_refusal_answers_its_caller_and_changes_nothing(desk: Desk, wish: Add, error: type[Exception]) -> None:
    """Refusals and defects of one rule leave head, World, projection and request rows alone; neighbours in the batch commit."""

    async def work(journal: Journal) -> None:
        await desk.ask(Add(name="a")).of(journal)
        before = state(desk, journal)
        bad = desk.ask(wish)
        with pytest.raises(error):
            await bad.of(journal)
        assert state(desk, journal) == before
        again = desk.ask(wish)
        results = await asyncio.gather(
            desk.ask(Add(name="b")).of(journal), again.of(journal), desk.ask(Add(name="b")).of(journal), return_exceptions=True
        )
        assert [type(result).__name__ for result in results] == ["Outcome", type(results[1]).__name__, "Outcome"]
        assert isinstance(results[1], error)
        assert (journal.head.number, journal.world.rows["b"]) == (3, 2)

    desk.run(work)
    assert desk.verify().ok


def test_an_entry_that_is_too_large_is_refused(desk: Desk) -> None:
    """A wish within the number of facts but beyond an entry's bytes has its own code and changes nothing."""

    async def work(journal: Journal) -> None:
        before = state(desk, journal)
        with pytest.raises(Refused) as caught:
            await desk.ask(Add(name="many", by=4096, pad="x" * 150_000)).of(journal)
        assert code_of(caught.value) == "E-JNL-012"
        assert state(desk, journal) == before
        await desk.ask(Add(name="many", by=1000)).of(journal)

    desk.run(work)


def test_the_moment_is_made_in_turn_and_may_refuse(desk: Desk) -> None:
    """A permission that is gone when the wish's turn comes is gone."""

    async def work(journal: Journal) -> None:
        asking = desk.ask(Add(name="a"))

        def revoked(time: int) -> Any:
            raise Refused("the key was revoked")

        with pytest.raises(Refused, match="revoked"):
            await journal.decide(asking.cause, asking.rule, asking.wish, revoked)
        assert journal.head.number == 0

    desk.run(work)


def test_a_wish_that_needs_nothing_makes_no_entry(desk: Desk) -> None:
    """No facts, no entry: the reply names the head; repeated, it is the stored reply."""

    async def work(journal: Journal) -> None:
        await desk.ask(Add(name="a")).of(journal)
        asking = desk.ask(Drop(name="absent"))
        outcome = await asking.of(journal)
        assert (outcome.number, outcome.hash) == journal.head
        assert (journal.head.number, reply_of(outcome).number) == (1, 1)
        await desk.ask(Add(name="absent")).of(journal)
        assert (await asking.of(journal)) == outcome._replace(repeated=True)
        assert journal.world.rows["absent"] == 1

    desk.run(work)


def test_a_result_that_cannot_be_told_does_not_undo_the_wish(desk: Desk) -> None:
    """The facts stand; the reply is bounded and says so."""

    async def work(journal: Journal) -> None:
        for name in ("long", "mute"):
            outcome = await desk.ask(Add(name=name)).of(journal)
            reply = reply_of(outcome)
            assert reply.ok
            assert bytes(reply.result) == b"null"
            assert "done" in reply.message
            assert len(outcome.reply) < 61_440
        assert journal.world.rows == {"long": 1, "mute": 1}

    desk.run(work)


def test_a_repeated_request_gets_the_stored_reply(desk: Desk) -> None:
    """Same id and body: the stored reply, one effect; also after a restart."""
    asking = desk.ask(Add(name="a"))

    async def first(journal: Journal) -> Any:
        outcome = await asking.of(journal)
        await desk.ask(Add(name="a")).of(journal)
        assert await asking.of(journal) == outcome._replace(repeated=True)
        return outcome

    outcome = desk.run(first)

    async def second(journal: Journal) -> None:
        assert await asking.of(journal) == outcome._replace(repeated=True)
        assert journal.world.rows["a"] == 2

    desk.run(second)
    assert desk.look("select count(*) from journal_entries") == [(2,)]


def test_n13_concurrent_repeats_have_one_effect(desk: Desk) -> None:
    """Thirty copies of one request at once: one effect, thirty equal replies."""

    async def work(journal: Journal) -> None:
        asking = desk.ask(Add(name="a"))
        outcomes = await asyncio.gather(*(asking.of(journal) for _ in range(30)))
        assert len({outcome.reply for outcome in outcomes}) == 1
        assert sorted(outcome.repeated for outcome in outcomes) == [False] + [True] * 29
        assert journal.world.rows == {"a": 1}

    desk.run(work)


def test_repeats_are_found_beyond_what_memory_holds(desk: Desk) -> None:
    """With more ids than the set in memory holds, the database is asked, and the answers are the same."""
    askings = [desk.ask(Add(name="a")) for _ in range(12)]

    async def work(journal: Journal) -> list[Any]:
        journal._sequencer._remembered = Remembered(journal._reader, limit=5)
        first = [await asking.of(journal) for asking in askings]
        assert journal._sequencer._remembered._ids is None
        again = await asyncio.gather(*(asking.of(journal) for asking in askings))
        assert again == [outcome._replace(repeated=True) for outcome in first]
        assert journal.world.rows == {"a": 12}
        return again

    again = desk.run(work)

    async def after(journal: Journal) -> None:
        assert Remembered(journal._reader, limit=5)._ids is None
        assert len(Remembered(journal._reader)._ids or ()) == 12
        assert [await asking.of(journal) for asking in askings] == again

    desk.run(after)


@pytest.mark.parametrize("at_once", [False, True])
def test_n13_a_request_id_cannot_be_used_for_another_wish(desk: Desk, at_once: bool) -> None:
    """Same id with another body, kind or asker is a conflict with its own code, in the same batch and later."""

    async def work(journal: Journal) -> None:
        one = desk.ask(Add(name="a"))
        others = [
            desk.ask(Add(name="b"), rid=one.rid),
            desk.ask(Drop(name="a"), rid=one.rid),
            desk.ask(Add(name="a"), rid=one.rid, who="person-2"),
        ]
        if at_once:
            results = await asyncio.gather(one.of(journal), *(other.of(journal) for other in others), return_exceptions=True)
        else:
            results = [await one.of(journal), *[(await asyncio.gather(other.of(journal), return_exceptions=True))[0] for other in others]]
        assert [code_of(error) for error in results[1:]] == ["E-JNL-008"] * 3
        assert journal.world.rows == {"a": 1}

    desk.run(work)


def test_a_request_id_outside_the_window_is_refused(desk: Desk) -> None:
    """Older than 24 hours of cloud time, too far ahead, or no UUIDv7: each has its own code."""

    async def work(journal: Journal) -> None:
        day = 24 * 3600 * SECOND
        for time, code in ((desk.time - day - SECOND, "E-JNL-009"), (desk.time + 301 * SECOND, "E-JNL-010")):
            with pytest.raises(Refused) as caught:
                await desk.ask(Add(name="a"), rid=host.request_id(time)).of(journal)
            assert code_of(caught.value) == code
        with pytest.raises(Refused) as caught:
            await desk.ask(Add(name="a"), rid="0" * 36).of(journal)
        assert code_of(caught.value) == "E-NAM-002"
        for time in (desk.time - day + SECOND, desk.time + 299 * SECOND):
            await desk.ask(Add(name="a"), rid=host.request_id(time)).of(journal)
        assert journal.world.rows == {"a": 2}

    desk.run(work)


def test_forgetting_a_request_never_permits_a_repeat(desk: Desk) -> None:
    """Rows older than 24 hours go away, and the id that they guarded is refused from then on, whatever the clock does."""
    asking = desk.ask(Add(name="a"))

    async def work(journal: Journal) -> None:
        await asking.of(journal)
        desk.time += 25 * 3600 * SECOND
        await desk.ask(Add(name="b")).of(journal)
        assert desk.look("select count(*) from journal_requests") == [(1,)]
        desk.time -= 25 * 3600 * SECOND
        with pytest.raises(Refused) as caught:
            await asking.of(journal)
        assert code_of(caught.value) == "E-JNL-009"
        assert journal.world.rows == {"a": 1, "b": 1}

    desk.run(work)


def test_nobody_is_told_before_the_entry_is_on_disk(desk: Desk) -> None:
    """Callbacks come in order, once per commit, with entries that another connection already reads."""
    told: list[tuple[int, int]] = []

    def listen(stretch: Stretch) -> None:
        on_disk = desk.look("select max(number) from journal_entries")[0][0]
        assert on_disk >= stretch.commit.number
        told.append((stretch.commit.number, len(stretch.entries)))

    def failing(stretch: Stretch) -> None:
        raise RuntimeError("a listener's defect")

    async def work(journal: Journal) -> None:
        journal.on_commit(failing)
        journal.on_commit(listen)
        for _ in range(5):
            await asyncio.gather(*(desk.ask(Add(name="a")).of(journal) for _ in range(50)))
        assert journal.head.number == 250

    desk.run(work)
    numbers = [number for number, _ in told]
    assert numbers == sorted(numbers)
    assert sum(size for _, size in told) == 250


def test_settled_means_on_disk_however_many_wait(desk: Desk) -> None:
    """Under a load that never ends `settled` returns soon, and what World says then is in the file."""

    async def work(journal: Journal) -> None:
        running = True

        async def load() -> None:
            while running:
                await desk.ask(Add(name="a")).of(journal)

        workers = [asyncio.ensure_future(load()) for _ in range(200)]
        ahead = 0
        for _ in range(10):
            await desk.ask(Add(name="b")).of(journal)
            ahead += journal._decider.head != journal.head
            await journal.settled()
            assert journal._decider.head == journal.head
            assert dict(desk.look("select name, value from counters")) == journal.world.rows
        assert ahead > 0
        running = False
        await asyncio.gather(*workers)

    desk.run(work)


def test_settled_on_a_lost_journal_says_so(desk: Desk) -> None:
    """Whoever waits for the disk hears that it will not come."""

    async def work(journal: Journal) -> None:
        desk.edit("update journal_head set number = 5")
        lost = asyncio.ensure_future(desk.ask(Add(name="a")).of(journal))
        await asyncio.sleep(0)  # the wish is queued
        await asyncio.sleep(0)  # and decided
        assert journal._sequencer._in_flight
        with pytest.raises(Exception, match="failed") as caught:
            await journal.settled()
        assert code_of(caught.value) == "E-JNL-001"
        await asyncio.gather(lost, return_exceptions=True)
        with pytest.raises(Exception, match="failed"):
            await journal.settled()

    desk.run(work)


def test_the_queue_is_bounded(desk: Desk) -> None:
    """Beyond the bound a wish is turned away at once with its own code, and may be asked again."""

    async def work(journal: Journal) -> None:
        results = await asyncio.gather(*(desk.ask(Add(name="a")).of(journal) for _ in range(12)), return_exceptions=True)
        assert [code_of(result) for result in results if isinstance(result, Exception)] == ["E-JNL-011"] * 4
        assert journal.world.rows == {"a": 8}

    desk.run(work, queue_max=8)


def test_a_wish_whose_caller_is_gone_is_not_decided(desk: Desk) -> None:
    """Cancelled while it waits, a wish leaves no trace; the others go on."""

    async def work(journal: Journal) -> None:
        gone = asyncio.ensure_future(desk.ask(Add(name="gone")).of(journal))
        stays = asyncio.ensure_future(desk.ask(Add(name="stays")).of(journal))
        await asyncio.sleep(0)  # both are queued now, the decider has not run yet
        gone.cancel()
        await stays
        assert journal.world.rows == {"stays": 1}

    desk.run(work)


def test_closing_answers_what_waits_and_refuses_the_rest(desk: Desk) -> None:
    """`close` loses nothing that was taken in."""

    async def work() -> None:
        journal = desk.open()
        tasks = [asyncio.ensure_future(desk.ask(Add(name="a")).of(journal)) for _ in range(50)]
        await asyncio.sleep(0)
        await journal.close()
        assert [outcome.number for outcome in await asyncio.gather(*tasks)] == list(range(1, 51))
        with pytest.raises(Exception, match="closed") as caught:
            await desk.ask(Add(name="a")).of(journal)
        assert code_of(caught.value) == "E-JNL-018"

    asyncio.run(work())
    assert desk.verify().entries == 50


def test_broken_world_ends_the_decider(desk: Desk) -> None:
    """A fact whose apply fails half way is never committed: callers hear that the journal is lost, and nothing more is taken."""

    async def work(journal: Journal) -> None:
        await desk.ask(Add(name="a")).of(journal)
        results = await asyncio.gather(
            desk.ask(Add(name="a")).of(journal), desk.ask(Add(name="broken")).of(journal), return_exceptions=True
        )
        assert [code_of(result) for result in results] == ["E-JNL-001"] * 2
        assert len(desk.fatal) == 1
        with pytest.raises(Exception, match="failed") as caught:
            await desk.ask(Add(name="a")).of(journal)
        assert code_of(caught.value) == "E-JNL-001"

    desk.run(work)
    assert desk.look("select name, value from counters") == [("a", 1)]
    desk.run(lambda journal: desk.ask(Add(name="a")).of(journal))
    assert desk.look("select name, value from counters") == [("a", 2)]
