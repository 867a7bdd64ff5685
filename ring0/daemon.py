"""Ring 0's daemon: addresses, keys, nodes; it decides ring 0's domain and supervises the ring 1 nodes of this machine.

Owns how ring 0's services are put together and what is done about what they decide. Holds keys, bus and journal and is
unprivileged: whatever needs root is a step that hands carries out.

``python -m ring0.daemon --home DIR``; descriptor 3 is the channel to hands.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from bus.directory import Directory, Reach, read_directory, write_directory
from bus.permission import Place
from compartments import copies, graph
from compartments.daemons import groups_of_node
from compartments.domain import Domain
from compartments.door import DomainDoor
from compartments.rows import Cloud
from enjin import daemon, log
from enjin.canonical import from_text, to_text
from enjin.errors import ConfigError, EnjinError, StepFailed
from enjin.host import read_bounded
from keys.keyring import Keyring
from keys.trust import TrustSet
from ring0 import destroying, node_logs
from ring0.admitting import Admitting
from ring0.buses import UNSAID, nats_port
from ring0.caring import Caring
from ring0.enrolling import Enrolling
from ring0.foundation import CHANNEL, Foundation, Trust, read_foundation, read_own_charter
from ring0.genesis import FoundCloud, Listener
from ring0.launch import DAEMON_SOCKET, ports
from ring0.offspring import channel_of
from ring0.services import SERVICES
from ring0.uids import BLOCKS
from supervision.bus_keeper import BusKeeper
from supervision.hub_service import bus_service, close_quietly, socket_of
from supervision.init_link import InitLink

HANDS_CHANNEL: Final = 3


class Ring0:
    """The daemon's parts, made in the order in which they need each other."""

    def __init__(self, home: Path, foundation: Foundation) -> None:
        self.home, self.foundation = home, foundation
        self.log = log.get("ring0")
        self.keyring = Keyring.load(home / "ring0" / "keys", foundation.cloud)
        told = msgspec.json.decode(read_bounded(home / "ring0" / "trust.json", 1 << 20), type=Trust)
        self.trust = TrustSet(from_text(told.root))
        self.told = told
        hashes = [self.trust.add(from_text(text)) for text in told.grants]
        charter = read_own_charter(self.trust, told.charter, foundation.node)
        self.domain = Domain(
            place=Place(node=foundation.node, domain=CHANNEL, channel=CHANNEL, ring=0, path="cloud"),
            keyring=self.keyring,
            trust=self.trust,
            grant=hashes[0],
            epoch=charter.epoch,
            path=home / "ring0" / "journal.db",
            shared=foundation.journal,
            rows=(
                *SERVICES,
                copies.questions(lambda: self.caring.copies() if self.caring is not None else ()),
                destroying.questions(
                    lambda: self.caring.closing.notes if self.caring is not None else {}, lambda: self.domain.journal.now()
                ),
                node_logs.questions(
                    home,
                    foundation,
                    lambda node: self.caring.control(node) if self.caring is not None else None,
                    lambda: self.domain.journal.now(),
                ),
            ),
            locate=lambda world, name: graph.locate(world, name) if world.count(Cloud) else "cloud",
            groups=lambda world: groups_of_node(world, foundation.node),
        )
        self.bus = BusKeeper(
            self.domain,
            lambda port: bus_service(home, home / "ring0" / "hub", self.keyring, sys.executable, channel=CHANNEL, port=port),
            lambda: foundation.nats_port(0) if (port := nats_port(self.domain.world, 0)) == UNSAID else port,
            lambda: self._publish(),
        )
        self._published = 0
        if self.keyring.issuer is None:
            raise ConfigError("ring 0's issuer seed is missing", hint="restore ring0/keys from your copy")
        self.enrolling = Enrolling(self.domain, self.keyring.issuer)
        self.admitting = Admitting(self.domain, self.keyring.issuer)
        self.caring: Caring | None = None

    async def run(self, ending: asyncio.Event) -> None:
        """Serve until *ending* is set."""
        init = await InitLink.connect(self.home / DAEMON_SOCKET)
        transport = await self.bus.start(init)
        if not self.domain.world.count(Cloud):
            await self.domain.wish(self._genesis(), reason="genesis")
        await self.domain.serve(transport)
        door = DomainDoor(self.domain, await init.take("listener:api0"), name="ring 0", join=self.admitting)
        self.caring = Caring(self.home, self.foundation, self.domain, self.keyring, init, HANDS_CHANNEL, self._publish)
        self._publish()
        self.domain.on_change.append(self._changed)
        try:
            async with asyncio.TaskGroup() as group:
                ours = (self.domain.beacons(), self.domain.attend(), _init_lives(init))
                works = (*ours, door.serve(), self.caring.run(), self.enrolling.run(), self.bus.run())
                tasks = [group.create_task(work) for work in works]
                daemon.notify("READY=1")
                self.log.info("daemon.started", number=self.domain.journal.head.number)
                await ending.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await door.close()
            await close_quietly(self.domain.transport or transport)
            await self.domain.close()
            init.close()

    def _changed(self) -> None:
        if self.caring is not None:
            self.caring.poke()
        self.enrolling.poke()
        self.bus.admit()
        if self.domain.belief.changes != self._published:
            self._published = self.domain.belief.changes
            self._publish()

    def _genesis(self) -> FoundCloud:
        foundation = self.foundation
        return FoundCloud(
            cloud=foundation.cloud,  # type: ignore[arg-type]
            node=foundation.node,  # type: ignore[arg-type]
            operator=foundation.operator,  # type: ignore[arg-type]
            grants=self.told.grants,
            ipv4="10.80.0.0/16" if foundation.privileged else "127.64.0.0/16",
            ipv6="" if foundation.privileged else "none",
            blocks=("10.80.64.0/18",) if foundation.privileged else ("127.64.64.0/18",),
            listeners=tuple(
                Listener(name=name, address="127.0.0.1", port=port, ring=0 if name == "api0" else 1)
                for name, port in ports(foundation).items()
            ),
            first_uid=foundation.first_uid if foundation.privileged else -1,
            uid_blocks=BLOCKS if foundation.privileged else 0,
        )

    def _publish(self) -> None:
        """Keep the public directory current: domains, how they are reached, and every grant that clients need."""
        foundation, listening = self.foundation, ports(self.foundation)
        self.trust.forget(self.domain.journal.now())
        domains = [
            Reach(
                domain=CHANNEL, ring=0, decider=foundation.node, hub=socket_of(self.bus.port > 0), hub_key=self.keyring.hub.public.hex(),
                api=f"http://127.0.0.1:{listening['api0']}", **self._nats_reach(self.bus.port > 0, self.keyring, CHANNEL),
            )
        ]  # fmt: skip
        for node, hub_key, over_nats in self.caring.reachable() if self.caring is not None else ():
            domains.append(
                Reach(
                    domain=node, ring=1, decider=node, hub=f"nodes/{node}/state/{socket_of(over_nats)}", hub_key=hub_key,
                    api=f"http://127.0.0.1:{listening['api1']}", **self._nats_reach(over_nats, self._keyring_of(node), channel_of(node)),
                )
            )  # fmt: skip
        endpoints = {
            "api": f"http://127.0.0.1:{listening['api1']}",
            "router": f"http://127.0.0.1:{listening['router']}",
            "meta": f"http://127.0.0.1:{listening['api0']}",
        }
        directory = Directory(
            cloud=foundation.cloud,
            root=self.told.root,
            grants=tuple(to_text(frame) for frame in self.trust.frames()),
            domains=tuple(domains),
            endpoints=endpoints,
            revoked=tuple(sorted(self.trust.revoked)),
            roots=tuple(to_text(frame) for frame in self.trust.roots.successors),
        )
        with contextlib.suppress(EnjinError):
            if read_directory(self.home) == directory:
                return
        write_directory(self.home, directory)

    def _keyring_of(self, node: str) -> Keyring:
        return self.caring.offspring(node).keyring if self.caring is not None else self.keyring

    def _nats_reach(self, over_nats: bool, decider: Keyring, channel: str) -> dict[str, Any]:
        """Return what a client needs beside the socket over NATS."""
        if not over_nats:
            return {}
        from supervision.nats_service import certificate, tokens

        grants, _ = self.trust.logins(self.domain.journal.now())
        return {"certificate": certificate(decider), "tokens": tokens(decider, channel, grants)}


async def _init_lives(init: InitLink) -> None:
    """End the daemon when its init is gone: whoever starts init again starts a daemon with it."""
    async for _event in init.events():
        pass
    raise StepFailed("our init has ended")


def main() -> int:
    """Run ring 0's daemon and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m ring0.daemon")
    parser.add_argument("--home", type=Path, required=True, help="state directory")
    options = parser.parse_args()
    log.configure(ring=0, component="daemon")
    os.umask(0o077)

    async def serve(ending: asyncio.Event) -> None:
        foundation = read_foundation(options.home)
        if foundation is None:
            raise ConfigError(f"there is no cloud at {options.home}", hint="`enjin up` founds one")
        await Ring0(options.home, foundation).run(ending)

    return daemon.run(serve)


if __name__ == "__main__":
    raise SystemExit(main())
