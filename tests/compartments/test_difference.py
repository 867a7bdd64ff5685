"""The difference of two worlds: complete, and the same rows seen from either side."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compartments.difference import difference
from compartments.rows import Counter
from compartments.world import World

COUNTERS = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.integers(0, 3), max_size=6)


def world(counters: dict[str, int]) -> World:
    """Return a world with these counters."""
    return World(Counter(name=name, value=value) for name, value in counters.items())


@given(COUNTERS, COUNTERS)
def test_every_row_that_differs_is_named_once(before: dict[str, int], after: dict[str, int]) -> None:
    """Applying the changes to the first world gives the second, and nothing else is told."""
    made = dict(before)
    for change in difference(world(before), world(after)):
        assert change.table == "counter"
        if change.op == "removed":
            assert change.fields["value"] == (made.pop(change.key), None)
        else:
            assert change.fields["value"][0] == made.get(change.key)
            made[change.key] = change.fields["value"][1]
    assert made == after


@given(COUNTERS, COUNTERS)
def test_it_is_seen_from_either_side(before: dict[str, int], after: dict[str, int]) -> None:
    """What was added one way was removed the other."""
    other = {"added": "removed", "removed": "added", "changed": "changed"}
    there = {(change.key, change.op) for change in difference(world(before), world(after))}
    back = {(change.key, other[change.op]) for change in difference(world(after), world(before))}
    assert there == back
