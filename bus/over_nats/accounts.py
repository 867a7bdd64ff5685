"""What the decider tells running NATS servers: the accounts as they are now, with every revocation in them.

Owns the system account's connection, which nobody but the decider has. A server takes an account's token when it is
not older than its own, cuts whoever the token revokes, and keeps it on its disk.

INV-NAC-1: ``push`` returns the servers that have taken the token, each by name: one that did not answer is not told.
INV-NAC-2: an account's token never gets older, whatever the wall clock does: it is issued after the servers' own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from bus.over_nats.link import Link, Login
from enjin.errors import StepFailed, Unreachable
from enjin.failpoints import failpoint
from enjin.host import clock, monotonic_s
from keys.nats_claims import account_token, read_token, system_user_token
from keys.nats_keys import NatsAuthority

ANSWER_S: Final = 2.0
ANSWERS_MAX: Final = 64
INBOX: Final = "_INBOX.decider"
_MICRO: Final = 1_000_000


class AccountRefused(StepFailed):
    """A NATS server did not take an account's token."""

    code = "E-BUS-123"


class Accounts:
    """The decider's word to the servers of one cloud.

    Args:
        servers: ``host:port`` of each.
        certificate: PEM of the cloud's certificate authority.
        authority: The cloud's keys for the NATS bus.
    """

    def __init__(self, servers: tuple[str, ...], certificate: str, authority: NatsAuthority) -> None:
        self._authority = authority
        token = system_user_token(authority)
        self._login = Login(servers, certificate, authority.system_user, lambda: token)
        self._link: Link | None = None
        self._answers: dict[str, list[bytes]] = {}
        self._number = 0
        self._heard = asyncio.Event()

    async def revoke(self, channel: str, revoked: Mapping[str, int], names: frozenset[str]) -> frozenset[str]:
        """Tell the servers *names* who is revoked on *channel*; return those that have it.

        Args:
            channel: Whose account.
            revoked: As for ``account_token``; replaces what the servers have.
            names: The servers that should answer; who is away is told again later, or asks the others when it is back.

        Raises:
            Unreachable: None of them answers.
            AccountRefused: One of them refuses the token.
        """
        latest = int((await self.issued(channel)).get("iat", 0))
        issued = max(clock().wall_us // _MICRO, latest + 1)  # a server that was away takes only what is newer than its own
        token = account_token(self._authority, channel, issued_s=issued, revoked=revoked)
        told = set()
        for data in await self._ask("$SYS.REQ.CLAIMS.UPDATE", token.encode(), len(names)):
            answer = msgspec.json.decode(data)
            if "error" in answer:
                raise AccountRefused(f"server {_name(answer)} refused the account: {answer['error'].get('description', '')}")
            told.add(_name(answer))
        if not told:
            raise Unreachable("no server of the bus has answered")
        return frozenset(told)

    async def issued(self, channel: str) -> dict[str, Any]:
        """Return the claims of *channel*'s account as the server has them; empty when it has none. Raises: Unreachable, BadToken."""
        account = self._authority.account(channel).text
        answers = await self._ask(f"$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP", b"", 1)
        if not answers:
            raise Unreachable("no server of the bus has answered")
        return read_token(answers[0].decode(), self._authority.operator) if answers[0] else {}

    async def _ask(self, subject: str, data: bytes, wanted: int) -> list[bytes]:
        """Ask every server and return what *wanted* of them answer within ``ANSWER_S``."""
        link = await self._connected()
        self._number += 1
        inbox = f"{INBOX}.{self._number}"
        answers: list[bytes] = []
        self._answers[inbox] = answers
        end = monotonic_s() + ANSWER_S
        try:
            failpoint("nats.accounts.send")
            await link.publish(subject, data, inbox)
            while len(answers) < wanted and not link.lost.is_set() and (left := end - monotonic_s()) > 0:
                self._heard.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._heard.wait()
        finally:
            del self._answers[inbox]
        return answers

    def _take(self, _pattern: str, subject: bytes, data: bytes) -> None:
        answers = self._answers.get(subject.decode(errors="replace"))
        if answers is not None and len(answers) < ANSWERS_MAX:
            answers.append(data)
            self._heard.set()

    async def _connected(self) -> Link:
        if self._link is not None and not self._link.lost.is_set():
            return self._link
        failed: Exception | None = None
        for server in self._login.servers:
            try:
                link = await Link.open(self._login, server, "decider", self._take)
                await link.listen(f"{INBOX}.>")
                await link.settle()
            except Unreachable as error:
                failed = error
                continue
            self._link = link
            return link
        raise Unreachable("no server of the bus lets the decider in") from failed

    async def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            await self._link.close()
            self._link = None


def _name(answer: Mapping[str, Any]) -> str:
    return str(answer.get("server", {}).get("name", "unnamed"))
