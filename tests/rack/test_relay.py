"""C5, C12: a real hub and real participants with a relay between them that delays, repeats, reorders, blackholes and cuts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from bus import caller as caller_module
from bus.caller import Caller
from tests.bus.hubs import ROOT, RunningHub, configure, end, running_hub, wait_ready
from tests.bus.parties import Cloud, Paint
from tests.bus.waiting import asynchronous
from tests.rack.lines import DEADLINE_S, relayed, talking

COMMANDS = 20
CLOSED_S = 12.0  # twice what is promised: a bound for a loaded machine, far from a minute


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat soon, so that a test needs no patience."""
    monkeypatch.setattr(caller_module, "FIRST_WAIT_S", 0.1)
    monkeypatch.setattr(caller_module, "WAIT_MAX_S", 0.4)


async def paint(cloud: Cloud, caller: Caller, first: int, count: int) -> None:
    """Want *count* things at once; each is granted, and takes effect once."""
    before = cloud.journal.head
    replies = await asyncio.gather(*(caller.command(Paint(app=f"a{first + at}"), deadline_s=DEADLINE_S) for at in range(count)))
    assert [reply.ok for reply in replies] == [True] * count
    assert cloud.journal.head == before + count
    assert sorted(wish.app for wish, _ in cloud.journal.entries[before:]) == sorted(f"a{first + at}" for at in range(count))  # type: ignore[attr-defined]


@asynchronous
async def test_c05_a_slow_line_delays_and_nothing_else(tmp_path: Path) -> None:
    """With 100 ms on every chunk each way all commands finish, each once."""
    with running_hub(tmp_path) as hub, relayed(tmp_path, hub) as (relay, endpoint):
        async with talking(hub, endpoint) as (cloud, caller):
            await paint(cloud, caller, 0, 3)
            relay.tell("delay 100")
            await paint(cloud, caller, 10, COMMANDS)


@pytest.mark.parametrize("fault", ["repeat 3", "swap 2", "cut"])
@asynchronous
async def test_c05_bytes_that_are_changed_on_the_way_cost_the_connection_alone(tmp_path: Path, fault: str) -> None:
    """Repeated, exchanged and cut bytes break the encrypted stream, which begins anew: no command is lost, none takes effect twice."""
    with running_hub(tmp_path) as hub, relayed(tmp_path, hub) as (relay, endpoint):
        async with talking(hub, endpoint) as (cloud, caller):
            await paint(cloud, caller, 0, 3)
            opened = relay.said.count("opened")
            under_way = asyncio.ensure_future(paint(cloud, caller, 10, COMMANDS))
            await asyncio.sleep(0)
            relay.tell(fault)
            await under_way
            await paint(cloud, caller, 50, 3)
            await asyncio.to_thread(relay.wait, "opened", opened + 1)


@asynchronous
async def test_c12_a_half_open_line_is_closed_by_both_ends(tmp_path: Path) -> None:
    """Nothing comes through after a beat of the hub, and nobody is told: each end closes the line, and what was wanted is done once."""
    with running_hub(tmp_path) as hub, relayed(tmp_path, hub) as (relay, endpoint):
        async with talking(hub, endpoint) as (cloud, caller):
            await paint(cloud, caller, 0, 3)
            relay.tell("hold-next")
            await asyncio.to_thread(relay.wait, "held", 2)
            under_way = asyncio.ensure_future(paint(cloud, caller, 10, COMMANDS))
            for side in ("far", "near"):
                await asyncio.to_thread(relay.wait, f"closed {side}", 2)
            assert not under_way.done()
            relay.tell("flow")
            await under_way


@asynchronous
async def test_c12_a_line_that_is_half_open_right_after_traffic(tmp_path: Path) -> None:
    """What was heard since the hub's last beat hides its silence: then the participant's own beat finds it, in the hub's rhythm."""
    with running_hub(tmp_path) as hub, relayed(tmp_path, hub) as (relay, endpoint):
        async with talking(hub, endpoint) as (cloud, caller):
            for round in range(2):  # the answers come at another moment between two beats each time
                await paint(cloud, caller, 40 * round, 3)
                closed = [relay.said.count(f"closed {side}") for side in ("far", "near")]
                relay.tell("hold")
                under_way = asyncio.ensure_future(paint(cloud, caller, 40 * round + 10, COMMANDS))
                for side, before in zip(("far", "near"), closed, strict=True):
                    await asyncio.to_thread(relay.wait, f"closed {side}", before + 2, CLOSED_S)
                assert not under_way.done()
                relay.tell("flow")
                await under_way


@pytest.mark.parametrize("seed", [1, 2])
@asynchronous
async def test_c05_a_hub_that_loses_repeats_and_reorders(tmp_path: Path, seed: int) -> None:
    """The hub is not trusted: whatever it does to whole messages, every command finishes and takes effect once."""
    config = configure(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.rack.unkind_hub", str(seed), "--config", str(config)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        hub = RunningHub(tmp_path, process, wait_ready(process), {})
        async with talking(hub, hub.endpoint) as (cloud, caller):
            for first in range(0, 3 * COMMANDS, COMMANDS):
                await paint(cloud, caller, first, COMMANDS)
            assert caller.counters["repeated"] > 0  # some were lost
            assert cloud.dispatcher.counters["handled"] > 3 * COMMANDS  # and some came more than once
    finally:
        end(process)
