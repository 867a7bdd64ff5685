"""Facts keep their meaning: every kind reads and applies the bytes that it was first written in.

`vectors/facts.jsonl` holds one entry per line: facts in the order in which they became true. Lines are added, never changed.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bus.messages import Malformed, NotCanonical, canonical, parse
from compartments.facts import FACTS, accounts, approvals, charters, endings, joining, networks, nodes, places, roots
from compartments.world import World

VECTORS = Path(__file__).parent / "vectors" / "facts.jsonl"
OURS = {fact.KIND for module in (accounts, approvals, charters, endings, joining, networks, nodes, places, roots) for fact in module.FACTS}


def lines() -> list[bytes]:
    """Return the vectors."""
    return VECTORS.read_bytes().splitlines()


def fact_of(data: bytes) -> object:
    """Return the fact in *data*."""
    return parse(data, FACTS[msgspec.json.decode(data)["kind"]])


def test_every_kind_has_a_vector() -> None:
    """No kind of these files is without bytes that it must always be able to read."""
    assert {msgspec.json.decode(line)["kind"] for line in lines()} == OURS


def test_vectors_are_read_and_written_the_same() -> None:
    """Each vector is its own one spelling."""
    for line in lines():
        assert canonical(fact_of(line)) == line


def test_vectors_fold_to_the_world_they_always_made() -> None:
    """The fold of all vectors has, for every row, the bytes that it always had."""
    world = World()
    for line in lines():
        fact_of(line).apply(world)  # type: ignore[attr-defined]
    kept = msgspec.json.decode(VECTORS.with_name("world.json").read_bytes())
    assert msgspec.json.decode(world.snapshot())["rows"] == kept


@pytest.mark.parametrize("position", range(3))
def test_bytes_that_are_not_the_one_spelling_are_refused(position: int) -> None:
    """A space, a field too many and a field of the wrong type: each is refused, for every kind."""
    for line in lines():
        value = msgspec.json.decode(line)
        shape = FACTS[value["kind"]]
        broken = (line.replace(b",", b", ", 1) + b" ", canonical(value | {"zzz": 1}), canonical(value | {next(iter(value)): [[]]}))
        with pytest.raises((Malformed, NotCanonical)):
            parse(broken[position], shape)
