"""verified_per_s: messages that are opened in full, every stage, and handed to a handler, by one core; beside it Ed25519 alone.

Small observations (about 550 bytes on the wire), each from one of many daemons with a key, a grant, a boot and sequence numbers of its own.
batched_records_per_s: the same observations, 256 under a signature, opened in full, each decoded by its handler; beside it Ed25519 over
the same frames and msgspec alone, which is as fast as this can get.
"""

from __future__ import annotations

import asyncio
import time

import msgspec

from bus.batches import SUBJECT, pack
from bus.dispatch import Handlers, Seen
from keys.frame import open_frame
from keys.signing import verify
from tests.bench.figures import Peer, Row, rows
from tests.bus.parties import CHANNEL, DOMAIN, Cloud, Saw
from tests.cloud import Cloud as RealCloud

MESSAGES, SENDERS = 16_000, 20
SIGNATURES = 8_000
RECORDS, BATCH = 204_800, 256


class Batched(msgspec.Struct):
    """A batch of one kind, as msgspec alone reads it."""

    runs: list[tuple[str, list[Saw]]]


class Signed(msgspec.Struct):
    """A statement, as msgspec alone reads it."""

    body: Batched


def sealed(cloud: Cloud) -> list[bytes]:
    """Return the frames, in the order in which they were signed, a sender after the other."""
    speakers = []
    for number in range(SENDERS):
        speakers.append(cloud.speaker_of(cloud.enrol_agent(f"n-bbbbbbbb{number:08x}"), daemon=True))
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


def batched(cloud: Cloud) -> list[bytes]:
    """Return frames of a batch each."""
    speaker = cloud.speaker_of(cloud.agent, daemon=True)
    batches = [next(pack(Saw(instance=f"i-{at + number:016x}") for number in range(BATCH))) for at in range(0, RECORDS, BATCH)]
    return [speaker.seal(SUBJECT, batch, audience=DOMAIN) for batch in batches]


async def records_per_s(cloud: Cloud, frames: list[bytes]) -> float:
    """Return how many records of *frames* one dispatcher takes and its handler decodes in a second."""
    decode = msgspec.json.Decoder(Saw).decode
    taken: list[Saw] = []

    def observe(seen: Seen) -> None:
        taken.append(decode(seen.body))

    cloud.dispatcher.handlers = Handlers(decide=cloud.journal.decide, answer=lambda *_: None, observe=observe)
    began = time.perf_counter()
    for frame in frames:
        await cloud.dispatcher.handle(frame, channel=CHANNEL, subject=SUBJECT, connection="bus")
    spent = time.perf_counter() - began
    if len(taken) != RECORDS or taken[-1].instance != f"i-{RECORDS - 1:016x}":
        raise AssertionError(f"{RECORDS - len(taken)} records were lost: {cloud.dispatcher.counters}")
    return RECORDS / spent


def floor_per_s(cloud: Cloud, frames: list[bytes]) -> float:
    """Return how many records of *frames* are verified by PyNaCl and decoded by msgspec in a second, and nothing else is done."""
    decode = msgspec.json.Decoder(Signed).decode
    opened = [(cloud.trust.key(frame.key_id).public, frame) for frame in map(open_frame, frames)]
    began = time.perf_counter()
    found = 0
    for public, frame in opened:
        verify(public, frame.type, frame.payload, frame.signature)
        found += len(decode(frame.payload).body.runs[0][1])
    return found / (time.perf_counter() - began)


def measure(_cloud: RealCloud) -> list[Row]:
    """Return both figures."""
    cloud = Cloud()
    frames = sealed(cloud)
    bare = Peer("PyNaCl verify alone", bare_per_s(cloud, frames[:SIGNATURES]))
    found = rows("verified_per_s", asyncio.run(opened_per_s(cloud, frames)), [bare])
    cloud = Cloud()
    frames = batched(cloud)
    floor = Peer("PyNaCl verify and msgspec decode alone", floor_per_s(cloud, frames))
    return found + rows("batched_records_per_s", asyncio.run(records_per_s(cloud, frames)), [floor])
