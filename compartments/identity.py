"""What a ring gives a node that it runs, once, over a descriptor: its seeds, its grants, its charter, its place.

The parent writes it into a memory file that the node's init holds; the daemon reads it at each start. It is the only
secret that goes down, and it never touches a disk of the node. Owns the shape and both ends of that file.
"""

from __future__ import annotations

import os

import msgspec

from bus.clock import Mark
from enjin.errors import ConfigError
from enjin.failpoints import failpoint

IDENTITY_MAX = 1 << 20


class BadIdentity(ConfigError):
    """A daemon was started without its identity, or with a damaged one."""

    code = "E-IDT-001"
    remedy = "the ring above gives it; `enjin up` mends the node"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a ring 1 daemon is. Frames and seeds are base64url text; ``grants`` stand parents before children.

    ``strategy`` is how its own node runs (``jail`` or ``process``), ``home`` its state directory and ``runtime`` the
    runtime copy, both as it sees them; ``roots`` are the root statements after the first, in order; ``nats_port`` is 0 where
    the bus is ZeroMQ; ``witnessed`` is the checkpoint (canonical JSON) that the parent's copy of the node's journal has reached:
    a journal that shows less was put back from an old copy; ``time`` is what time it was when this was written;
    ``build_environment`` and ``host_paths`` are what builds need of the host.
    """

    cloud: str
    node: str
    parent: str
    label: str
    domain: str
    strategy: str
    home: str
    runtime: str
    root: str
    seed: str
    issuer_seed: str
    grant: str
    grants: tuple[str, ...]
    charter: str
    roots: tuple[str, ...] = ()
    address: str = ""
    bridge_addresses: tuple[str, ...] = ()
    router_port: int = 0
    api_port: int = 0
    build_environment: dict[str, str] = {}
    host_paths: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    nats_port: int = 0
    witnessed: str = ""
    time: Mark | None = None


def write_identity(identity: Identity) -> int:
    """Return the descriptor of a sealed memory file that holds *identity*; the caller closes it."""
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    failpoint("identity.write")
    os.write(descriptor, msgspec.json.encode(identity))
    return descriptor


def read_identity(descriptor: int) -> Identity:
    """Return the identity in the file behind *descriptor*, whatever others have read of it.

    Raises:
        BadIdentity: Nothing is there, or not an identity.
    """
    try:
        return msgspec.json.decode(os.pread(descriptor, IDENTITY_MAX, 0), type=Identity)
    except (OSError, msgspec.DecodeError) as error:
        raise BadIdentity(f"descriptor {descriptor} holds no identity: {error}") from error
