"""How long until there is a cloud again: up_warm_s and bootstrap_warm_s. No peer raises a cloud of three rings on one machine."""

from __future__ import annotations

import os
import subprocess
import time

from tests.bench.figures import Row, rows
from tests.cloud import ROOT, Cloud, CommandFailed, wait_for

TIMES = 3


def _api_answers(cloud: Cloud) -> bool:
    return cloud.run("app", "list", check=False).returncode == 0


def up_warm(cloud: Cloud) -> float:
    """Return the median seconds of `enjin up` on a stopped cloud until ring 1's API answers."""
    taken = []
    for _ in range(TIMES):
        cloud.run("down")
        began = time.monotonic()
        cloud.up()
        wait_for(lambda: _api_answers(cloud), 30, "ring 1's API")
        taken.append(time.monotonic() - began)
    return sorted(taken)[len(taken) // 2]


def bootstrap_warm(cloud: Cloud) -> float:
    """Return the seconds of `./bootstrap` on a machine that has everything, the cloud stopped, until the URL answers 200."""
    cloud.run("down")
    began = time.monotonic()
    done = subprocess.run(
        [ROOT / "bootstrap", *cloud.options],
        env=cloud.environment | {"ENJIN_LINK": "no"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CommandFailed(f"./bootstrap: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    router = cloud.router
    wait_for(lambda: cloud.answers("hello", router), 30, "the URL")
    return time.monotonic() - began


def measure(cloud: Cloud) -> list[Row]:
    """Return both."""
    os.sync()
    return rows("up_warm_s", up_warm(cloud)) + rows("bootstrap_warm_s", bootstrap_warm(cloud))
