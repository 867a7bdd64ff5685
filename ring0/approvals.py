"""How many operators must agree: the one number of the policy, changed by command and told to every domain in its charter.

Owns ``trust.require``. Who counts and what waits is the same in every ring (``compartments.operators``, ``compartments.approvals``). Pure.

INV-APP-1: the number is changed under the number that is in force: whoever wants to need fewer needs as many first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bus.messages import Command, Fact, Moment, Role, Rule, always
from compartments import operators
from compartments.facts.approvals import ApprovalsRequired
from compartments.world import World
from enjin.errors import Invalid

COUNT_MAX: Final = 5


class BadCount(Invalid):
    """So many approvals cannot be required."""

    code = "E-APR-011"
    remedy = f"from 1 to {COUNT_MAX}; where there are fewer other operators, all of them"


class RequireApprovals(Command, kind="trust.require"):
    """Let *approvals* others approve what one operator must not do alone, where there are so many."""

    approvals: int


def require(wish: RequireApprovals, world: World, at: Moment) -> Iterator[Fact]:
    """Change the number; the same again changes nothing. Raises: BadCount."""
    if not 1 <= wish.approvals <= COUNT_MAX:
        raise BadCount(f"{wish.approvals} approvals cannot be required")
    before = operators.latest(world)
    if wish.approvals != before:
        yield ApprovalsRequired(count=wish.approvals, before=before, time=at.time)


def told(_wish: RequireApprovals, world: World, _at: Moment) -> object:
    """Return the number in force."""
    return {"approvals": operators.latest(world)}


TABLE: Final = (Rule(RequireApprovals, require, allow=Role.OPERATOR, result=told, approvals=always),)
