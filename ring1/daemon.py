"""Ring 1's daemon: apps, releases, routes, accounts; it decides one ring 1 domain and supervises ring 2 on its node.

Owns how ring 1's services are put together. Gets its identity from the ring above over a descriptor and trusts nobody
else; is unprivileged inside its node: whatever needs root is a step that hands carries out.

``python -m ring1.daemon --channel FD --identity FD``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any, Final

from bus.http.blobs import BlobStore
from bus.journal import Checkpoint
from bus.permission import Place
from bus.timing import TimeAsker
from compartments import beacons, graph
from compartments.charter import ReceiveCharter, StaleCharter
from compartments.domain import Domain
from compartments.door import DomainDoor
from compartments.identity import Identity, read_identity
from compartments.rows import Charter
from compartments.rows_apps import Build
from enjin import daemon, log
from enjin.canonical import from_text, parse
from enjin.errors import Refused, StepFailed
from enjin.failpoints import failpoint
from keys.keyring import Keyring
from keys.signing import BadSignature, verify
from keys.trust import TrustSet
from ring1 import daemons, ending, node_logs, nodes
from ring1.acting import Acting
from ring1.agents import Agents
from ring1.charter import in_force, open_charter
from ring1.haproxy import Settings as RouterSettings
from ring1.progress import Progress
from ring1.renewing import Renewing
from ring1.routing import Router
from ring1.services import SERVICES
from ring1.specs import Ground
from supervision.bus_keeper import BusKeeper
from supervision.hub_service import bus_service, close_quietly
from supervision.init_link import InitLink

INIT_SOCKET: Final = "init.sock"
ROUTER_UID: Final = 102
ROUTER_LISTENER: Final = 3
BLOB_AGE_S: Final = 3600


class ForeignCharter(Refused):
    """A charter was not signed by the ring above."""

    code = "E-CHA-102"


class Ring1:
    """The daemon's parts, made in the order in which they need each other."""

    def __init__(self, identity: Identity, hands: int) -> None:
        self.identity, self.hands = identity, hands
        self.home = Path(identity.home)
        self.log = log.get("ring1")
        self.keyring = Keyring(identity.cloud, from_text(identity.seed), from_text(identity.issuer_seed))
        self.trust = TrustSet(from_text(identity.root))
        for text in identity.grants:
            self.trust.add(from_text(text))
        self.trust.follow_roots(from_text(text) for text in identity.roots)
        grant = self.trust.add(from_text(identity.grant))
        charter = self._open(identity.charter)
        self.acting: Acting | None = None
        self.agents: Agents | None = None
        self.gate: beacons.Gate | None = None
        self._believed = 0
        channel = f"ring1.{identity.node}"
        self.domain = Domain(
            place=Place(node=identity.node, domain=identity.domain, channel=channel, ring=1, path="cloud"),
            keyring=self.keyring,
            trust=self.trust,
            grant=grant,
            epoch=charter.epoch,
            path=self.home / "ring1" / "journal.db",
            rows=(
                *SERVICES,
                nodes.questions(self, identity.node),
                daemons.questions(lambda: self.agents),
                beacons.questions(lambda: self.gate),
                ending.questions(self.trust, lambda: self.domain.journal.now()),
                node_logs.questions(identity.node, identity.label, self.home / INIT_SOCKET, lambda: self.domain.journal.now()),
            ),
            locate=lambda world, name: graph.locate(world, name) if world.count(Charter) else "cloud",
            groups=lambda world: daemons.groups_here(world, identity.node),
            mark=identity.time,
            floor=parse(identity.witnessed.encode(), Checkpoint) if identity.witnessed else None,
        )
        self.gate = self.domain.gate = beacons.Gate(self.trust, grant, identity.parent, self.domain.journal.now, self.domain.tell_soon)
        self.domain.observers[beacons.ParentBeacon.KIND] = self.gate.heard
        self.renewing = Renewing(self.domain)
        self.renewing.take()
        python = f"{identity.runtime}/bin/python"
        self.bus = BusKeeper(
            self.domain,
            lambda port: bus_service(self.home, self.home / "ring1" / "hub", self.keyring, python, channel=channel, port=port),
            self._nats_port,
            lambda: None,
        )

    def _nats_port(self) -> int:
        """Return where our NATS server should listen, as the charter in force says; 0: the bus is ZeroMQ."""
        charter = in_force(self.domain.world)
        return self.identity.nats_port if charter is None or charter.nats_port < 0 else charter.nats_port

    def running(self) -> dict[str, Any]:
        """Return what hands last said of each node."""
        return self.acting.running() if self.acting is not None else {}

    def logs(self) -> Any:
        """Return (compartment, instance, after) -> lines."""
        if self.acting is None:
            raise StepFailed("ring 1 is starting")
        return self.acting.logs()

    def _open(self, text: str) -> Any:
        """Return the charter in frame *text* after checking that our parent signed it. Raises: ForeignCharter."""
        charter, frame = open_charter(text)
        parent = self.trust.grant(self.trust.grant_of(self.identity.parent) or "")
        try:
            verify(bytes.fromhex(parent.keys.issue), frame.type, frame.payload, frame.signature)
        except BadSignature as error:
            raise ForeignCharter("the charter was not signed by the ring above") from error
        return charter

    async def run(self, ending: asyncio.Event) -> None:
        """Serve until *ending* is set."""
        identity, domain = self.identity, self.domain
        init = await InitLink.connect(self.home / INIT_SOCKET)
        transport = await self.bus.start(init)
        timing = TimeAsker(transport, domain.speaker, self.trust, identity.parent, domain.clock)
        self.bus.users.append(timing)
        if not domain.clock.learnt and await timing.ask():  # before the first entry: the wall clock may be ahead, and time never runs back
            domain.dispatcher.begin()
        await self._receive_charter()
        self._believe()
        self.bus.admit()
        router = Router(self._router_settings())
        self.agents = agents = Agents(domain, self.keyring, identity, init, self.home, self._poke)
        ground = self._ground(router)
        blobs = BlobStore(self.home / "blobs")
        self.acting = Acting(domain, identity, self.hands, agents, router, ground, blobs)
        await domain.serve(transport)
        domain.on_change.append(self._changed)
        Progress(domain)
        await self._start_router(init, router)
        door = DomainDoor(domain, await init.take("listener:api1"), name="ring 1", blobs=blobs)
        try:
            async with asyncio.TaskGroup() as group:
                own = (domain.beacons(), timing.run(), door.serve(), self.acting.run(), self.bus.run())
                works = (*own, self.renewing.run(agents), self._watch_init(init), self._prune_blobs(blobs))
                tasks = [group.create_task(work) for work in works]
                daemon.notify("READY=1")
                self.log.info("daemon.started", number=domain.journal.head.number)
                await ending.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await door.close()
            await agents.close()
            await close_quietly(domain.transport or transport)
            await domain.close()
            init.close()

    async def _receive_charter(self) -> None:
        """Follow the charter that came with our identity, unless we follow it or a newer one."""
        held = in_force(self.domain.world)
        if held is None or held.version < self._open(self.identity.charter).version:
            try:
                await self.domain.wish(ReceiveCharter(frame=self.identity.charter), reason="from the ring above")
            except StaleCharter:
                return

    def _ground(self, router: Router) -> Ground:
        identity = self.identity
        return Ground(
            bridge="apps" if identity.strategy == "jail" else "",
            daemon_uid=os.getuid() if identity.strategy == "jail" else 0,
            map_path=router.settings.map_path,
            build_environment=identity.build_environment,
            host_paths=identity.host_paths,
            closed=identity.closed,
        )

    def _router_settings(self) -> RouterSettings:
        return RouterSettings(binds=(f"fd@{ROUTER_LISTENER}",), directory=str(self.home / "router"))

    async def _start_router(self, init: InitLink, router: Router) -> None:
        """Have init run HAProxy on the listener that it holds; init starts it again, with the files as they are then."""
        if not Path(router.settings.config_path).exists():
            await asyncio.to_thread(router.write)
        own = {"uid": ROUTER_UID, "gid": ROUTER_UID} if self.identity.strategy == "jail" else {}
        failpoint("router.spawn")
        await init.spawn({
            "name": "router",
            "generation": 1,
            "argv": ["/usr/sbin/haproxy", *router.settings.argv[1:]],
            "env": {"PATH": "/usr/sbin:/usr/bin:/bin", "LANG": "C.UTF-8"},
            "fds": {str(ROUTER_LISTENER): "listener:router"},
            "files": router.settings.files,
            "restart": "always",
            "log": True,
            "umask": 0o007,
            **own,
        })  # fmt: skip

    async def _watch_init(self, init: InitLink) -> None:
        """Act at once when the router or an agent ends; end when init is gone."""
        await init.watch()
        async for _event in init.events():
            self._poke()
        raise StepFailed("our init has ended")

    async def _prune_blobs(self, blobs: BlobStore) -> None:
        """Give back the room of sources that are built, until cancelled."""
        while True:
            wanted = {build.source for build in self.domain.world.all(Build)}
            await asyncio.to_thread(blobs.prune, wanted, BLOB_AGE_S)
            await asyncio.sleep(BLOB_AGE_S / 4)

    def _poke(self) -> None:
        if self.acting is not None:
            self.acting.poke()

    def _changed(self) -> None:
        self._poke()
        self._believe()
        self.renewing.poke()
        if self.agents is not None:
            self.agents.inform()
        self.bus.admit()

    def _believe(self) -> None:
        """Believe none of the keys that the charter in force revokes; the grants in it are the journal's."""
        charter = in_force(self.domain.world)
        if charter is None or charter.version == self._believed:
            return
        self._believed = charter.version
        for key in charter.revoked:
            self.trust.revoke(key, "by charter")
        if self.gate is not None:
            self.gate.hold(charter)


def main() -> int:
    """Run ring 1's daemon and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m ring1.daemon")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the channel to hands")
    parser.add_argument("--identity", type=int, required=True, help="descriptor of the identity")
    options = parser.parse_args()
    log.configure(ring=1, component="daemon")
    os.umask(0o077)

    async def serve(ending: asyncio.Event) -> None:
        await Ring1(read_identity(options.identity), options.channel).run(ending)

    return daemon.run(serve)


if __name__ == "__main__":
    sys.exit(main())
