"""Destroying a compartment: when it may be, and the steps in which ring 0's journal follows what ring 1's nodes do.

Owns the decisions; what ring 0 itself knows to lie in a compartment is listed here, what apps and tokens ring 1 has is ring 1's to
say. A wish is decided on ring 0's world alone, then ``ring0.closing`` asks every ring 1 node. Pure.

INV-DES-1: a compartment is condemned, and gone, only when every ring 1 node of the world was named as having agreed, and it is empty still.
INV-DES-2: nobody's key, account or token counts beneath the path of a compartment that is gone: the next of that name inherits nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from bus.messages import Asker, Command, Fact, Moment, Question, Role, Rule, always
from compartments import graph, lookup, standing
from compartments.destroying import HELD_MAX, DestroyCompartment, Holdings, ShowHoldings, ending_of, in_use, one_line, state_of
from compartments.facts.endings import CompartmentClosing, CompartmentCondemned, CompartmentDestroyed, CompartmentKept
from compartments.rows import (
    Account,
    Compartment,
    Containment,
    Grant,
    KeyRequest,
    Membership,
    Network,
    NetworkInterface,
    Node,
    RevokedKey,
    Token,
    Volume,
)
from compartments.rows_endings import Ending
from compartments.rows_joining import JoinToken
from compartments.world import World
from enjin.canonical import to_text
from enjin.errors import Conflict, Invalid, Refused
from ring0.compartments import place_id, root
from ring0.genesis import DEFAULT


class NeededByCloud(Refused):
    """The cloud itself needs the compartment."""

    code = "E-CMP-006"
    remedy = "`enjin down --destroy` destroys the whole cloud"


class OtherCompartment(Invalid):
    """The id that confirms a destruction is another compartment's."""

    code = "E-CMP-009"
    remedy = "confirm with its id, which `enjin compartment show` has; there is no undo"


class NotSoFar(Conflict):
    """A compartment's end is not so far, or is further."""

    code = "E-CMP-010"


class CondemnCompartment(Command, kind="compartment.condemn", kw_only=True):
    """Say that every ring 1 node (*nodes*, ids) has closed a compartment and found the approvals to hold."""

    compartment: str
    nodes: tuple[str, ...]


class KeepCompartment(Command, kind="compartment.keep", kw_only=True):
    """Say that a ring 1 node would not let a compartment go, and that all have opened it again."""

    compartment: str
    why: str


class ForgetCompartment(Command, kind="compartment.forget", kw_only=True):
    """Say that on every ring 1 node (*nodes*, ids) nothing is left of a compartment, its key least of all."""

    compartment: str
    nodes: tuple[str, ...]


def holdings(world: World, row: Compartment, time: int) -> list[str]:
    """Return what lies in compartment *row* or is bound to it at *time*, in words; nothing: it is empty as far as ring 0 knows."""
    path = graph.path_text(world, row.id)
    return [*_places(world, row.id), *_people(world, row.id, time), *_keys(world, row.id, path, time)]


def _places(world: World, place: str) -> Iterator[str]:
    """Compartments, nodes, networks and volumes that have their home in it, and what lies in it by a further edge."""
    for child in world.find(Compartment, parent=place):
        yield f"compartment {child.name}"
    for node in world.find(Node, compartment=place):
        yield f"node {node.label}"
    for network in world.find(Network, compartment=place):
        count = len(world.find(NetworkInterface, network=network.id))
        yield f"network {network.name} ({count} address{'' if count == 1 else 'es'})"
    for volume in world.find(Volume, compartment=place):
        if volume.state != "gone":
            yield f"volume {volume.name}"
    for edge in world.find(Containment, parent=place):
        inner, node_row = world.get(Compartment, edge.child), world.get(Node, edge.child)
        if inner is not None and inner.parent != place:
            yield f"compartment {inner.name} (contained)"
        elif node_row is not None and node_row.compartment != place:
            yield f"node {node_row.label} (contained)"


def _people(world: World, place: str, time: int) -> Iterator[str]:
    """Accounts that have their home or a role in it, and tokens that count there."""
    members = {row.account for row in world.find(Membership, compartment=place)}
    members |= {row.id for row in world.find(Account, compartment=place)}
    for account in sorted((world.need(Account, one) for one in members), key=lambda one: one.name):
        if account.state == "active":
            yield f"account {account.name}"
    for token in world.all(Token):
        if token.compartment == place and not token.revoked and (not token.expires or time < token.expires):
            yield f"token {token.name} of {world.need(Account, token.account).name}"
    for join in world.all(JoinToken):
        if join.compartment == place and not join.used and not join.revoked and time < join.expires:
            yield f"join token {join.id}"


def _keys(world: World, place: str, path: str, time: int) -> Iterator[str]:
    """Keys whose grants name it by its path of names, and requests for some."""
    from keys.grants import within_path  # with cryptography, which a table that is only listed does without

    for asked in world.all(KeyRequest):
        if asked.compartment == place:
            yield f"key {asked.key[:16]} (asked for)"
    held: dict[str, str] = {}
    for grant in world.all(Grant):
        revoked = world.get(RevokedKey, grant.key) or world.get(RevokedKey, grant.id)
        if revoked is None and time < grant.expiry and within_path(grant.compartment, path):
            account = world.get(Account, grant.subject)
            held[grant.key] = account.name if account is not None else grant.subject
    for key, holder in sorted(held.items()):
        yield f"key {key[:16]} of {holder}"


