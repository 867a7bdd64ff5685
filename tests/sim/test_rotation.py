"""A ring 1 node and its agent get other keys while people go on: every wish of theirs is granted, and the old key dies afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from ring0.keys import ListKeys, ReplaceKey, RevokeKey
from ring0.tiers import CreateTier
from ring1.accounts import CreateToken
from tests.sim.cloud import Cloud, simulated


def speaking(cloud: Cloud) -> dict[str, str]:
    """Return the key with which ring 1 and its agent speak now."""
    agent = cloud.processes["ring2"].parts
    return {"ring1": str(cloud.domain("ring1").speaker.signer.key_id), "ring2": "" if agent is None else str(agent.speaker.signer.key_id)}


async def people(cloud: Cloud, ending: asyncio.Event) -> int:
    """Want something of both rings again and again until *ending*; return how often. Raises: AssertionError when it is not granted."""
    count = 0
    while not ending.is_set():
        count += 1
        wishes: tuple[tuple[int, Any], ...] = (
            (0, CreateTier(name=f"tier-{count}")), (1, CreateToken(name=f"token-{count}", secret_hash=f"{count:064x}")),
        )  # fmt: skip
        for ring, wish in wishes:
            told = await cloud.operator.wish(ring, wish)
            assert told.granted, (count, told)
        await asyncio.sleep(0.2)
    return count


async def rotate(cloud: Cloud) -> dict[str, str]:
    """Replace ring 1's key, and its agent's with it, then revoke the old one; return the old keys."""
    old = speaking(cloud)
    assert (await cloud.operator.wish(0, ReplaceKey(key=old["ring1"]))).granted
    await cloud.until(
        lambda: cloud.up() and not set(speaking(cloud).values()) & set(old.values()), 30, "both have other keys", lambda: speaking(cloud)
    )
    assert (await cloud.operator.wish(0, RevokeKey(key=old["ring1"], reason="rotated"))).granted
    await cloud.until(lambda: old["ring1"] in cloud.domain("ring1").trust.revoked, 10, "ring 1 believes its old key no longer")
    return old


def test_keys_are_replaced_and_no_wish_is_refused(memory: Path) -> None:
    """Twice; in between ring 1's daemon is killed, and goes on with the key that it has by then."""

    async def story(cloud: Cloud) -> None:
        ending = asyncio.Event()
        asking = asyncio.ensure_future(people(cloud, ending))
        first = await rotate(cloud)
        second = speaking(cloud)
        cloud.kill("ring1")
        await cloud.until(lambda: cloud.up() and speaking(cloud) == second, 20, "ring 1 is back with the key that it had by then")
        await rotate(cloud)
        ending.set()
        assert await asking > 20
        keys = {line["key"]: line["state"] for line in await query(cloud)}
        assert [keys[first["ring1"]], keys[second["ring1"]], keys[speaking(cloud)["ring1"]]] == ["revoked", "revoked", "active"]
        with_agent = cloud.domain("ring1").trust
        assert with_agent.authority(cloud.processes["ring2"].parts.speaker.grant, cloud.domain("ring1").journal.now())

    async def query(cloud: Cloud) -> list[dict[str, Any]]:
        caller = cloud.operator.caller(0)
        reply = await caller.query(ListKeys())
        return list(msgspec.json.decode(reply.result))

    with simulated(memory / "rotation", 11) as cloud:
        cloud.run(story(cloud))
