"""Grants end after an hour and are renewed at half of that, while everything runs; ring 1 goes on alone for a day, and a machine that slept
needs nobody's help."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from compartments.rows import Charter
from keys.grants import Grant
from keys.term import end_at_home, renewal
from keys.trust import GrantExpired
from ring1.accounts import CreateToken
from supervision.instances import OfferGrants
from tests.sim.cloud import Cloud, simulated
from tests.sim.invariants import check_authority, check_chain, check_projection, entries, journal_path

MINUTE_S, HOUR_S = 60, 3600
MINUTE_US, HOUR_US = 60_000_000, 3_600_000_000


def grants(cloud: Cloud) -> dict[str, Grant]:
    """Return the grant that each ring speaks with now."""
    found = {}
    for name in ("ring0", "ring1"):
        domain = cloud.domain(name)
        found[name] = domain.trust.grant(domain.speaker.grant)
    agent = cloud.processes["ring2"].parts
    return found | {"ring2": agent.trust.grant(agent.speaker.grant)}


def token(number: int) -> Any:
    """Return a wish for another token."""
    return CreateToken(name=f"token-{number}", secret_hash=f"{number:064x}")  # type: ignore[arg-type]


def all_is_well(cloud: Cloud, number: int, hours: float) -> None:
    """Each ring speaks with a grant in force, ring 1's with nearly half an hour left for others and 23 hours for itself, the agent's from
    it; and a person is served."""

    def renewed() -> bool:
        agent = cloud.processes["ring2"]
        if agent.parts is None or not cloud.up():
            return False
        now, held = cloud.domain("ring0").journal.now(), grants(cloud)
        left, alone = held["ring1"].expiry - now, end_at_home(held["ring1"]) - now
        own = left >= 27 * MINUTE_US and alone >= 23 * HOUR_US
        return own and held["ring2"].parent == cloud.domain("ring1").speaker.grant and held["ring2"].expiry > now

    cloud.run(cloud.until(renewed, 30, f"renewed after {hours} hours", lambda: {name: one.expiry for name, one in grants(cloud).items()}))
    told = cloud.run(cloud.operator.wish(1, token(number)))
    assert told.granted, told


@pytest.mark.parametrize("hours", [2, 25, 49, 600])
def test_n22_a_machine_that_slept_goes_on_by_itself(memory: Path, hours: int) -> None:
    """Asleep for longer than ring 1's grant lives, than it may go on alone, for weeks; twice, and once with its daemon killed asleep."""
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
    """The valid twin: within the first 25 minutes the grants stay what they are."""
    with simulated(memory / "young", 5) as cloud:
        cloud.advance(5)
        before = grants(cloud)
        cloud.loop.now_s += 25 * MINUTE_S
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

        domain = cloud.domain("ring1")
        due = renewal(domain.trust.grant(domain.grant), domain.grant) - domain.journal.now()
        cloud.loop.now_s += due / 1e6 - 90
        cloud.advance(30)
        before = agent.deaths
        cloud.run(killed_meanwhile())
        all_is_well(cloud, 1, 0.5)
        assert agent.deaths == before + 1


def pass_hours(cloud: Cloud, hours: float) -> None:
    """Let *hours* pass in steps of ten minutes, with some seconds at the end of each in which everybody acts."""
    for _ in range(round(hours * 6)):
        cloud.loop.now_s += 10 * MINUTE_S - 5
        cloud.advance(5)


def leave(cloud: Cloud) -> None:
    """Take ring 0 away."""
    process = cloud.processes["ring0"]
    process.wanted = False
    cloud.kill("ring0")
    cloud.run(cloud.until(lambda: process.life is None or not process.life.tasks, 10, "ring 0 has ended"))


def come_back(cloud: Cloud) -> None:
    """Start ring 0 again."""
    process = cloud.processes["ring0"]
    assert process.disk is not None
    process.disk.restore()
    cloud.begin(process)


def obeyed(cloud: Cloud) -> bool:
    """Whether the agent does what ring 1 says."""
    [agent] = cloud.processes["ring1"].parts.agents.all()
    reply = cloud.run(agent.caller.command(OfferGrants(grants=()), deadline_s=5))
    return bool(reply.ok)


