"""Answering whoever brings a join token: the grant is signed and proposed, and what the journal took goes back, signed.

Owns the acting part of ``ring0.joining``, which decides. Nobody who asks here has a key that anybody knows: a request is looked at
cheap things first, and what it says counts only as far as its own two signatures go.

INV-ADM-1: nothing goes back but what stands in the journal.
"""

from __future__ import annotations

from typing import Any

import msgspec

from compartments import graph, standing
from compartments.domain import Domain
from compartments.rows_joining import JoinToken
from enjin.canonical import canonical, to_text
from enjin.errors import Conflict
from keys.frame import JOINED, open_frame, seal
from keys.grants import Capability, Grant, sign_grant
from keys.joining import Joined, JoinRefused, JoinRequest, read_request
from keys.signing import Signer, key_id
from ring0.foundation import CHANNELS, DAY_US, OPERATOR_DAYS, SKEW_US
from ring0.joining import Join, check_allowed, proven_token, subject_of


class JoinTokenSeenTwice(Conflict):
    """A used join token was brought by another key: both keys are revoked."""

    code = "E-JOI-007"
    remedy = "somebody else has the token: make a new one, and hand it over another way"


class Admitting:
    """Ring 0's side of joining."""

    def __init__(self, domain: Domain, issuer: Signer) -> None:
        self._domain, self._issuer = domain, issuer
        self.cloud = str(domain.keyring.cloud)

    async def answer(self, data: bytes, source: str) -> bytes:
        """Return the frame that answers the request in frame *data*, which came from address *source*.

        Raises:
            JoinTokenSeenTwice: Another key has used the token; both are revoked now.
            JoinRefused, JoinTokenOver, NoSuchJoinToken, OneKeyTwice, and what ``ring0.joining.join`` raises.
        """
        domain = self._domain
        asked, frame = read_request(data)
        row = proven_token(domain.world, asked)
        if not key_id(self._issuer.public).startswith(asked.parent):
            raise JoinRefused("the request is for another parent")
        proposal = ""
        if not row.used:
            check_allowed(domain.world, row, asked, source, domain.journal.now())
            proposal = self._grant(row, asked)
        reply = await domain.wish(Join(request=to_text(data), grant=proposal, source=source), reason=f"join token {row.id}")
        told: dict[str, Any] = msgspec.json.decode(reply.result)
        if told["misused"]:
            domain.log.error("token.misused", token=row.id, keys=told["keys"], source=source)
            raise JoinTokenSeenTwice(f"join token {row.id} was used by another key: both are revoked")
        domain.log.info("token.used", token=row.id, source=source)
        return self._answer(frame.digest, told["grant"])

    def _answer(self, request: str, grant: str) -> bytes:
        trust = self._domain.trust
        chain = trust.authority(self._domain.grant, self._domain.journal.now()).chain
        frames = {open_frame(one).digest: one for one in trust.frames()}
        answer = Joined(
            request=request,
            root=to_text(trust.root_frame),
            roots=tuple(to_text(one) for one in trust.roots.successors),
            grants=(*(to_text(frames[digest]) for digest in reversed(chain)), grant),
        )
        return seal(JOINED, canonical(answer), self._issuer)

    def _grant(self, row: JoinToken, asked: JoinRequest) -> str:
        """Return the frame of the grant that token *row* buys, as text."""
        domain, now = self._domain, self._domain.journal.now()
        parent, place = domain.trust.grant(domain.grant), graph.path_text(domain.world, row.compartment)
        grant = Grant(
            v=1,
            cloud=domain.keyring.cloud,
            subject=subject_of(domain.world, row),
            role=int(standing.level(domain.world, row.role)),
            ring=row.ring,
            depth=0,
            compartment=place,
            keys=asked.keys,
            allowed=tuple(Capability(verb, place) for verb in row.allowed.split()),
            channels=CHANNELS,
            not_before=max(now - SKEW_US, parent.not_before),
            expiry=min(now + OPERATOR_DAYS * DAY_US, parent.expiry),
            parent=domain.grant,
        )
        return to_text(sign_grant(grant, self._issuer))
