"""A snapshot on its way to a follower: in parts that fit a message, put together again and only then believed.

Owns the shape of a part and the putting together. The bytes are checked by whoever takes the snapshot (``followed_world``).
"""

from __future__ import annotations

from typing import Final

from bus.journal.entry import Shape
from bus.journal.errors import BadSnapshot
from bus.journal.reader import Reader, StoredSnapshot
from bus.journal.snapshot import BODY_MAX_BYTES

PART_BYTES: Final = 393_216


class SnapshotPart(Shape, frozen=True, kw_only=True):
    """Bytes *offset* and following of a snapshot's body of *size* bytes (compressed), with its signed header."""

    number: int
    hash: str
    digest: str
    key_id: str
    signature: bytes
    size: int
    offset: int
    data: bytes


def part_of(reader: Reader, after: int, number: int, offset: int) -> SnapshotPart | None:
    """Return the part at *offset* of snapshot *number* (0: the newest one above entry *after*); None: there is none."""
    found = reader.snapshot_part(after, number, max(0, offset), PART_BYTES)
    if found is None:
        return None
    head, size = found
    return SnapshotPart(
        number=head.number, hash=head.hash, digest=head.digest, key_id=head.key_id, signature=head.signature, size=size, offset=offset,
        data=head.body,
    )  # fmt: skip


class Parts:
    """Puts one snapshot together: add each part that comes, ask for the one at ``offset`` while there is one missing."""

    def __init__(self, first: SnapshotPart) -> None:
        if not 0 < first.size <= BODY_MAX_BYTES or first.offset != 0:
            raise BadSnapshot(f"a snapshot of {first.size} bytes that starts at {first.offset} is none")
        self._first, self._body = first, bytearray()
        self.add(first)

    @property
    def number(self) -> int:
        """Whose parts these are."""
        return self._first.number

    @property
    def offset(self) -> int:
        """Where the next part begins."""
        return len(self._body)

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return len(self._body) == self._first.size

    def add(self, part: SnapshotPart) -> None:
        """Add *part*. Raises: BadSnapshot: it is not the next one of this snapshot."""
        fits = part.offset == len(self._body) and len(part.data) > 0 and len(self._body) + len(part.data) <= self._first.size
        if (part.number, part.hash, part.size) != (self._first.number, self._first.hash, self._first.size) or not fits:
            raise BadSnapshot(f"the part at {part.offset} does not belong to snapshot {self._first.number}")
        self._body += part.data

    def snapshot(self) -> StoredSnapshot:
        """Return the snapshot, unchecked."""
        first = self._first
        return StoredSnapshot(first.number, first.hash, first.digest, first.key_id, first.signature, bytes(self._body))
