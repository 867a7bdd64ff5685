"""nats-server: found, checked against the floor, and told what it may do.

Owns the configuration of one server and what lies beside it. Starts nothing: who supervises it does. The configuration
is JSON, which nats-server reads, so nothing that comes from outside can add a line to it.

INV-NSV-1: no listener but the clients' and, in a cluster, the other servers': no monitoring, websocket, leaf or gateway.
INV-NSV-2: nobody logs in without a token: there is no user without one, and no account but those in tokens.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from bus.transport import FRAME_MAX_BYTES
from enjin.errors import ConfigError
from enjin.host import write_atomic
from keys.nats_claims import operator_token, system_token
from keys.nats_keys import NatsAuthority

PROGRAM: Final = "nats-server"
FLOOR: Final = (2, 14, 0)
VERSION_S: Final = 10
CONTROL_LINE_MAX: Final = 32_768  # a token with every subject of a narrow grant stands in one line
CONNECTIONS_MAX: Final = 8192
PENDING_MAX_BYTES: Final = 32 << 20
_VERSION: Final = re.compile(r"v(\d{1,4})\.(\d{1,4})\.(\d{1,4})(-[0-9A-Za-z.]+)?\s*")


class ServerRefused(ConfigError):
    """There is no nats-server here that may serve."""

    code = "E-BUS-121"
    remedy = "`./bootstrap setup --nats` installs one; any nats-server from 2.14.0 on PATH will do"


class Server(NamedTuple):
    """One server as it is configured.

    name: unique in the cluster. port: clients', on host. cluster_port: other servers', 0 without a cluster.
    routes: ``host:cluster_port`` of every server of the cluster.
    """

    name: str
    directory: Path
    host: str
    port: int
    cluster_port: int = 0
    routes: tuple[str, ...] = ()

    @property
    def config(self) -> Path:
        """Where its configuration lies."""
        return self.directory / "nats-server.json"

    @property
    def address(self) -> str:
        """What clients connect to."""
        return f"{self.host}:{self.port}"


def find_server(beside: str = sys.executable, path: str | None = None) -> Path:
    """Return the nats-server that may serve: the one beside the interpreter, else the one on PATH.

    Raises:
        ServerRefused: There is none, it does not say its version, or it is older than the floor.
    """
    own = Path(beside).parent / PROGRAM
    found = str(own) if own.exists() else shutil.which(PROGRAM, path=path)
    if found is None:
        raise ServerRefused("there is no nats-server on this machine")
    check_version(found, _said_version(found))
    return Path(found)


def check_version(program: str, said: str) -> tuple[int, int, int]:
    """Return the version in *said*, what *program* prints for ``--version``, when it is not older than the floor.

    A release candidate is older than its release. Raises: ServerRefused.
    """
    match = _VERSION.search(said)
    if match is None:
        raise ServerRefused(f"{program} does not say which version it is")
    version = (int(match[1]), int(match[2]), int(match[3]))
    if version < FLOOR or (version == FLOOR and match[4]):
        raise ServerRefused(f"nats-server {match[0].strip()[1:]} at {program} is older than {'.'.join(map(str, FLOOR))}")
    return version


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
    files = {name: str(folder / file) for name, file in _FILES.items()}
    told: dict[str, Any] = {
        "server_name": server.name,
        "listen": server.address,
        "tls": {**files, "min_version": "1.3", "timeout": 2, "handshake_first": True},
        "operator": operator_token(authority, cloud),
        "system_account": authority.system.text,
        "resolver": {"type": "full", "dir": str(folder / "accounts"), "allow_delete": False, "limit": 4096, "interval": "2s"},
        "resolver_preload": {authority.system.text: system_token(authority)},
        "max_payload": FRAME_MAX_BYTES,
        "max_control_line": CONTROL_LINE_MAX,
        "max_connections": CONNECTIONS_MAX,
        "max_pending": PENDING_MAX_BYTES,
        "write_deadline": "2s",
        "ping_interval": "2s",
        "ping_max": 2,
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


def _said_version(program: str) -> str:
    try:
        ran = subprocess.run([program, "--version"], capture_output=True, timeout=VERSION_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerRefused(f"{program} does not run: {error}") from error
    return ran.stdout[:256].decode(errors="replace")


_FILES: Final = {"cert_file": "server.pem", "key_file": "server.key", "ca_file": "authority.pem"}
