"""Random walks through people's wishes and every fault, each from one seed; `./bootstrap test --seeds N` walks more of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.sim.acts import Acts, walk
from tests.sim.cloud import simulated

STEPS = 25
FIRST = range(4)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Walk the first seeds, or as many as `--seeds` says, or the one that `--seed` names."""
    if "seed" in metafunc.fixturenames:
        one, many = metafunc.config.getoption("--seed"), metafunc.config.getoption("--seeds")
        metafunc.parametrize("seed", [one] if one is not None else range(many) if many else FIRST)


def wander(folder: Path, seed: int) -> tuple[str, list[str]]:
    """Walk once and return digests of ring 0's and ring 1's journals, and who died when."""
    with simulated(folder, seed) as cloud:
        try:
            walk(Acts(cloud), random.Random(seed), STEPS)
        except AssertionError as error:
            raise AssertionError(f"seed {seed} fails; again: ./bootstrap test tests/sim/test_seeds.py --seed {seed}\n{error}") from error
        heads = " ".join(cloud.domain(name).journal.head.hash for name in ("ring0", "ring1"))
        return heads, list(cloud.trace)


def test_everything_that_must_hold_holds(memory: Path, seed: int) -> None:
    """Whatever is lost, repeated, reordered, cut, killed and torn: nothing acknowledged is lost, and all are equal after healing."""
    wander(memory / "walk", seed)


def test_a_seed_tells_the_same_story_twice(memory: Path) -> None:
    """Time, chance, threads and the order of events all come from the seed: journals and deaths are the same to the last byte."""
    assert wander(memory / "one", 7) == wander(memory / "two", 7)
