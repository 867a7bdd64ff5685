"""Tokens of the NATS bus: who may log in at the servers, on which channel, and which subjects follow from a grant.

Owns the claims of operator, accounts and users in the form that nats-server checks, and reading a token of ours back.
Pure: no clock, no files. A token opens a door to a broadcast network and carries no authority: that is the grant's.

INV-NCL-1: empty means nothing. NATS takes an empty list for everything, so nothing is spelled as a refusal of all.
INV-NCL-2: a user's subjects follow from its grant, and whoever does not speak on a channel gets no token for it.
INV-NCL-3: no token opens JetStream, imports, exports, leaf nodes, websockets or another account's subjects.

Source: NATS JWT v2 (operator, account, user claims); THREATS B9.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from enjin.canonical import canonical
from enjin.errors import Refused
from keys.grants import ROOT_PARENT, VERBS, Grant, speaks_on
from keys.nats_keys import IssuingKey, Kind, NatsAuthority, public_text
from keys.signing import BadSignature, verify_raw

EVERYBODY: Final = "*"
CONNECTIONS_MAX: Final = 16_384
SUBSCRIPTIONS_MAX: Final = 256
PAYLOAD_MAX_BYTES: Final = 1 << 20
TOKEN_MAX_BYTES: Final = 1 << 20
_HEADER: Final = {"typ": "JWT", "alg": "ed25519-nkey"}
_WORDS: Final = ("command", "query", "seen")


class NoChannel(Refused):
    """A grant does not name the channel that a token is wanted for."""

    code = "E-GRA-002"
    http_status = 403


class BadToken(Refused):
    """A token of the NATS bus is malformed or not signed by our key."""

    code = "E-SIG-004"
    http_status = 401


class Subjects(NamedTuple):
    """What a user may publish and hear: NATS patterns; empty means nothing."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()


def subjects_of(grant: Grant, channel: str) -> Subjects:
    """Return what the holder of *grant* may publish and hear on *channel*.

    Whoever speaks on a channel hears all of it: it is a broadcast network. It publishes wishes, questions and what it
    saw under its own verbs; on which compartment is the receivers' matter.

    Raises:
        NoChannel: The grant does not name it.
    """
    if not speaks_on(grant, channel):
        raise NoChannel(f"the grant of {grant.subject} does not name channel {channel}")
    verbs = sorted({one.verb for one in grant.allowed})
    if set(verbs) >= VERBS:
        words = (*_WORDS, "reply", *(("forward",) if grant.parent == ROOT_PARENT and grant.keys.journal else ()))
        return Subjects(tuple(f"{word}.>" for word in words), (">",))
    publish = [f"{word}.{verb}{below}" for verb in verbs if verb != "reply" for word in _WORDS for below in ("", ".>")]
    return Subjects((*publish, *(("reply.>",) if "reply" in verbs else ())), (">",))


def operator_token(authority: NatsAuthority, cloud: str) -> str:
    """Return the operator's own token: the cloud's."""
    claims = {"type": "operator", "version": 2, "system_account": authority.system.text}
    return _mint(authority.operator, authority.operator.text, f"enjin {cloud}", claims, issued_s=1)


def system_token(authority: NatsAuthority) -> str:
    """Return the token of the system account, through which the decider alone speaks to the servers."""
    return _mint(authority.operator, authority.system.text, "system", _account(4, exports=True), issued_s=1)


def system_user_token(authority: NatsAuthority) -> str:
    """Return the token with which the decider logs in to the system account."""
    publish = ("$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP")
    return user_token(authority.system, authority.system_user.public, "decider", Subjects(publish, ("_INBOX.>",)), issued_s=1)


def account_token(authority: NatsAuthority, channel: str, *, issued_s: int, revoked: Mapping[str, int]) -> str:
    """Return the token of *channel*'s account.

    Args:
        authority: The cloud's keys for the NATS bus.
        channel: Its name.
        issued_s: Unix time; a server keeps the newer of two, so it must not run back.
        revoked: User key (text) or ``EVERYBODY`` -> unix time: tokens issued until then are refused and cut.
    """
    claims = _account(CONNECTIONS_MAX) | ({"revocations": dict(revoked)} if revoked else {})
    return _mint(authority.operator, authority.account(channel).text, channel, claims, issued_s=issued_s)


def user_token(account: IssuingKey, public: bytes, name: str, subjects: Subjects, *, issued_s: int, expires_s: int = 0) -> str:
    """Return the token with which the holder of user key *public* logs in to *account*.

    Args:
        account: The channel's account key.
        public: The user's 32-byte public key.
        name: What servers call it in their logs: the subject's id.
        subjects: What it may publish and hear.
        issued_s: Unix time.
        expires_s: Unix time from which servers refuse it and cut its session; 0: never.
    """
    claims = {
        "type": "user",
        "version": 2,
        "pub": _allowing(subjects.publish),
        "sub": _allowing(subjects.subscribe),
        "subs": SUBSCRIPTIONS_MAX,
        "data": -1,
        "payload": PAYLOAD_MAX_BYTES,
        "allowed_connection_types": ["STANDARD"],
    }
    return _mint(account, public_text(Kind.USER, public), name, claims, issued_s=issued_s, expires_s=expires_s)


def read_token(token: str, issuer: IssuingKey) -> dict[str, Any]:
    """Return the claims of *token* after checking that *issuer* signed them. Raises: BadToken."""
    head, _, signature = token.rpartition(".")
    try:
        verify_raw(issuer.public, head.encode("ascii"), _unpack(signature))
        claims = msgspec.json.decode(_unpack(head.partition(".")[2]), type=dict[str, Any])
    except (BadSignature, ValueError) as error:
        raise BadToken("the token is not one of ours") from error
    if len(token) > TOKEN_MAX_BYTES or claims.get("iss") != issuer.text:
        raise BadToken("the token names another issuer")
    return claims


def _account(connections: int, *, exports: bool = False) -> dict[str, Any]:
    limits = {
        "subs": -1, "data": -1, "payload": PAYLOAD_MAX_BYTES, "imports": 0, "exports": -1 if exports else 0,
        "wildcards": exports, "conn": connections, "leaf": 0, "disallow_bearer": True,
    }  # fmt: skip
    nothing = _allowing(())
    return {"type": "account", "version": 2, "limits": limits, "default_permissions": {"pub": nothing, "sub": nothing}}


def _allowing(patterns: tuple[str, ...]) -> dict[str, list[str]]:
    return {"allow": list(patterns)} if patterns else {"deny": [">"]}


def _mint(issuer: IssuingKey, subject: str, name: str, claims: Mapping[str, Any], *, issued_s: int, expires_s: int = 0) -> str:
    body = {"iat": issued_s, "iss": issuer.text, "sub": subject, "name": name, "nats": dict(claims)}
    if expires_s:
        body["exp"] = expires_s
    body["jti"] = base64.b32encode(hashlib.sha256(canonical(body)).digest()).decode().rstrip("=")
    signed = f"{_pack(canonical(_HEADER))}.{_pack(canonical(body))}"
    return f"{signed}.{_pack(issuer.sign_token(signed))}"


def _pack(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unpack(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
