"""ask_1000_s, ask_10000_s: one signed question to that many emulated daemons in other processes, until the last signed answer is verified.

Over ZeroMQ, and over NATS in a row of its own. reconnect_1000_s: from the broker's kill -9 until a thousand daemons answer again, over
both. The daemons are `tests.bench.emulated`'s; hub, server, caller and the asking are the product's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bus.caller import Caller
from bus.fan_out import FanOut
from bus.groups import EVERYBODY
from bus.hub.settings import raise_descriptors
from bus.over_nats.participant import NatsTransport
from bus.over_nats.server import Server, write_server
from bus.over_zmq import ZmqTransport, allow_keys, curve_text
from bus.roll_call import Ping
from bus.transport import Transport
from enjin.errors import Unreachable
from enjin.host import clock, monotonic_s
from keys.certificates import CertificateAuthority
from tests.bench.emulated import Emulated, Told, be_patient, login, name_of, nats_authority
from tests.bench.figures import FIGURES, Row
from tests.bus.hubs import configure, end, start, wait_ready
from tests.bus.nats_servers import CLOUD, Cluster, now_s
from tests.bus.parties import CHANNEL, NODE, seed
from tests.cloud import ROOT
from tests.cloud import Cloud as RealCloud
from tests.places import free_port_base, temporary_home

PER_PROCESS = 2000
PROCESSES_MIN = 2
TIMES = 3
ASK_S = 60.0
AGAIN_S = 1.0
OPERATOR = "operator"
PER_PARTICIPANT = 2  # descriptors of the hub
SPARE = 64


class Hubs:
    """The ZeroMQ hub, as a decider runs it, which allows the keys of the crowd.

    Two or more share the crowd, as so many domains would, where the machine does not let one process open descriptors enough.
    """

    def __init__(self, folder: Path, cloud: Emulated, total: int) -> None:
        self._cloud, self._total = cloud, total
        self._folders = [folder / f"hub{number}" for number in range(-(-PER_PARTICIPANT * (total + 1) // (raise_descriptors() - SPARE)))]
        for one in self._folders:
            one.mkdir()
            allow_keys(one / "keys.json", cloud.trust.curve_keys(cloud.now()))
        self._processes = [start(configure(one)) for one in self._folders]
        self._keys = [wait_ready(process) for process in self._processes]

    def told(self, process: int, first: int, count: int) -> Told:
        """Return what process number *process* of emulated daemons is told."""
        hub = process % len(self._folders)
        endpoint = str(self._folders[hub] / "bus.sock")
        return Told(first, count, self._cloud.began_us, self._total, endpoint=endpoint, hub_key=self._keys[hub])

    def connect(self) -> list[Transport]:
        """Return the asker's connections."""
        pair = self._cloud.operator.keyring.curve
        own = {"public_key": curve_text(pair.public), "secret_key": curve_text(pair.secret)}
        return [
            ZmqTransport.connect(str(folder / "bus.sock"), server_key=key, **own)
            for folder, key in zip(self._folders, self._keys, strict=True)
        ]

    def restart(self) -> None:
        """End every hub with kill -9 and start another in its place."""
        for process in self._processes:
            process.kill()
            process.communicate()
        self._processes = [start(configure(one)) for one in self._folders]

    def close(self) -> None:
        """End the hubs."""
        for process in self._processes:
            end(process)


class NatsServer:
    """One nats-server, as a decider configures it for so many; with the methods of ``Hubs``."""

    def __init__(self, folder: Path, cloud: Emulated, total: int) -> None:
        self._cloud, self._total = cloud, total
        authority = CertificateAuthority(seed("emulated tls"), CLOUD)
        server = Server("s0", folder / "s0", "127.0.0.1", free_port_base(), channels=(CHANNEL,), participants=total)
        leaf = authority.leaf(seed("emulated leaf"), ["127.0.0.1"], now_s=now_s(), lifetime_s=86_400)
        write_server(server, nats_authority(), CLOUD, certificate=authority.certificate, leaf=leaf)
        self._cluster = Cluster(folder, 1, nats_authority(), authority, [server], {})
        self._cluster.start(0)

    def told(self, _process: int, first: int, count: int) -> Told:
        """See ``Hubs``."""
        servers, authority = self._cluster.addresses, self._cluster.certificate
        return Told(first, count, self._cloud.began_us, self._total, servers=servers, authority=authority)

    def connect(self) -> list[Transport]:
        """See ``Hubs``."""
        return [NatsTransport.connect(login(OPERATOR, self._cluster.addresses, self._cluster.certificate, self._total), OPERATOR)]

    def restart(self) -> None:
        """See ``Hubs``."""
        self._cluster.end(0, signal.SIGKILL)
        self._cluster.start(0)

    def close(self) -> None:
        """See ``Hubs``."""
        for number in list(self._cluster.processes):
            self._cluster.end(number)


