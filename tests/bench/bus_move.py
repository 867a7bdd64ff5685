"""bus_move_pause_s: the longest that one of a steady stream of signed commands waits while the cloud moves from ZeroMQ to NATS.

Every command has to be granted. The cloud moves back afterwards, which is not measured.
"""

from __future__ import annotations

import asyncio

from bus.over_nats.participant import NatsTransport
from bus.session import Session
from enjin import config as configuration
from enjin.host import monotonic_s
from ring0.tiers import CreateTier
from tests.bench.figures import Row, rows
from tests.cloud import Cloud

AFTER = 200


async def longest_s(cloud: Cloud) -> float:
    """Return the seconds of the slowest command, from before the move until some time after this session has gone over."""
    longest, left, number = 0.0, AFTER, 0
    async with await Session.open(configuration.load({}, cloud.environment)) as session:
        moving = asyncio.ensure_future(asyncio.to_thread(cloud.run, "bus", "migrate", "nats"))
        while left:
            began = monotonic_s()
            await session.command(0, CreateTier(name=f"move-{number}"))
            longest, number = max(longest, monotonic_s() - began), number + 1
            left -= moving.done() and isinstance(session.caller(0).transport, NatsTransport)
        await moving
    return longest


def measure(cloud: Cloud) -> list[Row]:
    """Return bus_move_pause_s."""
    try:
        return rows("bus_move_pause_s", asyncio.run(longest_s(cloud)))
    finally:
        cloud.run("bus", "migrate", "zmq")
