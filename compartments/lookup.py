"""Finding what somebody named: by id, by name, or by the beginning of an id.

Owns the one way in which a reference becomes a row, and the errors when it does not. Names are labels: two rows of one type
never share one at the same time (``fresh_name``). Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeVar

from compartments.row import Row
from compartments.rows import Account, Compartment, Network, Node, Tier, Token
from compartments.rows_endings import Ending
from compartments.world import World
from enjin.errors import NotFound, Refused
from enjin.names import Name, NodeId, shorten

R = TypeVar("R", bound=Row)
PREFIX_CHARACTERS_MIN: Final = 4
SUGGESTIONS_MAX: Final = 3


class NoSuchCompartment(NotFound):
    """There is no such compartment."""

    code = "E-CMP-001"
    remedy = "`enjin compartment list` shows those there are"


class NoSuchTier(NotFound):
    """There is no such tier."""

    code = "E-TIR-001"
    remedy = "`enjin tier list` shows those there are"


class NoSuchNode(NotFound):
    """There is no such node."""

    code = "E-NOD-001"
    remedy = "`enjin node list` shows those there are"


class NoSuchNetwork(NotFound):
    """There is no such network."""

    code = "E-ADR-001"
    remedy = "`enjin network list` shows those there are"


class NoSuchAccount(NotFound):
    """There is no such account."""

    code = "E-ACC-001"
    remedy = "`enjin account list` shows those there are"


class NoSuchToken(NotFound):
    """There is no such token."""

    code = "E-ACC-002"
    remedy = "`enjin token list` shows those there are"


class Ambiguous(Refused):
    """A reference fits several things."""

    code = "E-LKP-001"
    remedy = "give more of the id"


class NameTaken(Refused):
    """A name is in use."""

    code = "E-LKP-002"
    http_status = 409
    remedy = "choose another name"


class BeingDestroyed(Refused):
    """A compartment is being destroyed, and nothing new is made in it."""

    code = "E-CMP-008"
    http_status = 409
    remedy = "use another one; `enjin compartment destroy NAME --dry-run` says how far it is"


class _Way(NamedTuple):
    what: str
    field: str
    error: type[NotFound]


_WAYS: Final[dict[type[Row], _Way]] = {
    Compartment: _Way("compartment", "name", NoSuchCompartment),
    Tier: _Way("tier", "name", NoSuchTier),
    Node: _Way("node", "label", NoSuchNode),
    Network: _Way("network", "name", NoSuchNetwork),
    Account: _Way("account", "name", NoSuchAccount),
    Token: _Way("token", "name", NoSuchToken),
}


def find_one(world: World, shape: type[R], text: str, *, where: Callable[[R], bool] | None = None) -> R:
    """Return the row of *shape* that *text* names: its id, its name, or at least four characters with which only its id begins.

    Args:
        where: Rows for which this is false do not count (a revoked token, say).

    Raises:
        NotFound: A subclass for *shape*; the hint suggests near names.
        Ambiguous: Several rows fit.
    """
    what, field, error = _WAYS[shape]
    exact = world.get(shape, text)
    if exact is not None:
        return exact
    named = [row for row in world.find(shape, **{field: text}) if where is None or where(row)]
    if not named and len(text) >= PREFIX_CHARACTERS_MIN:
        named = [row for row in world.all(shape) if _id_of(row).startswith(text)]
    if len(named) == 1:
        return named[0]
    if named:
        raise Ambiguous(f"{shorten(text)!r} fits {len(named)} {what}s: {', '.join(_id_of(row) for row in named[:SUGGESTIONS_MAX])}")
    near = difflib.get_close_matches(text[:64], [str(getattr(row, field)) for row in world.all(shape)], n=SUGGESTIONS_MAX)
    hint = f"did you mean {' or '.join(near)}?" if near else ""
    raise error(f"there is no {what} {shorten(text)!r}", hint=hint)


def fresh_name(world: World, shape: type[Row], text: str) -> str:
    """Return *text* as the name of a new row of *shape*.

    Raises:
        BadName: Not of a name's form.
        NameTaken: In use, or it looks like an id.
    """
    what, field, _ = _WAYS[shape]
    name = str(Name.parse(text))
    if NodeId.PATTERN.fullmatch(name):
        raise NameTaken(f"{name} looks like an id", hint="choose a name that does not end with 16 hex digits")
    if world.find(shape, **{field: name}):
        raise NameTaken(f"there is a {what} {name} already")
    return name


def _id_of(row: Any) -> str:
    return str(row.id)


def compartment(world: World, text: str) -> Compartment:
    """Return the compartment that *text* names. Raises: NoSuchCompartment, Ambiguous."""
    return find_one(world, Compartment, text)


def open_compartment(world: World, text: str) -> Compartment:
    """Return the compartment that *text* names, for something new in it. Raises: NoSuchCompartment, Ambiguous, BeingDestroyed."""
    row = compartment(world, text)
    check_open(world, row)
    return row


def check_open(world: World, row: Compartment) -> None:
    """Check that something new may be made in compartment *row*. Raises: BeingDestroyed."""
    ending = world.get(Ending, row.id)
    if ending is not None and ending.state != "kept":
        raise BeingDestroyed(f"compartment {row.name} is being destroyed")


def node(world: World, text: str) -> Node:
    """Return the node that *text* names. Raises: NoSuchNode, Ambiguous."""
    return find_one(world, Node, text)


def network(world: World, text: str) -> Network:
    """Return the network that *text* names. Raises: NoSuchNetwork, Ambiguous."""
    return find_one(world, Network, text)


def tier(world: World, text: str) -> Tier:
    """Return the tier that *text* names. Raises: NoSuchTier, Ambiguous."""
    return find_one(world, Tier, text)


def token_name(living: Iterable[Token], text: str) -> str:
    """Return *text* as the name of a token beside an account's *living* ones. Raises: BadName, NameTaken."""
    name = str(Name.parse(text))
    if any(token.name == name for token in living):
        raise NameTaken(f"there is a token {name} already")
    return name