BROKERS: dict[str, type[Hubs] | type[NatsServer]] = {"": Hubs, "_nats": NatsServer}  # suffix of the row -> what stands between


@contextlib.contextmanager
def crowd(folder: Path, broker: Hubs | NatsServer, total: int) -> Iterator[None]:
    """Run the emulated daemons, whose logs go to a file in *folder* as a real one's do; each hears the bus when they are there."""
    share = -(-total // max(PROCESSES_MIN, -(-total // PER_PROCESS)))
    running = []
    try:
        for first in range(0, total, share):
            command = [sys.executable, "-m", "tests.bench.emulated"]
            with open(folder / "crowd.log", "ab") as log:
                process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
            running.append((process, process.stdin, process.stdout))
            told = json.dumps(broker.told(len(running) - 1, first, min(share, total - first))._asdict())
            if process.stdin is not None:
                process.stdin.write(told.encode() + b"\n")
                process.stdin.flush()
        if any(heard is None or heard.readline() != b"ready\n" for _process, _told, heard in running):
            said = (folder / "crowd.log").read_text(errors="replace").strip()
            raise AssertionError(f"emulated daemons did not come up: {said[-400:]}")
        yield
    finally:
        for process, *pipes in running:
            process.kill()
            process.wait()
            for pipe in pipes:
                if pipe is not None:
                    pipe.close()


async def ask(callers: Sequence[Caller], total: int, again_max_s: float | None = None) -> float:
    """Ask everybody and return after how many seconds the last answer was verified. Raises: Unreachable when somebody is silent."""
    expected = {name_of(number): name_of(number) for number in range(total)}
    began = monotonic_s()
    found = await FanOut(callers, EVERYBODY, expected, again_max_s=again_max_s).ask(Ping(), timeout_s=ASK_S)
    taken, summary = monotonic_s() - began, found.summary()
    refused = [dict(caller.counters) for caller in callers if any(caller.counters.values())]
    if summary.ok != total or summary.strangers or refused:
        raise Unreachable(f"{summary.ok} of {total} have answered; refused: {refused}")
    return taken


async def reconnect(broker: Hubs | NatsServer, callers: Sequence[Caller], total: int) -> float:
    """Return after how many seconds from the broker's death everybody has answered a question again, which is repeated to who is silent."""
    began = monotonic_s()
    await asyncio.to_thread(broker.restart)
    await ask(callers, total, AGAIN_S)
    return monotonic_s() - began


async def measured(kind: str, total: int, *, reconnecting: bool) -> float:
    """Return the figure for a crowd of *total* over *kind*: the median of a few questions, or the time to come back."""
    be_patient()
    cloud = Emulated(clock().boot_us)
    for number in range(total):
        cloud.enrol_agent(name_of(number))
    with temporary_home() as folder, contextlib.closing(BROKERS[kind](folder, cloud, total)) as broker, crowd(folder, broker, total):
        transports = broker.connect()
        try:
            callers = [Caller(one, cloud.speaker_of(cloud.operator), cloud.trust, responder=NODE) for one in transports]
            for caller in callers:
                await caller.start()
            if reconnecting:
                await ask(callers, total)
                return await reconnect(broker, callers, total)
            return statistics.median([await ask(callers, total) for _ in range(TIMES)])
        finally:
            for transport in transports:
                await transport.close()


def _rows(name: str, total: int, *, reconnecting: bool = False) -> list[Row]:
    return [Row(FIGURES[name], asyncio.run(measured(kind, total, reconnecting=reconnecting)), None, kind) for kind in BROKERS]


def thousand(_cloud: RealCloud) -> list[Row]:
    """Return ask_1000_s."""
    return _rows("ask_1000_s", 1000)


def ten_thousand(_cloud: RealCloud) -> list[Row]:
    """Return ask_10000_s."""
    return _rows("ask_10000_s", 10_000)


def reconnected(_cloud: RealCloud) -> list[Row]:
    """Return reconnect_1000_s."""
    return _rows("reconnect_1000_s", 1000, reconnecting=True)
