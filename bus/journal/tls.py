"""What has to protect the way to a journal's server: TLS that checks the server's name, wherever the way leaves this machine.

Owns that rule, and what a refused certificate is called. TLS itself is libpq's. Imports the ground only.

INV-TLS-1: nothing is sent, no name and no password, on a way that leaves this machine and where nobody proves who answers.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bus.journal.errors import UnprotectedServer, UnsupportedDatabase

FULL: Final = "verify-full"
# What libpq says when it does not believe the server: from OpenSSL, of the name in the certificate, of its own files, of no TLS at all.
_UNPROVED: Final = ("certificate", "server does not support SSL", "SSL error")


def check_protection(options: Mapping[str, Any], one: Mapping[str, str]) -> None:
    """Check that what an address says is enough for one of its servers.

    Args:
        options: The whole address, as libpq's options.
        one: ``host`` and ``hostaddr`` of the server, where the address names them.

    Raises:
        UnprotectedServer: It is not on this machine, and the address does not ask for ``sslmode=verify-full``.
        UnsupportedDatabase: The address leaves it to a file which server that is.
    """
    if options.get("service") or os.environ.get("PGSERVICE"):
        raise UnsupportedDatabase("the journal's address names a service file", hint="name the host in the address itself")
    host = one.get("host") or os.environ.get("PGHOST", "")
    address = one.get("hostaddr") or os.environ.get("PGHOSTADDR", "")
    if options.get("sslmode") != FULL and not is_here(address or host):
        raise UnprotectedServer(f"the way to {host or address} would not be protected")


def is_here(host: str) -> bool:
    """Return whether *host* is this machine: a socket's folder, nothing at all, ``localhost``, a loopback address."""
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name; where it leads is for others to say
        return False


def unproved(refusals: Iterable[str]) -> bool:
    """Return whether one of libpq's *refusals* says that a server did not prove who it is."""
    return any(words in refusal for refusal in refusals for words in _UNPROVED)
