"""A client's connection to a cloud: a person's key, the public directory, and one caller per domain.

Speaks on the bus where its sockets can be reached, else it posts the same signed envelopes to the HTTP door. Believes
nothing in the directory that does not chain to the root which the person's key file pins.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from bus.caller import COMMAND_DEADLINE_S, QUERY_DEADLINE_S, Caller, Follower
from bus.directory import FILE, Directory, Reach, read_directory
from bus.messages import Command, Query, Reply
from bus.moving import LINGER_S, go_over
from bus.over_door import DoorTransport
from bus.over_zmq import ZmqTransport, curve_text
from bus.speaker import Speaker
from bus.transport import Transport
from enjin.canonical import from_text
from enjin.config import Config
from enjin.errors import EnjinError, Refused, from_reply
from enjin.host import FileFailed
from enjin.log import get
from keys.keyring import Keyring
from keys.operator import OperatorKey, load_operator_key, load_roots, save_roots
from keys.trust import Revoked, TrustSet

CHANNELS: Final = {0: "ring0"}
LOOK_S: Final = 0.25

_log = get("bus.session")


class ForeignRoot(Refused):
    """The cloud's directory names another root than our key file pins."""

    code = "E-SES-001"
    remedy = "this is another cloud, or somebody replaced its directory: compare key files"


class _Head(Query, kind="journal.head"):
    """Where a journal stands."""


