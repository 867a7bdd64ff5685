"""What we believe now: the pinned root, the grants that chain to it, and what was revoked. Pure.

Owns the set of grants of one receiver and answers two questions: which grant does this key id belong to, and what may
its subject do at this moment. Grants enter only by ``add``, which checks the whole chain; time is an argument. Until when a
grant counts before whom is ``keys.term``'s rule.

INV-TRU-1: nothing is believed whose chain does not end in a threshold of the pinned root.
INV-TRU-2: a revoked key or grant takes every descendant with it, at once and for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

from enjin.errors import Refused
from enjin.names import KeyId
from keys.authority import Authority, GrantExpired, Known, Revoked, Standing, UnknownKey
from keys.frame import Frame, open_frame
from keys.grants import CHAIN_MAX, ROOT_PARENT, Capability, Grant, GrantRefused, check_within, read_grant
from keys.root import RootStatement, check_signed
from keys.signing import key_id, verify
from keys.succession import RootChain
from keys.term import OUTSIDE, end_at_home, ends


class TrustSet:
    """The grants that one receiver believes, all chained to one root."""

    def __init__(self, root_frame: bytes) -> None:
        self.roots = RootChain(root_frame)
        self.root_frame = root_frame
        self.cloud = self.roots.cloud
        self._grants: dict[str, Grant] = {}
        self._frames: dict[str, bytes] = {}
        self._keys: dict[str, Known] = {}
        self._revoked: dict[str, str] = {}
        self._bound: dict[str, str] = {}  # public key (hex) -> the subject to which a grant binds it
        self._names: dict[str, frozenset[str]] = {}  # grant -> what revokes it: its own hash, and the id of each of its keys
        self._named: dict[str, list[str]] = {}  # what revokes a grant -> the grants that it revokes, in the order of their coming
        self._held: dict[str, tuple[int, str]] = {}  # subject -> since when its newest grant is in force, and that grant
        self._standing: dict[tuple[str, str], Standing] = {}  # by grant and home; emptied by every revocation

    @property
    def root(self) -> RootStatement:
        """The root statement in force."""
        return self.roots.statement

    def follow_roots(self, frames: Iterable[bytes]) -> bool:
        """Believe the root's successors and return whether any was news; what the newest does not confirm is revoked.

        Raises:
            RootRefused, BadFrame, BadKey, Malformed, NotCanonical: One may not follow; those before it are believed.
        """
        before = self.root.version
        try:
            self.roots.follow(frames)
        finally:
            if self.root.version != before:
                for digest in [one for one, grant in self._grants.items() if grant.parent == ROOT_PARENT]:
                    if digest not in self.root.confirms:
                        self.revoke(digest, f"not confirmed by root statement {self.root.version}")
        return self.root.version != before

    def add(self, data: bytes) -> str:
        """Believe the grant in frame *data* and return its hash.

        Raises:
            GrantRefused: Wider than its issuer's, from an unknown issuer, too deep, or a key already bound elsewhere.
            BadSignature, RootRefused, Malformed, NotCanonical, BadKey, BadFrame.
        """
        frame = open_frame(data)
        digest = frame.digest
        if digest in self._grants:
            return digest
        grant = read_grant(frame)
        if grant.cloud != self.cloud:
            raise GrantRefused("the grant belongs to another cloud")
        self._check_issuer(frame, grant)
        self._bind_keys(grant, digest)
        self._grants[digest] = grant
        self._frames[digest] = data
        self._names[digest] = frozenset({digest, *(str(key_id(bytes.fromhex(key))) for key in grant.keys.all())})
        for name in self._names[digest]:
            self._named.setdefault(name, []).append(digest)
        self._held[grant.subject] = max(self._held.get(grant.subject, (grant.not_before, digest)), (grant.not_before, digest))
        return digest

    def _check_issuer(self, frame: Frame, grant: Grant) -> None:
        if grant.parent == ROOT_PARENT:
            check_signed(frame, self.root)
            if grant.ring != 0 or grant.expiry > self.root.expiry:
                raise GrantRefused("the root grants ring 0 alone, and not past its own expiry")
            return
        parent = self._grants.get(grant.parent)
        if parent is None:
            raise GrantRefused("the grant's issuer is unknown here")
        check_within(grant, parent)
        if len(self._chain(grant.parent)) >= CHAIN_MAX:
            raise GrantRefused(f"the chain is longer than {CHAIN_MAX}")
        verify(bytes.fromhex(parent.keys.issue), frame.type, frame.payload, frame.signature)

    def _bind_keys(self, grant: Grant, digest: str) -> None:
        if any(self._bound.get(key, grant.subject) != grant.subject for key in grant.keys.all()):
            raise GrantRefused("a key of the grant is already bound to another subject")
        self._bound.update(dict.fromkeys(grant.keys.all(), grant.subject))
        public = bytes.fromhex(grant.keys.message)
        identity = str(key_id(public))
        known = self._keys.get(identity)
        if known is None or self._grants[known.grant].not_before <= grant.not_before:
            self._keys[identity] = Known(public, digest)

    def _chain(self, digest: str) -> tuple[str, ...]:
        chain = [digest]
        while (parent := self._grants[chain[-1]].parent) != ROOT_PARENT:
            chain.append(parent)
        return tuple(chain)

    def revoke(self, identity: str, reason: str = "") -> None:
        """Never believe key id or grant hash *identity*, nor anything beneath it, again."""
        self._revoked.setdefault(identity, reason)
        self._standing.clear()

    @property
    def revoked(self) -> dict[str, str]:
        """What was revoked: key id or grant hash -> reason."""
        return dict(self._revoked)

    def key(self, identity: KeyId | str) -> Known:
        """Return the public key behind key id *identity*. Raises: UnknownKey."""
        known = self._keys.get(str(identity))
        if known is None:
            raise UnknownKey("no grant names the key of this signature")
        return known

    def message_keys(self) -> dict[str, bytes]:
        """Return every public key that a grant names for signing messages, by key id; revoked ones have signed too."""
        return {identity: known.public for identity, known in self._keys.items()}

    def authority(self, digest: str, now: int, home: str = OUTSIDE) -> Authority:
        """Return what the subject of grant *digest* may do at *now* (microseconds of cloud time).

        *home* is the domain in which the receiver stands, by its decider's subject: there what the decider and those beneath it say
        counts for its autonomy (``keys.term``). A receiver that names none believes nothing after its expiry.

        Raises:
            UnknownKey: No such grant.
            GrantExpired, Revoked: It, one of its keys, or one above it.
        """
        standing = self._standing.get((digest, home))
        if standing is not None and standing.begin <= now < standing.end:
            return standing.authority
        if digest not in self._grants:
            raise UnknownKey("the grant is unknown here")
        chain = self._chain(digest)
        for step in chain:
            if not self._names[step].isdisjoint(self._revoked):
                raise Revoked(
                    f"the key or grant of {self._grants[step].subject} was revoked",
                    hint="sign with another key; `enjin trust show` names who revoked it",
                )
        links = [self._grants[step] for step in chain]
        until = list(ends(links, home))
        for one, end in zip(reversed(links), until, strict=True):
            if not one.not_before <= now < end:
                raise GrantExpired(f"the grant of {one.subject} is not in force now")
        grant = links[0]
        authority = Authority(grant, digest, chain, str(key_id(bytes.fromhex(grant.keys.message))), {})
        self._standing[digest, home] = Standing(authority, max(one.not_before for one in links), min(until))
        return authority

    def grant_of(self, subject: str) -> str | None:
        """Return the hash of the newest grant of *subject*; None when it has none."""
        held = self._held.get(subject)
        return held[1] if held is not None else None

    def beside(self, subject: str) -> dict[str, bytes]:
        """Return who decides in the domain of *subject* beside it, with the public journal key of each.

        They are those to whom the root itself, as to *subject*, gave a journal key; nobody where a ring above gave it. Who was
        revoked stands among them: its entries are still there.
        """
        found = {
            grant.subject: bytes.fromhex(grant.keys.journal)
            for grant in self._grants.values()
            if grant.parent == ROOT_PARENT and grant.keys.journal
        }
        return {one: key for one, key in found.items() if one != subject} if subject in found else {}

    def grant(self, digest: str) -> Grant:
        """Return the grant with hash *digest*. Raises: UnknownKey."""
        if digest not in self._grants:
            raise UnknownKey("the grant is unknown here")
        return self._grants[digest]

    def lineage(self, digest: str) -> tuple[Grant, ...]:
        """Return grant *digest* and those above it, the root's own last. Raises: UnknownKey."""
        self.grant(digest)
        return tuple(self._grants[step] for step in self._chain(digest))

    def frame(self, digest: str) -> bytes:
        """Return the frame of grant *digest*. Raises: UnknownKey."""
        self.grant(digest)
        return self._frames[digest]

    def named(self, identity: str) -> list[str]:
        """Return the hashes of the grants that key id or grant hash *identity* revokes, without what is beneath them."""
        return list(self._named.get(identity, ()))

    def frames(self) -> list[bytes]:
        """Return every believed grant's frame, parents first."""
        return list(self._frames.values())

    def forget(self, now: int) -> None:
        """Forget the grants that have ended for everybody at *now*, where the same key has a newer one: they are renewed each half hour."""
        newest = {known.grant for known in self._keys.values()} | {digest for _, digest in self._held.values()}
        needed = {digest for digest, grant in self._grants.items() if digest in newest or now < end_at_home(grant)}
        kept = needed.union(*(self._chain(digest) for digest in needed))
        if len(kept) < len(self._grants):
            for digest in self._grants.keys() - kept:
                for name in self._names.pop(digest):
                    self._named[name].remove(digest)
                    if not self._named[name]:
                        del self._named[name]
                del self._grants[digest], self._frames[digest]
            self._standing.clear()

    def curve_keys(self, now: int) -> list[str]:
        """Return the CURVE public keys (hex) of every subject that is believed now."""
        found = []
        for digest, grant in self._grants.items():
            if grant.keys.curve:
                try:
                    self.authority(digest, now)
                except Refused:
                    continue
                found.append(grant.keys.curve)
        return found

    def logins(self, now: int) -> tuple[list[Grant], frozenset[str]]:
        """Return the grants in force *now* that name a key for NATS, and every such key (hex) that any believed grant names."""
        named = {digest: grant for digest, grant in self._grants.items() if grant.keys.nats}
        in_force = []
        for digest, grant in named.items():
            try:
                self.authority(digest, now)
            except Refused:
                continue
            in_force.append(grant)
        return in_force, frozenset(grant.keys.nats for grant in named.values())


__all__ = ["Authority", "Capability", "GrantExpired", "GrantRefused", "Known", "Revoked", "TrustSet", "UnknownKey"]
