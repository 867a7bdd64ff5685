"""`enjin bus migrate`: moves a running cloud from one bus to the other, and returns when every ring answers over the new one.

Owns the operator's half: what the new bus needs on this machine, the wish, and waiting. The deciders go over by themselves.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bus.directory import NoCloud, read_directory
from bus.over_nats.link import require_client
from bus.session import Session
from enjin.config import Config
from enjin.errors import EnjinError, Unreachable
from enjin.host import monotonic_s
from ring0 import launch
from ring0.buses import Bus, MoveBus
from ring0.foundation import Foundation, read_foundation, write_foundation
from ring0.raising import NeedsRoot
from ring0.runtime import extend_runtime
from supervision.hub_service import socket_of

DEADLINE_S: Final = 60.0
HEAD_S: Final = 1.0
AGAIN_S: Final = 0.05


class NotMoved(Unreachable):
    """The cloud did not go over to another bus in time."""

    code = "E-BUS-132"
    remedy = "it goes on over the old bus where it has not moved; `enjin bus migrate` again, and the daemons' logs say why"


class Migrated(NamedTuple):
    """What was done: over which bus the cloud is, whether it was before, and after how many seconds every ring answered there."""

    bus: str
    changed: bool
    seconds: float


def migrate(config: Config, bus: Bus, reason: str = "") -> Migrated:
    """Move the cloud at the configured state directory to *bus*, for *reason*; one that is there already is left as it is.

    Raises:
        NoCloud: There is none, or it does not run.
        NeedsRoot: It belongs to root.
        NoNats, ServerRefused, NoDistribution: What NATS needs is not installed.
        NotMoved: A ring did not follow in time.
    """
    foundation = read_foundation(config.path)
    if foundation is None or not launch.init_runs(config.path):
        raise NoCloud(f"no cloud runs at {config.home}")
    if foundation.privileged and os.geteuid() != 0:
        raise NeedsRoot(f"the cloud at {config.home} belongs to root")
    if bus == "nats":
        require_client()
    extend_runtime(Path(str(launch.read_hands_settings(config.path)["runtime"])), bus)
    return asyncio.run(_move(config, foundation, bus, reason))


async def _move(config: Config, foundation: Foundation, bus: Bus, reason: str) -> Migrated:
    began = monotonic_s()
    async with await Session.open(config) as session:
        changed = not _all_over(config, bus)
        await session.command(0, MoveBus(bus=bus), reason=reason or "enjin bus migrate")
    # Only now: a cloud whose bus the world does not say is raised again over the one that stands here.
    write_foundation(config.path, msgspec.structs.replace(foundation, bus=bus))
    while not (_all_over(config, bus) and await _all_answer(config)):
        if monotonic_s() - began > DEADLINE_S:
            raise NotMoved(f"the cloud is not over {bus} after {DEADLINE_S:g} s")
        await asyncio.sleep(AGAIN_S)
    return Migrated(bus, changed, monotonic_s() - began)


def _all_over(config: Config, bus: Bus) -> bool:
    """Whether the directory says of every domain that it is reached over *bus*."""
    return all(reach.hub.endswith(socket_of(bus == "nats")) for reach in read_directory(config.path).domains)


async def _all_answer(config: Config) -> bool:
    try:
        async with await Session.open(config) as session:
            for reach in session.directory.domains:
                await session.head(reach.ring, HEAD_S)
    except EnjinError:
        return False
    return True
