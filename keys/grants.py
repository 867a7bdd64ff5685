"""Grants: signed statements of who a key is and what it may do, and how a child's lies within its parent's.

Owns the fields, the rules of attenuation and the signing of a grant. Pure but for nothing: no clock, no files. Which
grants are believed at a moment is ``keys.trust``'s matter.

INV-GRA-1: every dimension of a child lies within its parent's; empty means nothing; an unknown verb is refused.
INV-GRA-2: all public keys of a subject stand in one grant, and no key serves two purposes.

Source: THREATS B5; Birgisson et al., "Macaroons" (2014), for attenuation.
"""

from __future__ import annotations

import ipaddress
from typing import Final

import msgspec

from enjin.canonical import canonical, parse
from enjin.errors import Refused
from keys.frame import GRANT, Frame, seal
from keys.signing import Signer, check_public, read_public

CHAIN_MAX: Final = 4
ROOT_PARENT: Final = ""

VERBS: Final = frozenset({
    "account", "address", "app", "audit", "beacon", "blob", "charter", "child", "cloud", "compartment", "config", "daemon",
    "graph", "instance", "journal", "key", "log", "network", "node", "operation", "ps", "release", "reply", "route", "tier",
    "token", "trust", "volume",
})  # fmt: skip


class GrantRefused(Refused):
    """A grant claims more than its parent may give, or is malformed."""

    code = "E-GRA-001"
    http_status = 403


class Capability(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A verb family (``app``, or one verb such as ``key.revoke``) on a compartment path (``cloud/site``)."""

    verb: str
    resource: str


class PublicKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Every public half of one subject, hex; empty: it has none of that purpose."""

    message: str
    journal: str = ""
    issue: str = ""
    curve: str = ""
    nats: str = ""

    def all(self) -> list[str]:
        """Return the keys that are there."""
        return [key for key in (self.message, self.journal, self.issue, self.curve, self.nats) if key]


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Who *subject* is and what it may do. Times are microseconds of cloud time; ``parent`` is the issuer's grant hash."""

    v: int
    cloud: str
    subject: str
    role: int
    keys: PublicKeys
    ring: int
    depth: int
    compartment: str
    allowed: tuple[Capability, ...] = ()
    channels: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    quotas: dict[str, int] = {}
    not_before: int
    expiry: int
    autonomy: int = 0
    parent: str = ROOT_PARENT


def sign_grant(grant: Grant, *signers: Signer) -> bytes:
    """Return the frame of *grant* signed by its issuer (or by two of the root's keys)."""
    return seal(GRANT, canonical(grant), *signers)


def read_grant(frame: Frame) -> Grant:
    """Return the grant in *frame*, its own fields checked; the signature and the chain are not.

    Raises:
        GrantRefused, Malformed, NotCanonical, BadKey.
    """
    if frame.type != GRANT:
        raise GrantRefused("the frame does not hold a grant")
    grant = parse(frame.payload, Grant)
    if grant.v != 1:
        raise GrantRefused(f"grant version {grant.v} is unknown")
    check_public(read_public(grant.keys.message))
    for key in (grant.keys.journal, grant.keys.issue, grant.keys.nats):
        if key:
            check_public(read_public(key))
    if grant.keys.curve:
        read_public(grant.keys.curve)
    for prefix in grant.prefixes:
        _read_prefix(prefix)
    if len(set(grant.keys.all())) != len(grant.keys.all()):
        raise GrantRefused("one key stands for two purposes")
    if not 0 <= grant.ring <= 2 or not 0 <= grant.depth < CHAIN_MAX:
        raise GrantRefused("ring or depth is out of range")
    if grant.not_before >= grant.expiry:
        raise GrantRefused("the grant ends before it begins")
    for capability in grant.allowed:
        if capability.verb.partition(".")[0] not in VERBS or not capability.resource:
            raise GrantRefused(f"verb {capability.verb!r} on {capability.resource!r} is unknown")
    return grant


def within_path(path: str, parent: str) -> bool:
    """Whether compartment *path* is *parent* or beneath it, compared segment by segment."""
    return bool(parent) and (path == parent or path.startswith(parent + "/"))


def within_verb(verb: str, family: str) -> bool:
    """Whether *verb* is *family* or beneath it at a dot."""
    return bool(family) and (verb == family or verb.startswith(family + "."))


def speaks_on(grant: Grant, channel: str) -> bool:
    """Whether *grant* names *channel* (``ring1.n-0``) or one above it at a dot (``ring1``)."""
    return any(within_verb(channel, one) for one in grant.channels)


def covers(allowed: tuple[Capability, ...], verb: str, resource: str) -> bool:
    """Whether one of *allowed* permits *verb* on *resource*. Nothing allowed covers nothing."""
    return any(within_verb(verb, one.verb) and within_path(resource, one.resource) for one in allowed)


def check_within(child: Grant, parent: Grant) -> None:
    """Check that *child* lies within *parent* in every dimension.

    Raises:
        GrantRefused: The first dimension in which it does not.
    """
    if child.cloud != parent.cloud:
        raise GrantRefused("the grant belongs to another cloud")
    if not parent.keys.issue:
        raise GrantRefused("the issuer has no key to sign grants with")
    if child.depth >= parent.depth:
        raise GrantRefused("the grant may delegate as deep as its issuer")
    if child.ring not in (parent.ring, parent.ring + 1) or (child.ring == parent.ring and child.keys.issue):
        raise GrantRefused("the grant's ring does not follow from its issuer's")
    if child.role > parent.role:
        raise GrantRefused("the grant's role passes its issuer's")
    if not within_path(child.compartment, parent.compartment):
        raise GrantRefused("the grant's compartment lies outside its issuer's")
    for capability in child.allowed:
        if not covers(parent.allowed, capability.verb, capability.resource):
            raise GrantRefused(f"the issuer may not give {capability.verb} on {capability.resource}")
    for channel in child.channels:
        if not speaks_on(parent, channel):
            raise GrantRefused(f"the grant names channel {channel}, which its issuer has not")
    for prefix in child.prefixes:
        if not any(_within_prefix(prefix, outer) for outer in parent.prefixes):
            raise GrantRefused(f"prefix {prefix} lies outside its issuer's")
    for name, value in child.quotas.items():
        if value > parent.quotas.get(name, 0):
            raise GrantRefused(f"quota {name} passes its issuer's")
    if child.not_before < parent.not_before or child.expiry > parent.expiry or child.autonomy > max(parent.autonomy, 0):
        raise GrantRefused("the grant's time lies outside its issuer's")
    if {*child.keys.all()} & {*parent.keys.all()}:
        raise GrantRefused("the grant uses a key of its issuer")


def _read_prefix(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise GrantRefused(f"{text[:60]!r} is no prefix of addresses") from error


def _within_prefix(inner: str, outer: str) -> bool:
    first, second = _read_prefix(inner), _read_prefix(outer)
    return first.version == second.version and first.subnet_of(second)  # type: ignore[arg-type]
