"""command_p50_ms and command_p99_ms: a signed command over the bus, decided, committed to disk, answered, for a connected client.

Beside it Salt's `test.ping` from a connected client to one minion, which decides and keeps nothing.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bus.session import Session
from enjin import config as configuration
from ring0.tiers import CreateTier
from tests.bench.figures import Peer, Row, percentile, rows
from tests.cloud import Cloud
from tests.places import free_port_base

WARM, TIMES = 20, 300
PINGS = 50
SALT = Path(sys.executable).parent.parent / "peers/bin/python"


async def commands_ms(cloud: Cloud) -> list[float]:
    """Return the milliseconds of each command of one session."""
    config = configuration.load({}, cloud.environment)
    taken = []
    async with await Session.open(config) as session:
        for number in range(WARM + TIMES):
            wish = CreateTier(name=f"bench-{number}")
            began = time.perf_counter()
            await session.command(0, wish)
            taken.append(1000 * (time.perf_counter() - began))
    return taken[WARM:]


def salt() -> Peer:
    """Measure Salt with a master and a minion of its own."""
    if not SALT.exists():
        return Peer("salt test.ping", why="not installed; ./bootstrap bench installs it")
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="enjbench", ignore_cleanup_errors=True) as folder:
        words = [SALT, Path(__file__).with_name("salt_ping.py"), folder, str(free_port_base()), str(PINGS)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
    if done.returncode != 0:
        return Peer("salt test.ping", why=(done.stderr.strip().splitlines() or ["it failed"])[-1][:100])
    return Peer("salt test.ping", statistics.median(json.loads(done.stdout)))


def measure(cloud: Cloud) -> list[Row]:
    """Return both percentiles."""
    taken = asyncio.run(commands_ms(cloud))
    peer = salt()
    return rows("command_p50_ms", statistics.median(taken), [peer]) + rows("command_p99_ms", percentile(taken, 99), [peer])
