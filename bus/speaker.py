"""Who we speak as: makes sealed frames with our identity, grant, boot and sequence in them.

Owns the counter of a daemon's sequence numbers (a person has neither boot nor sequence) and the offset from our clock
to cloud time. Knows no transport.

INV-SPK-1: a sequence number is used once per boot, and a boot id belongs to one start of one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from bus.envelope import Behalf, Statement, seal_statement
from bus.messages import Message
from bus.replay import TTL_CAPS_MS, TTL_MAX_MS
from enjin.canonical import canonical
from enjin.host import clock as host_clock
from enjin.host import random_bytes, request_id
from keys.signing import Signer

TTL_MS: Final = 30_000


def wall_clock() -> int:
    """Return the wall clock in microseconds: what stands for cloud time where none was learnt yet."""
    return host_clock().wall_us


class Speaker:
    """One identity on one channel.

    Args:
        cloud: The cloud's id.
        channel: The channel that the messages are for.
        issuer: Our own subject id, as in our grant.
        grant: Hash of our grant; replaced when it is renewed.
        signer: Our message key.
        clock: Cloud time in microseconds.
        daemon: Whether to number messages within a boot of our own; False for a person's key.
    """

    def __init__(
        self, *, cloud: str, channel: str, issuer: str, grant: str, signer: Signer, clock: Callable[[], int] = wall_clock, daemon: bool
    ) -> None:
        self.cloud = str(cloud)
        self.channel = channel
        self.issuer = issuer
        self.grant = grant
        self.signer = signer
        self.offset_us = 0
        self.boot = random_bytes(16).hex() if daemon else ""
        self._sequence = 0
        self._clock = clock

    def now(self) -> int:
        """Return cloud time as we know it, in microseconds."""
        return self._clock() + self.offset_us

    def seal(
        self,
        subject: str,
        body: Message | msgspec.Raw,
        *,
        audience: str,
        rid: str = "",
        ttl_ms: int = 0,
        re: str = "",
        reason: str = "",
        behalf: Behalf | None = None,
    ) -> bytes:
        """Return the signed frame of *body* under *subject* (``command.app.push``, ``seen.instance.ready``).

        Args:
            audience: The receiver's subject id or its domain.
            rid: The request's id; a fresh one when empty.
            ttl_ms: How long it lives; 30 s, or its class's cap where that is less, when 0.
            re: Hash of the request that it answers.
            reason: Why, in the asker's words.
            behalf: For whom a door speaks.
        """
        if self.boot:
            self._sequence += 1
        statement = Statement(
            cloud=self.cloud,
            channel=self.channel,
            kind=subject,
            iss=self.issuer,
            aud=audience,
            boot=self.boot,
            seq=self._sequence,
            time=self.now(),
            ttl_ms=ttl_ms or min(TTL_MS, TTL_CAPS_MS.get(subject.partition(".")[0], TTL_MAX_MS)),
            grant=self.grant,
            rid=rid or str(request_id(self.now())),
            re=re,
            reason=reason,
            behalf=behalf,
            body=body if isinstance(body, msgspec.Raw) else msgspec.Raw(canonical(body)),
        )
        return seal_statement(statement, self.signer)


def reply_subject(rid: str) -> str:
    """Return the subject under which the answer to request *rid* is published."""
    return "reply." + rid.replace("-", "")[:16]
