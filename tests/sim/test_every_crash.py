"""A crash at every I/O call: each point that ring 0's and ring 1's daemons pass, while they work and while they start."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.sim.acts import Acts
from tests.sim.cloud import simulated

STARTING = 10
MUST = {
    "ring0": {"file.sync", "file.rename", "directory.sync", "journal.commit", "journal.committed", "journal.answer", "answer.send"},
    "ring1": {"journal.entries.write", "journal.requests.write", "journal.projection.write", "journal.commit", "journal.answer"},
}


def wish(acts: Acts, name: str, count: int) -> None:
    acts.wish(count % 3 if name == "ring0" else 3)


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power"])
@pytest.mark.parametrize("name", ["ring0", "ring1"])
def test_a_crash_at_every_call(memory: Path, name: str, power: bool) -> None:
    """The daemon dies at every point that it passes for a wish, and at each call of its start."""
    with simulated(memory / "cloud", 11) as cloud:
        acts, process = Acts(cloud), cloud.processes[name]
        process.points.clear()
        for count in range(3):
            wish(acts, name, count)
            cloud.advance(2)
        assert process.points.keys() >= MUST[name] - {"file.sync", "file.rename", "directory.sync"}
        for count, point in enumerate(sorted(process.points)):
            cloud.doom(name, 1, at=point, power=power)
            wish(acts, name, count)
            cloud.advance(1.5)
        for after in range(1, STARTING + 1):
            cloud.kill(name)
            cloud.doom(name, after, power=power)
            cloud.advance(1.5)
        acts.settle()
        assert all(one.granted for one in cloud.operator.told)
        died = Counter(process.died_at)
        assert died.keys() >= MUST[name] - ({"journal.commit"} if power else set()), sorted(died)  # a torn commit ends where it ended
        assert process.deaths >= STARTING + len(MUST[name])
