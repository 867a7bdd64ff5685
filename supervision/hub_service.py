"""The bus hub as a daemon runs it: a child of init, so that it outlives the daemon that asked for it.

Owns the files that the hub reads (its secret, who may connect, where) and asking init for the process. Writes the key
file anew whenever what the daemon believes changes; the hub reads it again by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bus.over_zmq import ZmqTransport, curve_text
from bus.transport import Transport
from enjin.errors import EnjinError
from enjin.failpoints import failpoint, inherited
from enjin.host import write_atomic
from keys.keyring import Keyring
from keys.trust import TrustSet
from supervision.init_link import InitLink

if TYPE_CHECKING:
    from supervision.nats_service import NatsService

SOCKET: Final = "bus/bus.sock"
SERVICE: Final = "hub"
NATS_SOCKET: Final = "bus/nats.sock"
NATS_SERVICE: Final = "nats"
NAMES: Final = (SERVICE, NATS_SERVICE)


class HubService:
    """One channel's hub.

    Args:
        home: The daemon's state directory.
        directory: A private directory for its files.
        keyring: The daemon's keys: the hub's own pair and the daemon's.
        python: The runtime copy's interpreter.
    """

    name = SERVICE

    def __init__(self, home: Path, directory: Path, keyring: Keyring, python: str) -> None:
        self.endpoint = home / SOCKET
        self._directory, self._keyring, self._python = directory, keyring, python
        self._allowed: list[str] | None = None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(directory / "secret", keyring.hub.secret, 0o600)
        config = {"endpoint": str(self.endpoint), "keys": str(directory / "allowed.json"), "secret": str(directory / "secret")}
        write_atomic(directory / "config.json", json.dumps(config).encode(), 0o600)

    def allow(self, keys: Iterable[str]) -> None:
        """Let the holders of these CURVE public keys (hex) connect, and nobody else."""
        allowed = sorted({curve_text(bytes.fromhex(key)) for key in keys} | {curve_text(self._keyring.curve.public)})
        if allowed != self._allowed:
            write_atomic(self._directory / "allowed.json", json.dumps({"keys": allowed}).encode(), 0o600)
            self._allowed = allowed

    def admit(self, trust: TrustSet, now: int) -> None:
        """Let those connect who are believed *now* (cloud time), and nobody else."""
        self.allow(trust.curve_keys(now))

    async def run(self) -> None:
        """Wait until cancelled: the hub reads its key file by itself."""
        await asyncio.Event().wait()

    def service(self) -> dict[str, Any]:
        """Return the hub as init runs it: under the daemon's own uid, restarted by init."""
        return {
            "name": SERVICE,
            "generation": 1,
            "argv": [self._python, "-I", "-m", "bus.hub", "--config", str(self._directory / "config.json")],
            "env": {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **inherited()},
            "uid": os.getuid(),
            "gid": os.getgid(),
            "restart": "always",
            "log": True,
            "umask": 0o077,
        }

    async def start(self, init: InitLink) -> None:
        """Have init run the hub; harmless when it runs already."""
        failpoint("hub.spawn")
        await init.spawn(self.service())

    def connect(self) -> ZmqTransport:
        """Return the daemon's own connection to the hub."""
        pair = self._keyring.curve
        return connect(str(self.endpoint), self._keyring.hub.public.hex(), pair.public, pair.secret)


def connect(endpoint: str, hub_key: str, public: bytes, secret: bytes) -> ZmqTransport:
    """Return a connection to the hub at *endpoint*, which must hold *hub_key* (hex)."""
    return ZmqTransport.connect(
        endpoint, server_key=curve_text(bytes.fromhex(hub_key)), public_key=curve_text(public), secret_key=curve_text(secret)
    )


def socket_of(over_nats: bool) -> str:
    """Return where a broker listens below its decider's state directory."""
    return NATS_SOCKET if over_nats else SOCKET


async def close_quietly(transport: Transport) -> None:
    """Close *transport* whatever it says."""
    with contextlib.suppress(EnjinError, OSError):
        await transport.close()


def bus_service(home: Path, directory: Path, keyring: Keyring, python: str, *, channel: str, port: int) -> HubService | NatsService:
    """Return what carries a decider's channel: a server of NATS where it has a *port*, else a hub of ZeroMQ."""
    if not port:
        return HubService(home, directory, keyring, python)
    from supervision.nats_service import NatsService  # brings the client library and certificates

    return NatsService(home, directory.with_name("nats"), keyring, python, channel=channel, port=port)
