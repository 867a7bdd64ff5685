"""The root's succession: which statement is in force, and which may follow it. Pure.

Owns the making of a successor and the chain from the first statement, whose hash is the cloud's id, to the newest. A successor
names its predecessor by hash and is signed by a threshold of the old keys and of its own, so neither the old holders nor the new
ones can do it alone. What earlier roots signed counts on only where the successor confirms it by hash.

INV-SUC-1: versions rise by exactly one; a statement that is passed by, older, or another of the same version is refused.

Source: The Update Framework 1.0, 5.3.4 to 5.3.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from enjin.canonical import canonical
from keys.frame import ROOT, Frame, open_frame, seal
from keys.root import THRESHOLD, RootRefused, RootStatement, check_threshold, cloud_id, read_root
from keys.signing import Signer


class StaleRoot(RootRefused):
    """A root statement is older than the one in force."""

    code = "E-ROT-002"
    http_status = 409


class RootSkipped(RootRefused):
    """A root statement does not follow from the one in force."""

    code = "E-ROT-003"


class RootForked(RootRefused):
    """Two root statements of one version differ: whoever signed both deceives somebody."""

    code = "E-ROT-004"
    remedy = "two holders of shares signed twice: compare their statements before you believe either"


def make_successor(
    current: Frame, old: Sequence[Signer], new: Sequence[Signer], *, issued: int, expiry: int, confirms: Iterable[str] = ()
) -> bytes:
    """Return the frame of the statement after *current*, with the keys of *new*, signed by a threshold of both.

    Args:
        current: The statement in force.
        old: Keys of it, at least its threshold.
        new: All keys of the successor.
        issued: Microseconds of wall clock; so *expiry*.
        confirms: Hashes of what earlier roots signed and this one goes on standing for.
    """
    before = read_root(current)
    statement = RootStatement(
        v=1,
        version=before.version + 1,
        threshold=THRESHOLD,
        keys=tuple(signer.public.hex() for signer in new),
        issued=issued,
        expiry=expiry,
        previous=current.digest,
        confirms=tuple(sorted(confirms)),
    )
    return seal(ROOT, canonical(statement), *old[: before.threshold], *new[:THRESHOLD])


class RootChain:
    """The root statements from the first, which is pinned, to the newest that is believed."""

    def __init__(self, first: bytes) -> None:
        frame = open_frame(first)
        statement = read_root(frame)
        if statement.version != 1:
            raise RootSkipped(f"a cloud is pinned by its first root statement, not by number {statement.version}")
        self.first, self.cloud = first, cloud_id(frame)
        self.statements, self.digests = [statement], [frame.digest]
        self.successors: list[bytes] = []

    @property
    def statement(self) -> RootStatement:
        """The statement in force."""
        return self.statements[-1]

    def take(self, data: bytes) -> bool:
        """Believe the statement in frame *data* after the one in force; return False when it is the one in force.

        Raises:
            StaleRoot, RootSkipped, RootForked: It is not the next.
            RootRefused: Too few of the old or of its own keys signed it, or it ends earlier.
            BadFrame, BadKey, Malformed, NotCanonical.
        """
        frame, now = open_frame(data), self.statement
        if frame.digest == self.digests[-1]:
            return False
        statement = read_root(frame)
        if statement.version <= now.version:
            self._refuse_old(frame, statement)
        if statement.version != now.version + 1 or statement.previous != self.digests[-1]:
            raise RootSkipped(f"root statement {statement.version} does not follow from {now.version}, which is in force")
        check_threshold(frame, now)
        if statement.expiry < now.expiry:
            raise RootRefused("a root statement does not end before the one it follows")
        self.statements.append(statement)
        self.digests.append(frame.digest)
        self.successors.append(data)
        return True

    def _refuse_old(self, frame: Frame, statement: RootStatement) -> None:
        """Say what is wrong with a statement that is not newer: a fork is only what the right keys have signed."""
        number, newest = statement.version, self.statement.version
        if self.digests[number - 1] == frame.digest:
            raise StaleRoot(f"root statement {number} is older than {newest}, which is in force")
        if number == 1:
            raise RootRefused("the first root statement of another cloud")
        check_threshold(frame, self.statements[number - 2])
        raise RootForked(f"there is another root statement {number}")

    def follow(self, frames: Iterable[bytes]) -> None:
        """Believe, in order, every statement of *frames* that we do not believe yet. Raises: as ``take``."""
        for data in frames:
            if open_frame(data).digest not in self.digests:
                self.take(data)
