"""Requests that wait for approval, as they stand in the world: found, counted and told. Pure.

Owns what became of a request at a moment, which approvals count then, and how it is listed. Deciding is ``approvals``'s matter.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from bus.envelope import read_statement
from compartments import operators
from compartments.rows_approvals import Approval, ApprovalRequest
from compartments.world import World
from enjin.canonical import from_text
from enjin.errors import Conflict, NotFound
from enjin.names import shorten
from keys.frame import open_frame

ENDED: Final = {"expired": "has expired", "carried": "was carried out", "refused": "was refused", "withdrawn": "was withdrawn"}


class NoSuchRequest(NotFound):
    """There is no such request for approval."""

    code = "E-APR-001"
    remedy = "`enjin approvals` lists what waits"


class RequestEnded(Conflict):
    """The request was refused, withdrawn, carried out, or has expired."""

    code = "E-APR-002"
    remedy = "ask again: a new request is approved anew"


def find(world: World, text: str) -> ApprovalRequest:
    """Return the request with id *text*. Raises: NoSuchRequest."""
    row = world.get(ApprovalRequest, text)
    if row is None:
        raise NoSuchRequest(f"there is no request {shorten(text)!r}")
    return row


def state_of(row: ApprovalRequest, time: int) -> str:
    """Return what became of a request: ``waiting``, ``expired``, ``carried``, ``refused`` or ``withdrawn``."""
    return "expired" if row.state == "waiting" and time >= row.expires else row.state


def waiting(world: World, text: str, time: int) -> ApprovalRequest:
    """Return the request with id *text* if it waits at *time*. Raises: NoSuchRequest, RequestEnded."""
    row = find(world, text)
    state = state_of(row, time)
    if state != "waiting":
        raise RequestEnded(f"request {row.id} ({row.wish}) {ENDED[state]}{f' by {row.by}' if row.by else ''}")
    return row


def counted(world: World, row: ApprovalRequest, time: int) -> list[Approval]:
    """Return the approvals of a request that count at *time*."""
    keys = operators.approvers(world, row.path, row.asker, row.time, time)
    return [one for one in world.find(Approval, request=row.id) if keys.get(one.key) == one.account]


def line(world: World, row: ApprovalRequest, time: int) -> dict[str, Any]:
    """Return a request as it is listed at *time*."""
    given = counted(world, row, time) if row.state == "waiting" else world.find(Approval, request=row.id)
    return {
        "id": row.id,
        "what": row.wish,
        "wish": msgspec.json.decode(read_statement(open_frame(from_text(row.frame))).body),
        "where": row.path,
        "who": row.asker,
        "token": row.token,
        "why": row.reason,
        "state": state_of(row, time),
        "needed": row.needed,
        "approved": [one.account for one in given],
        "digest": row.digest,
        "created": row.time,
        "expires": row.expires,
        "ended": row.ended,
        "by": row.by,
        "frame": row.frame,
    }
