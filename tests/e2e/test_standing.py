"""Ring 0 falls silent: ring 1 says so, what it runs goes on, and all is well again when ring 0 speaks."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from bus.session import Session
from compartments.beacons import ShowStanding
from compartments.copies import ListCopies
from tests.e2e.clouds import Raised, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
SILENT_S, HEARD_S, AGREED_S = 20, 10, 30


def standing(cloud: Raised) -> str:
    """Return what ring 1 says it knows of ring 0."""

    async def ask() -> str:
        async with await Session.open(cloud.config) as session:
            return str((await session.query(1, ShowStanding()))["standing"])

    return asyncio.run(ask())


def copies(cloud: Raised) -> list[dict[str, object]]:
    """Return what ring 0 says of its copies."""

    async def ask() -> list[dict[str, object]]:
        async with await Session.open(cloud.config) as session:
            return list(await session.query(0, ListCopies()))

    return asyncio.run(ask())


def test_two_rings_have_one_world_of_one_journal(hello: Raised) -> None:
    """Ring 0 folds ring 1's entries for itself and finds the digest that ring 1's beacon names; status tells who has witnessed what."""

    def agreed() -> bool:
        (copy,) = copies(hello)
        assert copy["alarm"] == ""
        return copy["agreed"] == copy["number"] == copy["world"] != 0

    wait_for(agreed, AGREED_S, "both worlds to be compared")

    def witnessed() -> bool:
        rings = {journal["ring"]: journal for journal in hello.json("status")["journals"]}
        assert (rings[0]["witnessed"], rings[0]["alarm"], rings[1]["alarm"]) == (0, "", "")
        return bool(rings[1]["witnessed"] == rings[1]["number"] > 0)

    wait_for(witnessed, AGREED_S, "ring 1's journal to be witnessed")
    assert "ring 0 is at entry" in hello.run("status").stderr


def test_n27_apps_go_on_while_ring_0_is_silent(hello: Raised) -> None:
    """Its daemon stands still for more than ten seconds: the app answers all the while, and status tells what waits."""
    wait_for(lambda: standing(hello) == "fresh", HEARD_S, "a beacon")
    daemon = hello.service(0, "daemon")
    os.kill(daemon.pid, signal.SIGSTOP)
    try:

        def silent() -> bool:
            assert hello.answers("hello", hello.place)
            return standing(hello) == "stale"

        wait_for(silent, SILENT_S, "ring 1 to notice")
        done = hello.run("status", check=False)
        assert done.returncode == 3
        assert "ring 1: no beacon of the ring above" in done.stderr
        assert "ring 0: " in done.stderr
        assert "hello.web." in done.stdout
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    wait_for(lambda: standing(hello) == "fresh", HEARD_S, "a beacon after the silence")
    assert "beacon" not in hello.run("status").stderr
