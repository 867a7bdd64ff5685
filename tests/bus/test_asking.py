"""Whatever comes, in whatever order: first answers count, repetitions and strangers do not, and the sums are right."""

from __future__ import annotations

import statistics

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bus.asking import Collection, Taken, nearest_rank
from bus.messages import Reply

MEMBERS = {f"n-{number}": f"label {number}" for number in range(8)}
WHO = st.sampled_from([*MEMBERS, "n-stranger", ""])
EVENTS = st.lists(st.tuples(WHO, st.booleans(), st.floats(0, 100)), max_size=60)


@given(EVENTS)
def test_the_first_answer_of_each_expected_one_counts(events: list[tuple[str, bool, float]]) -> None:
    """A model in five lines says the same."""
    collection = Collection(MEMBERS, 0.0)
    first: dict[str, tuple[bool, float]] = {}
    taken = [collection.take(who, Reply(ok=ok), at_s) for who, ok, at_s in events]
    for who, ok, at_s in events:
        if who in MEMBERS:
            first.setdefault(who, (ok, 1000 * at_s))
    assert {who: (one.ok, one.ms) for who, one in collection.answers.items()} == first
    summary = collection.summary()
    assert (summary.ok, summary.failed) == (sum(ok for ok, _ in first.values()), sum(not ok for ok, _ in first.values()))
    assert summary.targeted == summary.ok + summary.failed + len(summary.silent) == len(MEMBERS)
    assert {one.node for one in summary.silent} == MEMBERS.keys() - first.keys()
    assert (taken.count(Taken.NEW), taken.count(Taken.STRANGER)) == (len(first), summary.strangers)
    assert len(events) == len(first) + summary.repeated + summary.strangers
    assert collection.complete == (len(first) == len(MEMBERS))


@given(EVENTS)
def test_times_are_of_the_answers_that_counted(events: list[tuple[str, bool, float]]) -> None:
    """Least, mean and the nearest rank of 95 percent; nothing when nobody answered."""
    collection = Collection(MEMBERS, 0.0)
    for who, ok, at_s in events:
        collection.take(who, Reply(ok=ok), at_s)
    summary, times = collection.summary(), sorted(one.ms for one in collection.answers.values())
    if not times:
        assert (summary.min_ms, summary.avg_ms, summary.p95_ms) == (0, 0, 0)
        return
    assert (summary.min_ms, summary.p95_ms) == (times[0], times[-1])  # of at most 8, 95 percent are all
    assert abs(summary.avg_ms - statistics.fmean(times)) < 1e-6


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_95_percent_do_not_lie_above(values: list[float]) -> None:
    """The smallest value with that property."""
    found, ordered = nearest_rank(sorted(values), 95), sorted(values)
    assert 100 * sum(value <= found for value in ordered) >= 95 * len(ordered)
    assert 100 * sum(value < found for value in ordered) < 95 * len(ordered)


def test_the_exit_status_tells_all_from_some_from_none() -> None:
    """0, 3, 1; nobody at all is none."""
    statuses = []
    for answers in ((True, True), (True, False), (True, None), (False, False), (None, None)):
        collection = Collection({"a": "a", "b": "b"}, 0.0)
        for who, ok in zip("ab", answers, strict=True):
            if ok is not None:
                collection.take(who, Reply(ok=ok), 1.0)
        statuses.append(collection.summary().exit_status)
    assert (statuses, Collection({}, 0.0).summary().exit_status) == ([0, 3, 3, 1, 1], 1)


def test_what_was_said_is_kept_as_it_came() -> None:
    """Result, refusal and label."""
    collection = Collection({"a": "the first", "b": "b"}, 1.0)
    collection.take("a", Reply(ok=True, result=msgspec.Raw(b'{"x":1}')), 1.5)
    collection.take("b", Reply(ok=False, code="E-BUS-013", message="not you"), 1.25)
    one, other = collection.answers.values()
    assert (one.label, one.ms, bytes(one.result), other.code, other.message) == ("the first", 500.0, b'{"x":1}', "E-BUS-013", "not you")
