"""verified_per_s: messages that are opened in full, every stage, and handed to a handler, by one core; beside it Ed25519 alone.

Small observations (about 550 bytes on the wire), each from one of many daemons with a key, a grant, a boot and sequence numbers of its own.
"""

from __future__ import annotations

import asyncio
import time

from keys.frame import open_frame
from keys.signing import verify
from tests.bench.figures import Peer, Row, rows
from tests.bus.parties import CHANNEL, DOMAIN, PATH, Cloud, Saw
from tests.cloud import Cloud as RealCloud

MESSAGES, SENDERS = 16_000, 20
SIGNATURES = 8_000


def sealed(cloud: Cloud) -> list[bytes]:
    """Return the frames, in the order in which they were signed, a sender after the other."""
    speakers = []
    for number in range(SENDERS):
        party = cloud._enrol(f"n-bbbbbbbb{number:08x}", 2, 0, f"{PATH}/default", (CHANNEL,), cloud.daemon, role=1)
        speakers.append(cloud.speaker_of(party, daemon=True))
    subject = f"seen.{Saw.KIND}"
    return [
        speakers[number % SENDERS].seal(subject, Saw(instance=f"i-{number:016x}"), audience=DOMAIN) for number in range(MESSAGES)
    ]


async def opened_per_s(cloud: Cloud, frames: list[bytes]) -> float:
    """Return how many of *frames* one dispatcher takes in a second."""
    subject = f"seen.{Saw.KIND}"
    began = time.perf_counter()
    for number, frame in enumerate(frames):
        await cloud.dispatcher.handle(frame, channel=CHANNEL, subject=subject, connection=f"bus-{number % 4}")
    taken = time.perf_counter() - began
    if len(cloud.observed) != len(frames):
        raise AssertionError(f"{len(frames) - len(cloud.observed)} messages were refused: {cloud.dispatcher.counters}")
    return len(frames) / taken


def bare_per_s(cloud: Cloud, frames: list[bytes]) -> float:
    """Return how many signatures of *frames* one core verifies in a second, and does nothing else."""
    opened = [(cloud.trust.key(frame.key_id).public, frame) for frame in map(open_frame, frames)]
    began = time.perf_counter()
    for public, frame in opened:
        verify(public, frame.type, frame.payload, frame.signature)
    return len(opened) / (time.perf_counter() - began)


def measure(_cloud: RealCloud) -> list[Row]:
    """Return verified_per_s."""
    cloud = Cloud()
    frames = sealed(cloud)
    bare = Peer("PyNaCl verify alone", bare_per_s(cloud, frames[:SIGNATURES]))
    return rows("verified_per_s", asyncio.run(opened_per_s(cloud, frames)), [bare])
