"""Genesis on disk: ring 0's seeds and grant, the operator's key; made once, under the state directory, signed with the root's shares.

Owns HOME/foundation.json and the files beside it. The shares are ``keys.shares``'s; where no ceremony was held before, genesis
holds it. What becomes true in the world at genesis is ``ring0.genesis``'s. ``foundation.json`` is written last: without it, what
lies there was never acknowledged and is made anew, but for the shares, which serve again.

Layout of HOME: foundation.json, root/share-{1,2,3}.key (until the operator moves them), ring0/{trust.json, keys/, journal.db},
init/ (what root reads and its sockets: nobody else may write there), hands/ (hands' own), run/ (the public directory), bus/,
runtime/<digest>, nodes/<node>/state, log/.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from compartments.charter import Block, Charter, CharterRefused, check_succession
from enjin.canonical import canonical, from_text, parse, to_text
from enjin.config import Config
from enjin.errors import ConfigError
from enjin.host import clock, random_bytes, read_bounded, write_atomic
from keys.ceremony import hold_ceremony
from keys.frame import CHARTER, open_frame, seal
from keys.grants import VERBS, Capability, Grant, PublicKeys, sign_grant
from keys.keyring import SEED_BYTES, Keyring
from keys.operator import OperatorKey, save_operator_key
from keys.root import check_threshold, cloud_id
from keys.shares import Ask, BadShare, OpenedRoot, Share, WrongPassphrase, open_root, read_share, shares_in, write_together
from keys.signing import Signer
from keys.trust import TrustSet
from ring0.buses import port_after

FILE: Final = "foundation.json"
DAY_US: Final = 86_400_000_000
ROOT_DAYS: Final = 365
OPERATOR_DAYS: Final = 90
SKEW_US: Final = 60_000_000
OPERATOR_ROLE: Final = 2
SUPERVISOR_ROLE: Final = 3
CHANNEL: Final = "ring0"
ROOT: Final = "root"
CHANNELS: Final = (CHANNEL, "ring1")
PREFIXES: Final = ("10.80.0.0/16", "127.64.0.0/16", "fd00::/8", "::1/128")


class OtherCheckout(ConfigError):
    """The state directory belongs to another checkout of enjin that is in use."""

    code = "E-UP-004"
    remedy = "run that checkout's `enjin down` first, or set ENJIN_HOME to another directory"


class Foundation(msgspec.Struct, frozen=True, kw_only=True):
    """What was settled at genesis and never changes, but for the checkout that last raised the cloud, the bus and the journal."""

    cloud: str
    node: str
    operator: str
    root: str
    privileged: bool
    ring1: str
    port_base: int
    first_uid: int
    checkout: str
    founded: int
    bus: str = "zmq"
    journal: str = ""  # an address of PostgreSQL, without a password; "": the file

    def nats_port(self, ring: int) -> int:
        """Return where on loopback the NATS server of *ring*'s decider listens; 0 when the bus is ZeroMQ."""
        return port_after(self.port_base, ring) if self.bus == "nats" else 0

    @property
    def tag(self) -> str:
        """Six hex digits in every name on the host."""
        return self.cloud[:6]

    def uid(self, offset: int) -> int:
        """Return uid number *offset* of ring 0's own block; without privileges, our own."""
        return self.first_uid + offset if self.privileged else os.geteuid()


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What ring 0 was told at genesis: the root's frame, its own charter and the grants it may not lose, as text."""

    root: str
    grants: tuple[str, ...]
    charter: str


def read_foundation(home: Path) -> Foundation | None:
    """Return the foundation of the cloud at *home*; None when there is none."""
    try:
        return msgspec.json.decode(read_bounded(home / FILE, 65_536), type=Foundation)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigError(f"cannot read {home / FILE}: {error}") from error


def write_foundation(home: Path, foundation: Foundation) -> None:
    """Replace the foundation file."""
    write_atomic(home / FILE, msgspec.json.encode(foundation), 0o644)


