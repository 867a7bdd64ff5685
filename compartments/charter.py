"""The charter: by which the ring above appoints a domain's decider and delegates to it.

Owns the fields and what makes a charter acceptable after another. Signing and opening its frame is ``keys.frame``'s
matter, drafting one from the world ``ring0.charters``'s. Pure.

INV-CHA-1: versions rise by one and epochs never fall; a domain follows the newest charter it has, and no other.
INV-CHA-2: what a charter does not name is not delegated: empty means nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bus.messages import Command
from compartments.row import CompartmentKind
from enjin.errors import Conflict, Refused

CHARTER_VERSION: Final = 1


class CharterRefused(Refused):
    """A charter is not for this domain or this cloud, or of an unknown version."""

    code = "E-CHA-001"


class StaleCharter(Conflict):
    """A charter is older than the one in force."""

    code = "E-CHA-002"


class ReceiveCharter(Command, kind="charter.receive"):
    """Follow a charter that the ring above signed: *frame* is its signed bytes as base64url."""

    frame: str


class Block(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Addresses that the domain gives out alone: part of *network*, IPv4 and IPv6 side by side."""

    network: str
    ipv4: str
    ipv6: str = ""


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A compartment that the domain must know: those delegated to it, and the homes above them."""

    id: str
    name: str
    kind: CompartmentKind
    parent: str = ""


class Quotas(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How much the domain may use in all; 0 means nothing."""

    memory_bytes: int = 0
    processes: int = 0
    apps: int = 0


class Charter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the ring above says about a domain.

    ``decider`` is the node that alone sequences the domain's journal at ``epoch``, ``parent`` the node that watches it,
    ``grant`` the hash of the decider's grant. ``grants`` are frames (base64url) of people and peers that the domain believes,
    ``revoked`` the key ids that it does not. ``address`` is where the ports are reached. ``groups`` are those that the decider is
    in: its compartments' and its tiers' (``bus.groups``). ``roots`` are the frames of every root statement after the first.
    ``approvals`` is how many other operators must approve what one must not do alone (``compartments.operators``).
    ``nats_port`` is where the server of the domain's channel listens on loopback; 0: the channel is ZeroMQ's, -1: as the decider was
    told at its start.
    """

    v: int = CHARTER_VERSION
    cloud: str
    domain: str
    epoch: int
    version: int
    decider: str
    parent: str
    grant: str
    blocks: tuple[Block, ...] = ()
    uid_first: int = -1
    uid_count: int = 0
    compartments: tuple[Place, ...] = ()
    quotas: Quotas = Quotas()
    grants: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()
    api_port: int = 0
    router_port: int = 0
    address: str = ""
    groups: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    approvals: int = 2
    nats_port: int = -1


def check_succession(old: Charter | None, new: Charter, *, cloud: str, domain: str) -> None:
    """Check that a domain which follows *old* may follow *new*.

    Raises:
        CharterRefused: Another cloud's or domain's, or of a version of the format that is unknown here.
        StaleCharter: *old* is as new, or has a higher epoch.
    """
    if new.v != CHARTER_VERSION:
        raise CharterRefused(f"charter format {new.v} is unknown", hint="update this node")
    if new.cloud != cloud or new.domain != domain:
        raise CharterRefused(f"the charter is for domain {new.domain} of cloud {new.cloud[:6]}, not for {domain} of {cloud[:6]}")
    if new.epoch < 1 or new.version < 1:
        raise CharterRefused("a charter's version and epoch count from 1")
    if old is not None and (new.version <= old.version or new.epoch < old.epoch):
        raise StaleCharter(f"charter {new.version} (epoch {new.epoch}) is not newer than {old.version} (epoch {old.epoch})")
