"""ask_real_10_ms: one signed question to ten real daemons of three rings, from a connected client, until the last answer is verified.

Beside it Salt's `test.ping` from a connected client to ten real minions. hub_restart_s: from the kill -9 of ring 1's hub until ring 1
answers a signed question over the bus again.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

from bus.fan_out import FanOut
from bus.roll_call import Ping
from bus.session import Session
from enjin import config as configuration
from enjin.errors import Unreachable
from enjin.host import monotonic_s
from ring0.commands.ask import members
from tests.bench.command import SALT
from tests.bench.figures import Peer, Row, rows
from tests.cloud import ROOT, Cloud, wait_for
from tests.places import free_port_base

DAEMONS, MINIONS = 10, 10
WARM, TIMES = 5, 50
PINGS = 20
HUB_TIMES = 5
AGENTS_S = 60.0
LIST_S = 5.0
LOOK_S = 0.1
BACK_S = 30.0


def grow(cloud: Cloud) -> None:
    """Have *cloud* run as many daemons as are asked: an environment with an app of its own brings an agent each."""
    there = len(cloud.json("ask", "daemon.ping")["answers"])
    for number in range(DAEMONS - there):
        cloud.run("compartment", "create", f"bench-{number}")
        cloud.push(ROOT / "examples/hello", f"hello-{number}", "--compartment", f"bench-{number}")
    wait_for(lambda: cloud.json("ask", "daemon.ping")["ok"] == DAEMONS, AGENTS_S, f"{DAEMONS} daemons")


async def asked_ms(cloud: Cloud) -> list[float]:
    """Return the milliseconds of each question of one session."""
    taken = []
    async with await Session.open(configuration.load({}, cloud.environment)) as session:
        group, expected, _unknown = await members(session, "all", LIST_S)
        callers = [session.caller_of(reach) for reach in session.directory.domains]
        labels = {daemon.id: daemon.label for daemon in expected}
        for _ in range(WARM + TIMES):
            began = monotonic_s()
            summary = (await FanOut(callers, group, labels).ask(Ping())).summary()
            taken.append(1000 * (monotonic_s() - began))
            if summary.ok != DAEMONS:
                raise Unreachable(f"{summary.ok} of {DAEMONS} have answered")
    return taken[WARM:]


def salt() -> Peer:
    """Measure Salt with a master and ten minions of its own."""
    if not SALT.exists():
        return Peer("salt test.ping", why="not installed; ./bootstrap bench installs it")
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="enjbench", ignore_cleanup_errors=True) as folder:
        words = [SALT, Path(__file__).with_name("salt_ping.py"), folder, str(free_port_base()), str(PINGS), str(MINIONS)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=400)
    if done.returncode != 0:
        return Peer("salt test.ping", why=(done.stderr.strip().splitlines() or ["it failed"])[-1][:100])
    return Peer("salt test.ping", statistics.median(json.loads(done.stdout)))


def real(cloud: Cloud) -> list[Row]:
    """Return ask_real_10_ms."""
    grow(cloud)
    return rows("ask_real_10_ms", statistics.median(asyncio.run(asked_ms(cloud))), [salt()])


async def _hub_back_s(cloud: Cloud, session: Session) -> float:
    """Kill ring 1's hub and return the seconds until ring 1 has answered over the bus."""
    caller = session.caller(1)
    await caller.query(Ping())
    daemon = cloud.find("ring1.daemon")[0]
    hub = next(process for process in cloud.find("bus.hub") if process.parent == daemon.parent)
    began = monotonic_s()
    cloud.kill(hub)
    while True:
        try:
            await caller.query(Ping(), deadline_s=LOOK_S)
        except Unreachable:
            if monotonic_s() - began > BACK_S:
                raise
        else:
            return monotonic_s() - began


async def _hubs_back_s(cloud: Cloud) -> list[float]:
    async with await Session.open(configuration.load({}, cloud.environment)) as session:
        return [await _hub_back_s(cloud, session) for _ in range(HUB_TIMES)]


def hub_restart(cloud: Cloud) -> list[Row]:
    """Return hub_restart_s."""
    return rows("hub_restart_s", statistics.median(asyncio.run(_hubs_back_s(cloud))))
