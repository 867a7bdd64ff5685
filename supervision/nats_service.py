"""The bus over NATS as a decider runs it: a server of its own beside it, a child of init like the hub.

Owns the files that the server reads, asking init for the process, the tokens of who may log in, and telling the
server who may no longer. The decider is the operator of its server, its channel an account, each subject of a grant a
user; the keys for that follow from the issuer's seed, so the ring above can mint a token for itself.

INV-NSS-1: tokens carry no time: whoever is not in force is revoked at the server, and whoever comes to be in force
again is not, whatever the wall clock says. INV-NSS-2: a revocation that a server has is never taken back for a key that
is not in force.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from bus.over_nats.accounts import Accounts
from bus.over_nats.link import UNIX, Login
from bus.over_nats.participant import NatsTransport
from bus.over_nats.server import Server, write_server
from enjin import log
from enjin.errors import EnjinError
from enjin.failpoints import failpoint
from enjin.host import clock, write_atomic
from keys.certificates import CertificateAuthority
from keys.grants import Grant, speaks_on
from keys.keyring import Keyring
from keys.nats_claims import Subjects, subjects_of, user_token
from keys.nats_keys import Kind, UserKey, public_text
from keys.trust import TrustSet
from supervision.hub_service import NATS_SERVICE, NATS_SOCKET
from supervision.init_link import InitLink

LEAF_S: Final = 400 * 86_400  # made anew at each start of the daemon; the server reads it at each of its own
ISSUED_S: Final = 1
LOOK_S: Final = 5.0
AGAIN_S: Final = 0.2


class NatsService:
    """One decider's server.

    Args:
        home: The daemon's state directory.
        directory: A private directory for its files.
        keyring: The daemon's keys; it may issue.
        python: The runtime copy's interpreter.
        channel: The channel that it serves.
        port: Where on loopback the server listens.
    """

    name = NATS_SERVICE

    def __init__(self, home: Path, directory: Path, keyring: Keyring, python: str, *, channel: str, port: int) -> None:
        self.endpoint = home / NATS_SOCKET
        self._directory, self._keyring, self._python, self._channel = directory, keyring, python, channel
        self._log = log.get("nats")
        self._server = Server("s0", directory, "127.0.0.1", port, channels=(channel,))
        self._in_force: frozenset[str] = frozenset()
        self._known: frozenset[str] = frozenset()
        self._moved = asyncio.Event()
        authority = _certificates(keyring)
        leaf = authority.leaf(keyring.tls_seed, [], now_s=clock().wall_us // 1_000_000, lifetime_s=LEAF_S)
        write_server(self._server, keyring.nats_authority(), keyring.cloud, certificate=authority.certificate, leaf=leaf)
        told = {"endpoint": str(self.endpoint), "server": str(self._server.config), "port": port}
        write_atomic(directory / "config.json", json.dumps(told).encode(), 0o600)

    def admit(self, trust: TrustSet, now: int) -> None:
        """Let those log in who are believed *now* (cloud time), and nobody else."""
        grants, known = trust.logins(now)
        in_force = frozenset(_user(grant.keys.nats) for grant in grants) | {self._keyring.nats.text}
        known_users = frozenset(_user(key) for key in known)
        if (in_force, known_users) != (self._in_force, self._known):
            self._in_force, self._known = in_force, known_users
            self._moved.set()

    def service(self) -> dict[str, Any]:
        """Return the server as init runs it: under the daemon's own uid, restarted by init, its whole process group with it."""
        return {
            "name": NATS_SERVICE,
            "generation": 1,
            "argv": [self._python, "-I", "-m", "bus.over_nats", "--config", str(self._directory / "config.json")],
            "env": {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            "uid": os.getuid(),
            "gid": os.getgid(),
            "restart": "always",
            "leftovers": "kill",
            "log": True,
            "umask": 0o077,
        }

    async def start(self, init: InitLink) -> None:
        """Have init run the server; harmless when it runs already."""
        failpoint("nats.spawn")
        await init.spawn(self.service())

    def connect(self) -> NatsTransport:
        """Return the daemon's own connection."""
        return connect(self.endpoint, self._keyring, self._channel, self._keyring.nats, "decider", Subjects((">",), (">",)))

    async def run(self) -> None:
        """Keep the server told who is revoked, until cancelled."""
        accounts = self.accounts()
        try:
            while True:
                self._moved.clear()
                wait = LOOK_S
                try:
                    await self.tell(accounts)
                except EnjinError as error:
                    self._log.info("server.untold", error=error)
                    wait = AGAIN_S
                try:
                    async with asyncio.timeout(wait):
                        await self._moved.wait()
                except TimeoutError:
                    continue
        finally:
            await accounts.close()

    def accounts(self) -> Accounts:
        """Return the decider's word to the server."""
        return Accounts((f"{UNIX}{self.endpoint}",), certificate(self._keyring), self._keyring.nats_authority())

    async def tell(self, accounts: Accounts) -> None:
        """Tell the server who is revoked, unless it has just that. Raises: Unreachable, AccountRefused."""
        claims = await accounts.issued(self._channel)
        held = frozenset(claims.get("nats", {}).get("revocations", {}))
        wanted = (held | self._known) - self._in_force
        if not claims or wanted != held:
            await accounts.revoke(self._channel, dict.fromkeys(sorted(wanted), ISSUED_S), frozenset({self._server.name}))


def connect(endpoint: Path | str, decider: Keyring, channel: str, user: UserKey, name: str, subjects: Subjects) -> NatsTransport:
    """Return a connection to the server of the decider whose keys we hold, with a token that we mint ourselves.

    Args:
        endpoint: The server's Unix socket.
        decider: The keys of the decider beside the server; they may issue.
        channel: Its channel.
        user: The key that we log in with.
        name: What the server calls us in its log.
        subjects: What we publish and hear.
    """
    token = user_token(decider.nats_authority().account(channel), user.public, name, subjects, issued_s=ISSUED_S)
    return NatsTransport.connect(Login((f"{UNIX}{endpoint}",), certificate(decider), user, lambda: token), name)


def certificate(decider: Keyring) -> str:
    """Return the PEM of the certificate authority of the decider whose keys we hold."""
    return _certificates(decider).certificate.decode()


def tokens(decider: Keyring, channel: str, grants: Iterable[Grant]) -> dict[str, str]:
    """Return user key (text) -> token for every one of *grants* that speaks on *channel*."""
    account = decider.nats_authority().account(channel)
    return {
        _user(grant.keys.nats): user_token(
            account, bytes.fromhex(grant.keys.nats), grant.subject, subjects_of(grant, channel), issued_s=ISSUED_S
        )
        for grant in grants
        if speaks_on(grant, channel)
    }


def _certificates(decider: Keyring) -> CertificateAuthority:
    return CertificateAuthority(decider.tls_authority_seed(), decider.cloud)


def _user(key: str) -> str:
    return public_text(Kind.USER, bytes.fromhex(key))
