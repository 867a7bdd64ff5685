"""The projection beside the journal: brought up to the head, or made anew.

Owns the comparison at start and the rebuild. The rows themselves are written by the injected ``Projection``.
Imports SQLAlchemy Core.

INV-PRJ-1: after ``settle`` the projection's rows are those of World, and World comes from the entries: a row edited by
hand decides nothing and does not survive a start.
INV-PRJ-2: a projection that is ahead of the journal, or of another cloud or domain, is never written over: it is
evidence that the journal was put back or mixed up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection

from bus.journal.entry import Head, genesis
from bus.journal.errors import ForeignJournal, ProjectionAhead
from bus.journal.reader import Meta, Reader
from bus.journal.replay import Facts, fold
from bus.journal.store import Projection, Store, set_projection
from enjin.log import get

_log: Final = get("journal.projection")


def check_place(place: Meta, cloud: str, domain: str, head: Head, reader: Reader) -> None:
    """Check that a projection that stands at *place* can belong to the journal with *head*.

    Raises:
        ForeignJournal: It is of another cloud or domain, or follows other entries.
        ProjectionAhead: It stands at an entry that the journal does not have.
    """
    if (place.cloud, place.domain) != (cloud, domain):
        raise ForeignJournal(
            f"the projection is of domain {place.domain!r} in cloud {place.cloud[:6]}, not of {domain!r} in cloud {cloud[:6]}"
        )
    if place.head.number > head.number:
        raise ProjectionAhead(
            f"the projection stands at entry {place.head.number}, the journal ends at entry {head.number}", number=head.number + 1
        )
    entry = reader.entry(place.head.number) if place.head.number else None
    expected = entry.hash if entry is not None else genesis(cloud, domain).hash
    if place.head.hash != expected:
        raise ForeignJournal(f"the projection was made from another entry {place.head.number}", number=place.head.number)


def settle(
    store: Store, reader: Reader, projection: Projection, head: Head, world: Any, empty: Callable[[], Any], full: Callable[[], Any]
) -> str:
    """Make the projection hold exactly the rows of *world*, which stands at *head*.

    Args:
        store: The journal's writer.
        reader: The journal's reader.
        projection: The tables.
        head: The journal's head.
        world: World at *head*.
        empty: Makes an empty World.
        full: Makes World at *head* by a fold from the first entry, with every row among its changes.

    Returns:
        What was wrong: "" (nothing), "absent", "behind" or "edited"; it is right now.

    Raises:
        ForeignJournal, ProjectionAhead: It is refused; nothing has changed.
    """
    meta = reader.meta()
    if meta is None:
        raise ForeignJournal("the journal has no head")
    place = store.projected(reader)
    if place is not None:
        check_place(place, meta.cloud, meta.domain, head, reader)
    store.project(projection.create)
    if place is None:
        wrong = "absent"
    elif place.head != head:
        wrong = "behind"
    else:
        wrong = "" if _digest_of_rows(store, projection, empty) == world.digest() else "edited"
    if wrong:
        if place is not None and (place.head.number or wrong == "edited"):
            _log.warning("projection.differed", reason=wrong, number=place.head.number, head=head.number)
        make_anew(store, projection, meta.cloud, meta.domain, head, full().take_changes())
    return wrong


def _digest_of_rows(store: Store, projection: Projection, empty: Callable[[], Any]) -> str:
    """Return the digest of the World that the rows make; "" when they make none."""
    try:
        world = empty()
        store.project(lambda connection: projection.load(connection, world))
        digest: str = world.digest()
    except Exception as error:  # whatever was written into the tables by hand: they are made anew
        _log.warning("projection.unreadable", error=error)
        return ""
    return digest


def make_anew(store: Store, projection: Projection, cloud: str, domain: str, head: Head, changes: Any) -> None:
    """Replace every row of the projection in one transaction: a reader sees the old rows or the new ones."""

    def swap(connection: Connection) -> None:
        projection.create(connection)
        projection.clear(connection)
        projection.write(connection, changes)
        set_projection(connection, cloud, domain, head)

    store.project(swap)


def fold_from_genesis(reader: Reader, empty: Callable[[], Any], facts: Facts, head: Head) -> Any:
    """Return World at *head*, folded from the first entry, with every row among its changes."""
    meta = reader.meta()
    world = empty()
    if meta is not None:
        fold(world, reader.walk(0, head.number), facts, genesis(meta.cloud, meta.domain))
    return world