def check_journal(cloud: Cloud) -> None:
    """What was decided alone verifies from the first entry, and is what the tables and a replay say."""
    domain, path = cloud.domain("ring1"), journal_path(cloud, 1)
    cloud.run(domain.journal.settled())
    check_chain(path, domain.trust, domain.journal.identity.publics)
    check_projection(path, domain.journal)
    check_authority(domain.trust)


def test_ring_1_goes_on_for_two_hours_without_ring_0(memory: Path) -> None:
    """Others would refuse its grant, and in its own domain it counts: people are served, ring 1 decides for itself, its agent obeys, also
    after a restart; ring 0 renews it as soon as it is back, and what was decided meanwhile verifies."""
    with simulated(memory / "away", 2) as cloud:
        cloud.advance(5)
        old, node = cloud.domain("ring1").speaker.grant, cloud.node
        leave(cloud)
        for number in range(1, 3):
            pass_hours(cloud, 1)
            domain = cloud.domain("ring1")
            assert domain.speaker.grant == old
            assert cloud.run(cloud.operator.wish(1, token(number))).granted
            assert cloud.run(domain.wish(token(100 + number))).ok
            assert obeyed(cloud)
            if number == 2:
                cloud.kill("ring1")
                cloud.run(cloud.until(lambda: alone(cloud), 30, "ring 1 and its agent are back without ring 0"))
                assert cloud.run(cloud.operator.wish(1, token(200))).granted
        now = cloud.domain("ring1").journal.now()
        come_back(cloud)
        all_is_well(cloud, 300, 2)
        check_journal(cloud)
        above = cloud.domain("ring0").trust
        with pytest.raises(GrantExpired):
            above.authority(old, now)
        assert above.authority(old, now, node).grant.subject == node, "the twin: the same grant, in its own domain"
        followed = cloud.processes["ring0"].parts.caring
        head = cloud.domain("ring1").journal.head.number
        cloud.run(cloud.until(lambda: followed.copies()[0].number >= head, 30, "ring 0 has copied what was decided without it"))


def alone(cloud: Cloud) -> bool:
    """Whether ring 1 and its agent run, whatever becomes of ring 0."""
    lives = [cloud.processes[name] for name in ("ring1", "ring2")]
    return all(one.life is not None and one.life.alive and one.parts is not None for one in lives) and bool(
        (agents := cloud.processes["ring1"].parts.agents) and agents.all() and agents.all()[0].caller
    )


def test_ring_1_decides_nothing_more_after_a_day_alone(memory: Path) -> None:
    """At 22 hours as ever; at 25 it takes no wish, and neither it nor its agent has ended; when ring 0 is back, all is as before."""
    with simulated(memory / "day", 25) as cloud:
        cloud.advance(5)
        leave(cloud)
        pass_hours(cloud, 22)
        assert cloud.run(cloud.operator.wish(1, token(1))).granted
        assert obeyed(cloud)
        pass_hours(cloud, 3)
        told = cloud.run(cloud.operator.wish(1, token(2)))
        assert not told.granted
        assert (cloud.processes["ring1"].deaths, cloud.processes["ring2"].deaths) == (0, 0)
        head = cloud.domain("ring1").journal.head.number
        assert not any(one.cause.request == told.request for one in entries(journal_path(cloud, 1)))
        come_back(cloud)
        all_is_well(cloud, 3, 25)
        assert cloud.domain("ring1").journal.head.number > head
        check_journal(cloud)


def test_a_day_of_renewals(memory: Path) -> None:
    """Half-hourly for a day: a renewal costs ring 0 two entries and ring 1 one; no daemon heaps up grants that have ended."""
    with simulated(memory / "renewals", 7) as cloud:
        cloud.advance(5)
        before = {ring: len(entries(journal_path(cloud, ring))) for ring in (0, 1)}
        charter = cloud.domain("ring0").world.need(Charter, cloud.node).version
        pass_hours(cloud, 24)
        renewals = cloud.domain("ring0").world.need(Charter, cloud.node).version - charter
        assert 36 <= renewals <= 60
        added = {ring: len(entries(journal_path(cloud, ring))) - before[ring] for ring in (0, 1)}
        assert added == {0: 2 * renewals, 1: renewals}
        pass_hours(cloud, 24)
        counts = {name: len(cloud.domain(name).trust.frames()) for name in ("ring0", "ring1")}
        counts["ring2"] = len(cloud.processes["ring2"].parts.trust.frames())
        assert max(counts.values()) <= 2 * 60 + 10, counts
        all_is_well(cloud, 1, 48)
