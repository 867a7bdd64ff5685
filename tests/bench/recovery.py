"""How long after kill -9 until it is back: the router, the ring 2 agent, the ring 1 daemon."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.bench.figures import Row, rows
from tests.cloud import Cloud, Process, wait_for

TIMES = 5
LIMIT_S = 30.0


def _back(cloud: Cloud, words: tuple[str, ...], works: Callable[[], bool]) -> float:
    """Kill the process and return the median seconds until another one has its place and *works*."""
    taken = []
    for _ in range(TIMES):
        wait_for(works, LIMIT_S, "a working start")
        killed: Process = cloud.find(*words)[0]
        began = time.monotonic()
        cloud.kill(killed)
        wait_for(lambda killed=killed: [p for p in cloud.find(*words) if p.pid != killed.pid], LIMIT_S, f"another {words}")
        wait_for(works, LIMIT_S, f"{words} at work")
        taken.append(time.monotonic() - began)
    return sorted(taken)[len(taken) // 2]


def measure(cloud: Cloud) -> list[Row]:
    """Return the three times.

    The router is back when the app answers through it; the agent when ring 1 sees the app's instance again; the daemon when its API
    answers a signed query.
    """
    router = cloud.router

    def app_answers() -> bool:
        return cloud.answers("hello", router)

    def instance_is_seen() -> bool:
        return any(app["name"] == "hello" and app["state"] in ("live", "running") for app in cloud.json("app", "list"))

    def api_answers() -> bool:
        return cloud.run("app", "list", check=False).returncode == 0

    return [
        *rows("router_back_s", _back(cloud, ("haproxy",), app_answers)),
        *rows("agent_back_s", _back(cloud, ("ring2.daemon",), instance_is_seen)),
        *rows("daemon_back_s", _back(cloud, ("ring1.daemon",), api_answers)),
    ]
