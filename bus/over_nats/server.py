"""What one nats-server is told: its configuration, and what lies beside it.

Starts nothing: who supervises it does, and ``program`` finds what it starts. The configuration
is JSON, which nats-server reads, so nothing that comes from outside can add a line to it.

INV-NSV-1: no listener but the clients' and, in a cluster, the other servers': no monitoring, websocket, leaf or gateway.
INV-NSV-2: nobody logs in without a token: there is no user without one, and no account but those in tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from bus.heartbeats import MISSED_MAX, beat_s
from bus.transport import FRAME_MAX_BYTES
from enjin.host import write_atomic
from keys.nats_claims import account_token, operator_token, system_token
from keys.nats_keys import NatsAuthority

CONTROL_LINE_MAX: Final = 32_768  # a token with every subject of a narrow grant stands in one line
CONNECTIONS_MAX: Final = 16_384
HANDSHAKE_S: Final = 5  # a thousand that come back at once wait for each other
PENDING_MAX_BYTES: Final = 32 << 20


class Server(NamedTuple):
    """One server as it is configured.

    name: unique in the cluster. port: clients', on host. cluster_port: other servers', 0 without a cluster.
    routes: ``host:cluster_port`` of every server of the cluster. channels: whose accounts it knows from the start.
    participants: how many it will serve, as far as is known.
    """

    name: str
    directory: Path
    host: str
    port: int
    cluster_port: int = 0
    routes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    participants: int = 0

    @property
    def config(self) -> Path:
        """Where its configuration lies."""
        return self.directory / "nats-server.json"

    @property
    def address(self) -> str:
        """What clients connect to."""
        return f"{self.host}:{self.port}"


def write_server(server: Server, authority: NatsAuthority, cloud: str, *, certificate: bytes, leaf: tuple[bytes, bytes]) -> None:
    """Write what *server* reads at its start: its configuration, its certificate with the key, and the authority's.

    Args:
        server: Which one.
        authority: The cloud's keys for the NATS bus; none of them is written.
        cloud: The cloud's id.
        certificate: PEM of the cloud's certificate authority.
        leaf: PEM of the server's certificate, and of its private key.
    """
    server.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(server.directory / "authority.pem", certificate, 0o644)
    write_atomic(server.directory / "server.pem", leaf[0], 0o644)
    write_atomic(server.directory / "server.key", leaf[1], 0o600)
    write_atomic(server.config, json.dumps(configuration(server, authority, cloud), indent=1).encode(), 0o600)


def configuration(server: Server, authority: NatsAuthority, cloud: str) -> dict[str, Any]:
    """Return the configuration of *server*."""
    folder = server.directory
    # The oldest token there can be: what the server has been told since lies on its disk, and stays.
    accounts = {authority.account(one).text: account_token(authority, one, issued_s=1, revoked={}) for one in server.channels}
    files = {name: str(folder / file) for name, file in _FILES.items()}
    told: dict[str, Any] = {
        "server_name": server.name,
        "listen": server.address,
        "tls": {**files, "min_version": "1.3", "timeout": HANDSHAKE_S, "handshake_first": True},
        "operator": operator_token(authority, cloud),
        "system_account": authority.system.text,
        "resolver": {"type": "full", "dir": str(folder / "accounts"), "allow_delete": False, "limit": 4096, "interval": "2s"},
        "resolver_preload": {authority.system.text: system_token(authority), **accounts},
        "max_payload": FRAME_MAX_BYTES,
        "max_control_line": CONTROL_LINE_MAX,
        "max_connections": CONNECTIONS_MAX,
        "max_pending": PENDING_MAX_BYTES,
        "write_deadline": "2s",
        "ping_interval": f"{beat_s(server.participants)}s",
        "ping_max": MISSED_MAX - 1,
    }
    if server.cluster_port:
        told["cluster"] = {
            "name": f"enjin-{cloud[:6]}",
            "listen": f"{server.host}:{server.cluster_port}",
            "routes": [f"tls://{route}" for route in server.routes],
            "no_advertise": True,
            "compression": "disabled",
            "tls": {**files, "min_version": "1.3", "timeout": 2, "verify": True},
        }
    return told


def argv(program: Path, server: Server) -> list[str]:
    """Return the command that runs *server*."""
    return [str(program), "--config", str(server.config)]


_FILES: Final = {"cert_file": "server.pem", "key_file": "server.key", "ca_file": "authority.pem"}
