"""nats-server as a program: found, and refused by name and version when it is older than the floor.

INV-NPR-1: what does not say its version, or says one below the floor, never serves.

Few imports: who runs the server needs this and neither keys nor the client library.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from enjin.errors import ConfigError

PROGRAM: Final = "nats-server"
FLOOR: Final = (2, 14, 0)
VERSION_S: Final = 10
_VERSION: Final = re.compile(r"v(\d{1,4})\.(\d{1,4})\.(\d{1,4})(-[0-9A-Za-z.]+)?\s*")


class ServerRefused(ConfigError):
    """There is no nats-server here that may serve."""

    code = "E-BUS-121"
    remedy = "`./bootstrap setup --nats` installs one; any nats-server from 2.14.0 on PATH will do"


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


def _said_version(program: str) -> str:
    try:
        ran = subprocess.run([program, "--version"], capture_output=True, timeout=VERSION_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerRefused(f"{program} does not run: {error}") from error
    return ran.stdout[:256].decode(errors="replace")