def subject_id(cloud: str, word: str, prefix: str) -> str:
    """Return an id that follows from the cloud's id and *word*."""
    return f"{prefix}-{hashlib.blake2b(f'{cloud}/{word}'.encode(), digest_size=8).hexdigest()}"


def new_shares(passphrases: Sequence[bytes] = ()) -> list[Share]:
    """Hold the ceremony now and return its shares, closed with *passphrases* where they are given. Raises: WrongPassphrase."""
    now = clock().wall_us
    return hold_ceremony(now - SKEW_US, now + ROOT_DAYS * DAY_US, passphrases)


def no_passphrase(share: Share) -> bytes:
    """Refuse to open a closed share, where nobody can be asked."""
    raise WrongPassphrase(f"root share {share.number} is closed with a passphrase", hint="give it with --passphrase-file")


def root_in_hand(home: Path, shares: Sequence[Path] = (), ask: Ask = no_passphrase) -> OpenedRoot:
    """Return the root that *shares* open; else that of the shares in HOME/root, which are made when there are none.

    Raises:
        BadShare, TooFewShares, WrongPassphrase, RootOver, RootRefused: They open none.
        FileFailed: New ones could not be written.
    """
    paths = list(shares) or shares_in(home / "root") or write_together(home / "root", new_shares())
    opened = open_root([read_share(path) for path in paths], ask, clock().wall_us)
    if opened.statement.version != 1:
        raise BadShare(f"the shares are of root statement {opened.statement.version} of a cloud that was founded before")
    return opened


def found(
    config: Config, *, privileged: bool, ring1: str, first_uid: int, checkout: str, shares: Sequence[Path] = (), ask: Ask = no_passphrase
) -> Foundation:
    """Make the keys, grants and directories of a new cloud, signed with the root's *shares*, and return its foundation.

    Raises:
        FileFailed: A file could not be written.
        BadShare, TooFewShares, WrongPassphrase, RootOver, RootRefused: The shares make no threshold of a root.
    """
    home = config.path
    _make_directories(home, first_uid if privileged else os.geteuid())
    now = clock().wall_us
    root, statement, signers = root_in_hand(home, shares, ask)
    cloud = cloud_id(open_frame(root))
    owner = first_uid if privileged else os.geteuid()
    keyring = Keyring.create(home / "ring0" / "keys", cloud, issuer=True, owner=owner)
    foundation = Foundation(
        cloud=str(cloud),
        node=subject_id(cloud, "ring0", "n"),
        operator=subject_id(cloud, "operator", "o"),
        root=to_text(root),
        privileged=privileged,
        ring1=ring1,
        port_base=config.port_base,
        first_uid=first_uid,
        checkout=checkout,
        founded=now,
        bus=config.bus,
        journal="" if config.journal == "sqlite" else config.journal,
    )
    own = _ring0_grant(foundation, keyring, now, statement.expiry)
    grant = sign_grant(own, *signers)
    seed = random_bytes(SEED_BYTES)
    person = sign_grant(_operator_grant(foundation, Keyring(cloud, seed), open_frame(grant).digest, own), _issuer(keyring))
    trust = TrustSet(root)
    trust.add(grant)
    trust.add(person)
    texts = (to_text(grant), to_text(person))
    appointed = seal(CHARTER, canonical(_ring0_charter(foundation, open_frame(grant).digest)), *signers)
    told = Trust(root=to_text(root), grants=texts, charter=to_text(appointed))
    write_atomic(home / "ring0" / "trust.json", msgspec.json.encode(told), 0o644)
    save_operator_key(
        config.keys,
        OperatorKey(cloud=str(cloud), account=foundation.operator, seed=to_text(seed), root=to_text(root), grant=texts[1], home=str(home)),
    )
    write_foundation(home, foundation)
    return foundation


