"""The rhythm of heartbeats: fast among few, slower among many, and never slower than a beat can say."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bus.heartbeats import BEAT_MAX_S, BEAT_S, MISSED_MAX, beat_s, silence_s
from bus.hub.serving import io_threads
from bus.hub.settings import KEYS_MAX, count_keys
from bus.over_nats.server import Server, configuration
from bus.over_zmq import ZmqTransport, allow_keys, curve_text
from enjin.host import random_bytes
from keys.keyring import KeyPair
from keys.nats_keys import NatsAuthority
from tests.bus.hubs import running_hub
from tests.bus.nats_servers import CLOUD
from tests.bus.parties import seed
from tests.bus.waiting import asynchronous

ZMTP_TTL_MAX_S = 65  # a PING's time to live, as libzmq counts it: milliseconds in 16 bits


@pytest.mark.parametrize(("participants", "seconds"), [(0, 2), (1, 2), (1000, 2), (1001, 4), (2500, 6), (10_000, 20), (KEYS_MAX, 20)])
def test_the_beat_slows_down_with_many(participants: int, seconds: int) -> None:
    """Two seconds for up to a thousand, then in proportion, twenty at most."""
    assert seconds == beat_s(participants)


def test_a_beat_can_say_when_it_is_missed() -> None:
    """The longest silence that is allowed fits into what a beat tells its receiver."""
    assert MISSED_MAX * BEAT_MAX_S <= ZMTP_TTL_MAX_S


@pytest.mark.parametrize("beat", [2, 20])
def test_silence_is_found_within_three_beats(beat: int) -> None:
    """One until it is asked for, and the rest without an answer."""
    assert beat + silence_s(beat) == MISSED_MAX * beat


@asynchronous
async def test_a_participant_keeps_the_beat_of_its_hub(tmp_path: Path) -> None:
    """It begins as with few, is told by a hub that more than a thousand may come to, and goes on with that; nothing is lost by it."""
    others = [random_bytes(32).hex() for _ in range(1001)]
    keys = KeyPair(random_bytes(32))
    allow_keys(tmp_path / "keys.json", [*others, keys.public.hex()])
    with running_hub(tmp_path) as hub:
        one = ZmqTransport.connect(
            hub.endpoint, server_key=hub.public, public_key=curve_text(keys.public), secret_key=curve_text(keys.secret)
        )
        try:
            heard: asyncio.Queue[bytes] = asyncio.Queue()
            assert one.beat_s == BEAT_S
            await one.publish("seen.before", b"b")
            await one.subscribe("seen", lambda _subject, frame: heard.put(bytes(frame)))
            assert one.beat_s == beat_s(1002) == 2 * BEAT_S
            await one.publish("seen.after", b"a")
            async with asyncio.timeout(10):
                while await heard.get() != b"a":
                    pass
        finally:
            await one.close()


@pytest.mark.parametrize("count", [0, 1, 1001, KEYS_MAX])
def test_a_hub_counts_who_may_connect(home: Path, count: int) -> None:
    """Every key that the file allows, up to the bound."""
    allow_keys(home / "keys.json", [random_bytes(32).hex() for _ in range(count)])
    assert count == count_keys(str(home / "keys.json"))


@pytest.mark.parametrize(("keys", "threads"), [(0, 1), (999, 1), (1000, 2), (10_000, 11), (KEYS_MAX, 16)])
def test_a_hub_has_more_threads_for_many(keys: int, threads: int) -> None:
    """One for up to a thousand, then one more for each thousand, sixteen at most."""
    assert threads == io_threads(keys)


def test_a_hub_counts_nobody_in_a_bad_file(home: Path) -> None:
    """Nor in one that passes the bound, or that is not there."""
    assert count_keys(str(home / "none.json")) == 0
    allow_keys(home / "keys.json", [random_bytes(32).hex() for _ in range(KEYS_MAX + 1)])
    assert count_keys(str(home / "keys.json")) == 0


@pytest.mark.parametrize(("participants", "interval"), [(0, "2s"), (10_000, "20s")])
def test_a_nats_server_beats_as_slowly(home: Path, participants: int, interval: str) -> None:
    """It asks its clients in the same rhythm, and gives them up after as many beats."""
    server = Server("s0", home, "127.0.0.1", 4222, participants=participants)
    told = configuration(server, NatsAuthority(seed("heartbeats")), CLOUD)
    assert (told["ping_interval"], told["ping_max"]) == (interval, MISSED_MAX - 1)