def destroy(wish: DestroyCompartment, world: World, at: Moment) -> Iterator[Fact]:
    """Close a compartment that is empty as far as ring 0 knows.

    Raises:
        NoSuchCompartment, OtherCompartment, NeededByCloud, BeingDestroyed, CompartmentInUse.
    """
    row = lookup.compartment(world, wish.compartment)
    if wish.confirm != row.id:
        raise OtherCompartment(f"{wish.confirm[:40]!r} does not confirm that compartment {row.name} is destroyed")
    if row.id == root(world).id or row.name == DEFAULT:
        raise NeededByCloud(f"compartment {row.name} is the cloud's own")
    lookup.check_open(world, row)
    held = holdings(world, row, at.time)
    if held:
        raise in_use(row.name, held)
    yield CompartmentClosing(
        compartment=row.id, name=row.name, asker=at.asker.id, asked=to_text(at.frame), reason=at.asker.reason, time=at.time
    )


def condemn(wish: CondemnCompartment, world: World, at: Moment) -> Iterator[Fact]:
    """Condemn a compartment that every ring 1 node has closed; once more is no news. Raises: NotSoFar, CompartmentInUse."""
    ending = _need(world, wish.compartment, "closing", "condemned")
    if ending.state == "condemned":
        return
    _check_nodes(world, wish.nodes)
    held = holdings(world, world.need(Compartment, ending.compartment), at.time)
    if held:
        raise in_use(ending.name, held)
    yield CompartmentCondemned(compartment=ending.compartment, time=at.time)


def keep(wish: KeepCompartment, world: World, at: Moment) -> Iterator[Fact]:
    """Open a closing compartment again. Raises: NotSoFar, Invalid."""
    ending = _need(world, wish.compartment, "closing")
    yield CompartmentKept(compartment=ending.compartment, why=one_line(wish.why), time=at.time)


def forget(wish: ForgetCompartment, world: World, at: Moment) -> Iterator[Fact]:
    """Take a condemned compartment out of the graph; once more is no news. Raises: NotSoFar."""
    ending = _need(world, wish.compartment, "condemned", "destroyed")
    if ending.state == "destroyed":
        return
    _check_nodes(world, wish.nodes)
    yield CompartmentDestroyed(compartment=ending.compartment, name=ending.name, asker=ending.asker, reason=ending.reason, time=at.time)


def _need(world: World, compartment: str, *states: str) -> Ending:
    ending = world.get(Ending, compartment)
    if ending is None or ending.state not in states:
        raise NotSoFar(f"compartment {compartment[:40]} is {state_of(world, compartment)}, not {' or '.join(states)}")
    return ending


def _check_nodes(world: World, nodes: tuple[str, ...]) -> None:
    missing = [node.label for node in world.find(Node, ring=1) if node.id not in nodes]
    if missing:
        raise NotSoFar(f"nothing was heard of node {', '.join(missing)}")


def destroyed(wish: DestroyCompartment, world: World, _at: Moment) -> object:
    """Return the compartment and how far its end is: its id is what ``compartment.holds`` is asked with."""
    row = lookup.compartment(world, wish.compartment)
    return {"id": row.id, "name": row.name, "state": state_of(world, row.id)}


def questions(notes: Callable[[], Mapping[str, str]], clock: Callable[[], int]) -> tuple[Question, ...]:
    """Return the row of the closed table that tells how far a compartment's end is; *notes* has what each waits for, by id."""

    def show(query: ShowHoldings, world: World, asker: Asker) -> Holdings:
        """Return what is left of a compartment. Raises: NoSuchCompartment, Forbidden."""
        known = world.get(Ending, query.compartment)
        if known is not None and known.state == "destroyed" and world.get(Compartment, known.compartment) is None:
            if asker.role < Role.SUPERVISOR and asker.compartment not in ("", root(world).name, root(world).id):
                raise lookup.NoSuchCompartment(f"there is no compartment {query.compartment[:40]!r}")
            return Holdings(ring=0, id=known.compartment, name=known.name, state="destroyed")
        row = lookup.compartment(world, query.compartment)
        standing.require(world, asker, row.id)
        ending, held = ending_of(world, row.id), holdings(world, row, clock())
        kept = world.get(Ending, row.id)
        why = notes().get(row.id, "") if ending is not None else kept.why if kept is not None else ""
        return Holdings(
            ring=0, id=row.id, name=row.name, state=state_of(world, row.id), holds=tuple(held[:HELD_MAX]), why=one_line(why)
        )  # fmt: skip

    return (Question(ShowHoldings, show, Role.OPERATOR, lambda query, world: place_id(world, query.compartment)),)


TABLE: Final = (
    Rule(
        DestroyCompartment,
        destroy,
        allow=Role.OPERATOR,
        compartment=lambda wish, world: place_id(world, wish.compartment),
        result=destroyed,
        urgent=True,
        approvals=always,
    ),
    Rule(CondemnCompartment, condemn, allow=Role.SUPERVISOR, urgent=True),
    Rule(KeepCompartment, keep, allow=Role.SUPERVISOR),
    Rule(ForgetCompartment, forget, allow=Role.SUPERVISOR, urgent=True),
)