def _issuer(keyring: Keyring) -> Signer:
    if keyring.issuer is None:
        raise ConfigError("ring 0's issuer seed is missing")
    return keyring.issuer


def _make_directories(home: Path, owner: int) -> None:
    home.mkdir(mode=0o711, parents=True, exist_ok=True)
    os.chmod(home, 0o711)
    for name, mode in (
        ("root", 0o700),
        ("ring0", 0o700),
        ("ring0/keys", 0o700),
        ("init", 0o711),
        ("run", 0o711),
        ("bus", 0o711),
        ("runtime", 0o755),
        ("nodes", 0o710),
        ("log", 0o700),
    ):
        path = home / name
        if name == "ring0":
            shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=mode, exist_ok=True)
        os.chmod(path, mode)
    if os.geteuid() == 0:
        for name in ("ring0", "ring0/keys", "run", "bus"):
            os.chown(home / name, owner, owner)
        os.chown(home / "nodes", -1, owner)  # the daemon passes through to ring 1's socket; no other user of the host does


def everything(compartment: str) -> tuple[Capability, ...]:
    """Return every verb on *compartment* and what lies in it."""
    return tuple(Capability(verb, compartment) for verb in sorted(VERBS))


def _ring0_charter(foundation: Foundation, grant: str) -> Charter:
    """Return the charter by which the root appoints ring 0's decider."""
    return Charter(
        cloud=foundation.cloud,
        domain=CHANNEL,
        epoch=1,
        version=1,
        decider=foundation.node,
        parent=ROOT,
        grant=grant,
        blocks=tuple(Block(network="fabric", ipv4=prefix) for prefix in PREFIXES[:1]),
        uid_first=foundation.first_uid if foundation.privileged else -1,
    )


def read_own_charter(trust: TrustSet, text: str, node: str) -> Charter:
    """Return ring 0's charter in frame *text*, signed by a threshold of the root, for this cloud and this decider.

    Raises:
        RootRefused: Too few of the root's keys signed it.
        CharterRefused: It is for another domain, cloud or decider.
    """
    frame = open_frame(from_text(text))
    check_threshold(frame, trust.root)
    charter = parse(frame.payload, Charter)
    check_succession(None, charter, cloud=str(trust.cloud), domain=CHANNEL)
    if frame.type != CHARTER or charter.decider != node:
        raise CharterRefused(f"the root appointed {charter.decider} for ring 0, not {node}")
    return charter


def _ring0_grant(foundation: Foundation, keyring: Keyring, now: int, root_expiry: int) -> Grant:
    return Grant(
        v=1,
        cloud=foundation.cloud,
        subject=foundation.node,
        role=SUPERVISOR_ROLE,
        ring=0,
        depth=3,
        compartment="cloud",
        keys=PublicKeys(
            message=keyring.message.public.hex(),
            journal=keyring.journal.public.hex(),
            issue=_issuer(keyring).public.hex(),
            curve=keyring.curve.public.hex(),
            nats=keyring.nats.public.hex(),
        ),
        allowed=everything("cloud"),
        channels=CHANNELS,
        prefixes=PREFIXES,
        not_before=now - SKEW_US,
        expiry=min(now + ROOT_DAYS * DAY_US, root_expiry),
        autonomy=DAY_US,
    )


def _operator_grant(foundation: Foundation, keyring: Keyring, parent: str, ring0: Grant) -> Grant:
    return Grant(
        v=1,
        cloud=foundation.cloud,
        subject=foundation.operator,
        role=OPERATOR_ROLE,
        ring=0,
        depth=0,
        compartment="cloud",
        keys=PublicKeys(message=keyring.message.public.hex(), curve=keyring.curve.public.hex(), nats=keyring.nats.public.hex()),
        allowed=everything("cloud"),
        channels=CHANNELS,
        not_before=ring0.not_before,
        expiry=min(ring0.not_before + OPERATOR_DAYS * DAY_US, ring0.expiry),
        parent=parent,
    )
