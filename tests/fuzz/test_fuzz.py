"""A few seconds of every target in each run: bytes that are nearly right, cut, joined, and not right at all."""

from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, attempt

SLOW = {"archive": 60, "journal": 60, "dispatch": 150, "grant": 60}
EXAMPLES = 400


@functools.cache
def seeds(name: str) -> tuple[bytes, ...]:
    """Return the bytes that a target begins with."""
    return tuple(TARGETS[name].seeds())


@st.composite
def nearly(draw: st.DrawFn, name: str) -> bytes:
    """Draw a seed with a few bytes changed, inserted, removed, or another seed's tail."""
    data = bytearray(draw(st.sampled_from(seeds(name))))
    for _ in range(draw(st.integers(0, 4))):
        at, other = draw(st.integers(0, len(data))), draw(st.binary(max_size=6))
        match draw(st.sampled_from(["change", "insert", "cut", "end", "splice"])):
            case "change":
                data[at : at + len(other)] = other
            case "insert":
                data[at:at] = other
            case "cut":
                del data[at : at + draw(st.integers(0, 40))]
            case "end":
                del data[at:]
            case "splice":
                data[at:] = draw(st.sampled_from(seeds(name)))[at:]
    return bytes(data)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_nothing_but_what_is_declared_comes_out(name: str) -> None:
    """Whatever the bytes, a parser answers, or refuses in its own words."""

    @settings(max_examples=SLOW.get(name, EXAMPLES), deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.one_of(nearly(name), st.binary(max_size=200)))
    def fuzz(data: bytes) -> None:
        attempt(name, data)

    fuzz()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_seed_is_what_the_target_takes(name: str) -> None:
    """The valid twin: at least one seed is accepted, so the fuzzer begins behind the first check."""
    accepted = 0
    for seed in seeds(name):
        try:
            TARGETS[name].run(seed)
        except TARGETS[name].declared:
            continue
        accepted += 1
    assert accepted
