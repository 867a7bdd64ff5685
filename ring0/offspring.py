"""Ring 1 nodes as ring 0 makes them: seeds, grant, charter and what their init runs.

Owns what goes down to a ring 1 node. A child's seeds are made here once and given over a descriptor at every start;
its grant is issued anew when half its time is over (``keys.term``). Decides nothing: which node, which address and which charter come
from World.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from compartments.charter import Charter
from compartments.identity import Identity
from enjin.canonical import canonical, from_text, to_text
from enjin.failpoints import inherited
from enjin.host import read_bounded, write_atomic
from keys.frame import CHARTER, FRAME_MAX, open_frame, seal
from keys.grants import Grant, PublicKeys, read_grant, sign_grant
from keys.keyring import Keyring, load_seed
from keys.signing import Signer
from keys.term import AUTONOMY_US, LIFE_US, end_at_home, renewal
from ring0.foundation import SKEW_US, SUPERVISOR_ROLE, everything
from supervision.steps import Control, Service

DAEMON_UID: Final = 100
ROUTER_UID: Final = 102
TENANT_UIDS: Final = (1000, 64_999)
HOME_INSIDE: Final = "/var/lib/enjin"
RUNTIME_INSIDE: Final = "/opt/enjin"
INIT_SOCKET: Final = "init.sock"


def channel_of(node: str) -> str:
    """Return the name of the private channel of ring 1 node *node*."""
    return f"ring1.{node}"


class Offspring:
    """The keys of one ring 1 node, kept under ``ring0/children/<node>`` of the state directory."""

    def __init__(self, directory: Path, cloud: str, node: str) -> None:
        self.directory = directory / node
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.cloud, self.node = cloud, node
        self.keyring = Keyring.create(self.directory, cloud, issuer=True)
        self._held: tuple[bytes, Grant] | None = None  # what lies on file

    def grant(self, parent: Grant, parent_hash: str, issuer: Signer, prefixes: Iterable[str], now: int, generation: int = 1) -> bytes:
        """Return the node's grant frame: the one on file until it is time to renew it, else a new one.

        *generation* says which of the node's keys for messages it names: a replaced one is followed by the next.
        """
        message = self.keyring.message_of(generation).public.hex()
        path = self.directory / "grant"
        if self._held is None and path.exists():
            frame = read_bounded(path, FRAME_MAX)
            self._held = frame, read_grant(open_frame(frame))
        if self._held is not None:
            held, old = self._held
            young = old.parent == parent_hash and old.expiry <= now + LIFE_US and now < renewal(old, open_frame(held).digest)
            if young and old.prefixes == tuple(prefixes) and old.keys.message == message:
                return held
        keys = self.keyring
        begin = max(now - SKEW_US, parent.not_before, 0 if self._held is None else self._held[1].not_before + 1)
        grant = Grant(
            v=1,
            cloud=self.cloud,
            subject=self.node,
            role=SUPERVISOR_ROLE,
            ring=1,
            depth=parent.depth - 1,
            compartment="cloud",
            keys=PublicKeys(
                message=message,
                journal=keys.journal.public.hex(),
                issue=keys.issuer.public.hex() if keys.issuer else "",
                curve=keys.curve.public.hex(),
                nats=keys.nats.public.hex(),
            ),
            allowed=everything("cloud"),
            channels=(channel_of(self.node),),
            prefixes=tuple(prefixes),
            not_before=begin,
            expiry=min(now + LIFE_US, parent.expiry),
            autonomy=min(AUTONOMY_US, parent.autonomy, end_at_home(parent) - begin),
            parent=parent_hash,
        )
        frame = sign_grant(grant, issuer)
        write_atomic(path, frame, 0o600)
        self._held = frame, grant
        return frame

    def identity(self, **place: Any) -> Identity:
        """Return what the node's daemon is given; *place* holds the fields that are not keys."""
        return Identity(
            cloud=self.cloud,
            node=self.node,
            domain=self.node,
            seed=to_text(load_seed(self.directory / "node.seed")),
            issuer_seed=to_text(load_seed(self.directory / "issuer.seed")),
            **place,
        )


def sign_charter(charter: Charter, issuer: Signer) -> str:
    """Return the frame of *charter*, signed by the ring above, as text."""
    return to_text(seal(CHARTER, canonical(charter), issuer))


def services(jail: bool, home: str, runtime: str, node: str) -> tuple[Service, ...]:
    """Return what a ring 1 node's init runs for ring 0: hands and the daemon. The daemon starts the rest itself."""
    python = f"{runtime}/bin/python"
    environment = {"ENJIN_HOME": home, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **inherited()}
    daemon = DAEMON_UID if jail else -1
    return (
        Service(
            name="hands",
            argv=(python, "-I", "-m", "supervision.hands", "--channel", "3", "--config", "4"),
            env=environment,
            fds={"3": "channel:hands:0", "4": f"listener:hands-{node}"},
            uid=0 if jail else -1,
        ),
        Service(
            name="daemon",
            argv=(python, "-I", "-m", "ring1.daemon", "--channel", "3", "--identity", "4"),
            env=environment,
            fds={"3": "channel:hands:1", "4": f"listener:identity-{node}"},
            uid=daemon,
            gid=daemon,
            groups=(ROUTER_UID,) if jail else (),
        ),
    )


def controls(jail: bool, home: str) -> tuple[Control, ...]:
    """Return the control socket over which the node's own daemon asks its init for the hub, the router and agents."""
    if not jail:
        return (Control(path=f"{home}/{INIT_SOCKET}", owner=-1, role="supervisor"),)
    return (
        Control(
            path=f"{home}/{INIT_SOCKET}", owner=DAEMON_UID, role="daemon", uids=((DAEMON_UID, ROUTER_UID), (TENANT_UIDS[0], TENANT_UIDS[1]))
        ),
    )


def decode_frames(texts: Iterable[str]) -> list[bytes]:
    """Return the frames of *texts*."""
    return [from_text(text) for text in texts]
