"""`enjin down`: ends everything of a cloud on this machine, in order, and on request removes its state.

Owns the order: the daemon first, so that nothing is started anew; then every node through hands, whoever of them still
runs; then init. What is looked for is known by this cloud's own names, never by a process's name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from pathlib import Path
from typing import Final

from enjin.config import Config
from enjin.errors import EnjinError, StepFailed
from enjin.failpoints import failpoint
from keys.operator import key_path
from ring0 import launch, uids
from ring0.foundation import FILE, Foundation, read_foundation
from ring0.launch import HANDS, HANDS_SETTINGS, INIT_SOCKET
from supervision import trees
from supervision.hands_link import HandsLink
from supervision.init_link import InitLink
from supervision.steps import DestroyNode, Done, InspectAll, RemoveFabric, Seen

GRACE_MS: Final = 4_000
LINK: Final = Path("/usr/local/bin/enjin")


class StillThere(StepFailed):
    """Something of the cloud could not be ended."""

    code = "E-UP-007"
    remedy = "run `enjin down` again; HOME/log/init.log says what hands met"


def lower_cloud(config: Config) -> bool:
    """End every process, node, link and group of the cloud; return whether anything ran.

    Raises:
        StillThere: Something did not end.
    """
    foundation = read_foundation(config.path)
    if foundation is None:
        return False
    ran = launch.init_runs(config.path)
    asyncio.run(_lower(config.path, foundation, ran))
    launch.forget_unit(foundation)
    left = launch.leftovers(foundation)
    if left:
        raise StillThere(f"still there: {', '.join(left[:5])}")
    return ran


def destroy_cloud(config: Config) -> None:
    """Remove the state of a cloud that is down: its directory, its uids, its key file and the command's link."""
    foundation = read_foundation(config.path)
    if foundation is None:
        return
    # Ring 0's own first, so that a cloud that was half removed is known as one; sealed trees are read-only even for their owner.
    for name in sorted(os.listdir(config.path), key=lambda name: (name not in ("ring0", "init"), name)):
        if name != FILE:
            trees.remove(config.path, name)
    if foundation.privileged:
        uids.release(config.home)
    key_path(config.keys, foundation.cloud).unlink(missing_ok=True)
    (config.path / FILE).unlink()
    with contextlib.suppress(OSError):
        config.path.rmdir()
    others = [path for path in Path(config.keys).glob(f"*/{foundation.cloud}.key") if path.is_file()]  # made by `enjin key create`
    for path in others:
        path.unlink(missing_ok=True)
    for directory in (*(path.parent for path in others), Path(config.keys), Path(config.keys).parent):
        with contextlib.suppress(OSError):
            directory.rmdir()
    if os.geteuid() == 0 and LINK.is_symlink() and not _others():
        LINK.unlink()


def _others() -> bool:
    """Whether another cloud on this machine still has uids."""
    return uids.FILE.exists()


async def _lower(home: Path, foundation: Foundation, ran: bool) -> None:
    init: InitLink | None = None
    if ran:
        init = await InitLink.connect(home / INIT_SOCKET)
        with contextlib.suppress(EnjinError):
            await init.stop("daemon", grace_ms=2_000)
        with contextlib.suppress(EnjinError):
            await init.stop(HANDS, grace_ms=2_000)
    if (home / HANDS_SETTINGS).exists() and (home / "ring0" / "trust.json").exists():
        await _destroy_nodes(home, foundation)
    if init is not None:
        with contextlib.suppress(EnjinError):
            await init.end(grace_ms=2_000)
            async for _event in init.events():
                pass
        init.close()


async def _destroy_nodes(home: Path, foundation: Foundation) -> None:
    """Run hands for this one purpose: it takes up what it finds on record and destroys it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = _start_hands(home, theirs)
    theirs.close()
    hands = HandsLink(ours.detach(), lambda _event: None)
    try:
        seen = await hands.step(InspectAll(), Seen)
        for running in seen.nodes:
            await hands.step(DestroyNode(node=running.node, grace_ms=GRACE_MS, keep_state=True), Done)
        if foundation.privileged:
            await hands.step(RemoveFabric(bridge=f"enj{foundation.tag}0", netns=f"enjin-{foundation.tag}"), Done)
    finally:
        hands.close()
        process.terminate()
        await asyncio.to_thread(process.wait, 10)


def _start_hands(home: Path, channel: socket.socket) -> subprocess.Popen[bytes]:
    settings = launch.read_hands_settings(home)
    command = [f"{settings['runtime']}/bin/python", "-I", "-m", "supervision.hands", "--channel", str(channel.fileno())]
    with open(home / "log" / "init.log", "ab") as output:
        failpoint("lowering.hands.spawn")
        return subprocess.Popen(
            [*command, "--config", str(home / HANDS_SETTINGS)],
            pass_fds=[channel.fileno()], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
        )  # fmt: skip