class Session:
    """One person's connection to one cloud; made by ``open``."""

    def __init__(self, config: Config, directory: Directory, key: OperatorKey) -> None:
        self.config, self.directory, self.key = config, directory, key
        self.keyring: Keyring = key.keyring()
        if directory.root != key.root:
            raise ForeignRoot(f"the directory of cloud {directory.cloud[:6]} names another root than our key")
        self.trust = TrustSet(from_text(key.root))
        self.trust.follow_roots(load_roots(config.keys, directory.cloud))
        self.follow_roots(from_text(text) for text in directory.roots)
        for text in directory.grants:
            self.trust.add(from_text(text))
        self.grant = self.trust.add(from_text(key.grant))
        self._believe_revoked(directory)
        if self.trust.revoked.keys() & {self.grant, str(self.keyring.message.key_id)}:
            raise Revoked("this key was revoked", hint="sign with another key: set ENJIN_KEYS to its directory")
        self._callers: dict[str, Caller] = {}
        self._transports: list[Transport] = []
        self._reaches: dict[str, Reach] = {}  # domain -> how it was reached when we connected
        self._following: asyncio.Task[None] | None = None

    def _believe_revoked(self, directory: Directory) -> None:
        """The directory is only a hint, and whoever wrote it can do no more with this than not to answer: but we need not wait in vain."""
        for identity in directory.revoked:
            self.trust.revoke(identity, "named in the cloud's directory")

    def follow_roots(self, frames: Iterable[bytes]) -> None:
        """Believe root statements that the cloud tells of, and remember them before they count. Raises: RootRefused."""
        if self.trust.follow_roots(frames):
            with contextlib.suppress(FileFailed):  # a key on a disk that cannot be written to serves all the same
                save_roots(self.config.keys, self.directory.cloud, self.trust.roots.successors)

    @classmethod
    async def open(cls, config: Config, directory: Directory | None = None) -> Self:
        """Open a session with the cloud at the configured home.

        Raises:
            NoCloud, NoKey, BadKeyFile, ForeignRoot, RootRefused, Revoked, and what an unbelievable grant raises.
        """
        known = directory or read_directory(config.path)
        return cls(config, known, load_operator_key(config.keys, known.cloud))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None
        for transport in self._transports:
            await transport.close()
        self._transports.clear()
        self._callers.clear()

    def caller(self, ring: int) -> Caller:
        """Return the caller for the first domain of *ring*. Raises: NoCloud."""
        return self.caller_of(self.directory.reach(ring))

    def caller_of(self, reach: Reach) -> Caller:
        """Return the caller for the domain at *reach*."""
        ring, domain = reach.ring, reach.domain
        if domain not in self._callers:
            channel = CHANNELS.get(ring, f"ring{ring}.{domain}")
            transport = self._transport(reach, channel)
            self._transports.append(transport)
            speaker = Speaker(
                cloud=self.directory.cloud,
                channel=channel,
                issuer=self.key.account,
                grant=self.grant,
                signer=self.keyring.message,
                daemon=False,
            )
            self._callers[domain] = Caller(transport, speaker, self.trust, responder=reach.decider, ring=ring, home=domain)
            self._reaches[domain] = reach
            if self._following is None:
                self._following = asyncio.get_running_loop().create_task(self._follow_moves())
        return self._callers[domain]

    def _follow_grants(self, directory: Directory) -> None:
        """Believe what was renewed since we began: a node speaks with its newer grant some seconds after the directory names it."""
        with contextlib.suppress(EnjinError):  # of another root by now: whoever signs from there is not believed
            self.follow_roots(from_text(text) for text in directory.roots)
        for text in directory.grants:
            with contextlib.suppress(EnjinError):
                self.trust.add(from_text(text))
        self._believe_revoked(directory)

    async def _follow_moves(self) -> None:
        """Keep up with the directory: go over to another bus with each domain that does, and believe the grants that it renews."""
        path, seen = self.config.path / FILE, None
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                status = os.stat(path)
                if seen == (status.st_ino, status.st_mtime_ns):
                    continue
                directory = read_directory(self.config.path)
                self._follow_grants(directory)
                for reach in directory.domains:
                    if (old := self._reaches.get(reach.domain)) is not None and old.hub != reach.hub:
                        await self._go_over(reach)
                seen = status.st_ino, status.st_mtime_ns
            except (EnjinError, OSError) as error:
                _log.debug("bus.not_moved", error=error)

    async def _go_over(self, reach: Reach) -> None:
        """Speak with the domain at *reach* over its new bus. Raises: Unreachable."""
        caller = self._callers[reach.domain]
        old, fresh = caller.transport, self._transport(reach, caller.speaker.channel)
        await go_over(caller, fresh)
        self._transports.append(fresh)
        self._reaches[reach.domain] = reach
        await asyncio.sleep(LINGER_S)
        self._transports.remove(old)
        await old.close()

    def _transport(self, reach: Reach, channel: str) -> Transport:
        hub = str(Path(self.config.home) / reach.hub)
        reachable = os.access(hub, os.R_OK | os.W_OK)
        if reachable and reach.certificate:
            return self._over_nats(hub, reach) or DoorTransport(reach.api, channel)
        if reachable:
            return ZmqTransport.connect(
                hub,
                server_key=curve_text(bytes.fromhex(reach.hub_key)),
                public_key=curve_text(self.keyring.curve.public),
                secret_key=curve_text(self.keyring.curve.secret),
            )
        return DoorTransport(reach.api, channel)

    def _over_nats(self, socket: str, reach: Reach) -> Transport | None:
        """Return a connection over NATS; None when our key has no token or this environment lacks the library."""
        from bus.over_nats.link import UNIX, Login, NoNats
        from bus.over_nats.participant import NatsTransport

        token = reach.tokens.get(self.keyring.nats.text)
        if token is None:
            return None
        try:
            return NatsTransport.connect(Login((f"{UNIX}{socket}",), reach.certificate, self.keyring.nats, lambda: token), self.key.account)
        except NoNats:
            return None

    async def command(self, ring: int, wish: Command, *, reason: str = "", rid: str = "", deadline_s: float = COMMAND_DEADLINE_S) -> Any:
        """Ask *ring* for *wish* and return the reply's result. Raises: what it was refused with; Unreachable."""
        return _result(await self.caller(ring).command(wish, reason=reason, rid=rid, deadline_s=deadline_s))

    async def query(self, ring: int, query: Query, *, deadline_s: float = QUERY_DEADLINE_S) -> Any:
        """Ask *ring* *query* and return the answer. Raises: what it was refused with; Unreachable."""
        return _result(await self.caller(ring).query(query, deadline_s=deadline_s))

    async def head(self, ring: int, timeout_s: float) -> Any:
        """Return where *ring*'s journal stands, or raise Unreachable after *timeout_s*."""
        return await self.query(ring, _Head(), deadline_s=timeout_s)

    async def follow(self, ring: int, prefix: str, follower: Follower) -> None:
        """Call *follower* with every verified observation of *ring* under *prefix* (``seen.operation``)."""
        await self.caller(ring).follow(prefix, follower)


def _result(reply: Reply) -> Any:
    if not reply.ok:
        raise from_reply(reply.code, reply.message, reply.hint)
    return msgspec.json.decode(reply.result)
