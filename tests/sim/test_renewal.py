"""Grants end after two days and are renewed at half of that, while everything runs; and a machine that slept needs nobody's help."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from keys.grants import Grant
from ring1.accounts import CreateToken
from tests.sim.cloud import Cloud, simulated

HOUR_S = 3600
DAY_US = 86_400_000_000


def grants(cloud: Cloud) -> dict[str, Grant]:
    """Return the grant that each ring speaks with now."""
    found = {}
    for name in ("ring0", "ring1"):
        domain = cloud.domain(name)
        found[name] = domain.trust.grant(domain.speaker.grant)
    agent = cloud.processes["ring2"].parts
    return found | {"ring2": agent.trust.grant(agent.speaker.grant)}


def all_is_well(cloud: Cloud, number: int, hours: float) -> None:
    """Each ring speaks with a grant in force, ring 1's with at least a day left, the agent's from it; and a person is served."""

    def renewed() -> bool:
        agent = cloud.processes["ring2"]
        if agent.parts is None or not cloud.up():
            return False
        now, held = cloud.domain("ring0").journal.now(), grants(cloud)
        ring1 = cloud.domain("ring1").speaker.grant
        return held["ring1"].expiry - now >= DAY_US and held["ring2"].parent == ring1 and held["ring2"].expiry > now

    cloud.run(cloud.until(renewed, 30, f"renewed after {hours} hours", lambda: {name: one.expiry for name, one in grants(cloud).items()}))
    wish: Any = CreateToken(name=f"token-{number}", secret_hash=f"{number:064x}")  # type: ignore[arg-type]
    told = cloud.run(cloud.operator.wish(1, wish))
    assert told.granted, told


@pytest.mark.parametrize("hours", [25, 49, 600])
def test_n22_a_machine_that_slept_goes_on_by_itself(memory: Path, hours: int) -> None:
    """Asleep for half a grant's life, for longer than it, for weeks; twice, and once with ring 1's daemon killed in its sleep."""
    with simulated(memory / "sleep", hours) as cloud:
        first = grants(cloud)["ring1"]
        for number in range(1, 4):
            cloud.loop.now_s += hours * HOUR_S
            if number == 3:
                cloud.kill("ring1")
            all_is_well(cloud, number, hours)
        assert grants(cloud)["ring1"].keys == first.keys
        assert cloud.processes["ring0"].deaths == 0


def test_nothing_is_renewed_before_its_time(memory: Path) -> None:
    """The valid twin: within the first day the grants stay what they are."""
    with simulated(memory / "young", 5) as cloud:
        cloud.advance(5)
        before = grants(cloud)
        cloud.loop.now_s += 20 * HOUR_S
        cloud.advance(5)
        assert grants(cloud) == before


@pytest.mark.parametrize("seed", range(4))
def test_an_agent_killed_while_its_ring_1_is_renewed_is_not_ended_again(memory: Path, seed: int) -> None:
    """Its successor begins with the newer grant and still hears ring 1, which speaks with the older one until all agents are told."""
    with simulated(memory / "killed", seed) as cloud:
        agent = cloud.processes["ring2"]

        async def killed_meanwhile() -> None:
            end = cloud.loop.now_s + 180
            while cloud.domain("ring1").grant == cloud.domain("ring1").speaker.grant:
                assert cloud.loop.now_s < end, "nothing was renewed"
                await asyncio.sleep(0.0005)
            cloud.kill("ring2")

        cloud.loop.now_s += 24 * HOUR_S - 90
        cloud.advance(30)
        before = agent.deaths
        cloud.run(killed_meanwhile())
        all_is_well(cloud, 1, 24)
        assert agent.deaths == before + 1
