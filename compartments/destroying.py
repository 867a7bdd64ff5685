"""Destroying a compartment: the words in which it is asked for, told from ring to ring, and asked about.

Owns what ring 0, which has the graph, and ring 1, which has apps, tokens and keys, say to each other about it. Order: ring 0 decides
that it closes; each ring 1 node refuses while it holds anything, else lets nothing new in and checks the approvals; only when all have
is it condemned, and every key to it destroyed; only when all are is it gone from the graph. Each step may be repeated. Pure.

INV-DST-1: until a compartment is condemned nothing of it is lost; from then on nothing of it is kept.
INV-DST-2: a wish names the compartment's id, which is never used again: it destroys no later one of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from bus.messages import Command, Query
from compartments.rows_endings import Ending
from compartments.world import World
from enjin.errors import Refused

State = Literal["open", "closing", "condemned", "destroyed"]
SHOWN_MAX: Final = 5
HELD_MAX: Final = 200
WHY_CHARACTERS_MAX: Final = 500


class CompartmentInUse(Refused):
    """A compartment that should be destroyed holds something."""

    code = "E-CMP-007"
    http_status = 409
    remedy = "end or move that first; `enjin compartment destroy NAME --dry-run` lists all of it"


class DestroyCompartment(Command, kind="compartment.destroy"):
    """Destroy an empty compartment and the key to its secrets: what was sealed in it is unreadable for ever, in backups too.

    Fields:
        confirm: Its id, so that no later compartment of that name is meant.
    """

    compartment: str
    confirm: str


class EndCompartment(Command, kind="compartment.end", kw_only=True):
    """Let a compartment close, be condemned, or be open again: the ring above says so.

    Fields:
        compartment: Its id; *name* is what people call it.
        asked: The signed wish that it be destroyed, as base64url; *given* the signed approvals of *request*.
    """

    compartment: str
    name: str
    stage: Literal["closing", "condemned", "open"]
    asked: str = ""
    request: str = ""
    given: tuple[str, ...] = ()
    reason: str = ""


class ShowHoldings(Query, kind="compartment.holds", kw_only=True):
    """What a compartment holds that must end before it can be destroyed, how far its end is, and what that waits for."""

    compartment: str


class Holdings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer: of which ring, which compartment, what it holds in words (not more than are worth reading), and what its end waits for.

    ``state`` is open, closing, condemned or destroyed; ``why`` says what it waits for, or of an open one why it was kept.
    """

    ring: int
    id: str
    name: str
    state: State
    holds: Annotated[tuple[str, ...], msgspec.Meta(max_length=HELD_MAX)] = ()
    why: Annotated[str, msgspec.Meta(max_length=WHY_CHARACTERS_MAX)] = ""


def ending_of(world: World, compartment: str) -> Ending | None:
    """Return how *compartment* (an id) ends; None while nobody wants it destroyed."""
    row = world.get(Ending, compartment)
    return row if row is not None and row.state != "kept" else None


def state_of(world: World, compartment: str) -> State:
    """Return one word for *compartment* (an id)."""
    row = world.get(Ending, compartment)
    return row.state if row is not None and row.state != "kept" else "open"


def one_line(text: str) -> str:
    """Return *text*, which may be another's, as one line of what can be printed, and not a long one."""
    return "".join(one if one.isprintable() else " " for one in text[:WHY_CHARACTERS_MAX])


def in_use(name: str, held: Sequence[str]) -> CompartmentInUse:
    """Return the refusal that says what compartment *name* holds, the first few by name."""
    more = f" and {len(held) - SHOWN_MAX} more" if len(held) > SHOWN_MAX else ""
    return CompartmentInUse(f"compartment {name} holds {', '.join(held[:SHOWN_MAX])}{more}")
