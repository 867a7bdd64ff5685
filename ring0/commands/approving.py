"""`enjin approvals|approve`: what one operator must not do alone, and what another says to it.

What is approved is the signed message that asked, and not what a server tells of it: the message is verified, and shown, here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from enjin.errors import EnjinError, NotFound, Refused
from enjin.output import json_option, print_json, reason_option, rfc3339
from ring0.commands.client import both, done, partial, run, show_rows, told, want

if TYPE_CHECKING:
    from bus.session import Session

COUNT_MAX: Final = 5
UNVERIFIED: Final = "unverified"
COLUMNS: Final = {
    "id": "ID", "ring": "RING", "what": "WHAT", "wish": "WISH", "who": "WHO", "why": "WHY", "state": "STATE", "approved": "APPROVED BY",
    "needed": "NEEDED", "created": "ASKED", "ends": "ENDS",
}  # fmt: skip


class WaitsForApproval(Refused):
    """What was asked for waits for other operators' approval."""

    code = "E-APR-009"
    exit_status = 3


class NothingWaits(NotFound):
    """No request for approval has this id."""

    code = "E-APR-010"
    remedy = "`enjin approvals` lists what waits"


def settled(result: Any, meanwhile: str = "") -> Any:
    """Return a command's *result*.

    Raises:
        WaitsForApproval: Others must approve it first; *meanwhile* says how things stand until then.
    """
    request = result.get("approval") if isinstance(result, dict) else None
    if request is None:
        return result
    others = "1 other operator" if request["needed"] == 1 else f"{request['needed']} other operators"
    raise WaitsForApproval(
        f"{request['what']} waits for the approval of {others} until {rfc3339(request['expires'])}{meanwhile and f'; {meanwhile}'}",
        hint=f"they approve with `enjin approve {request['id']}`; `enjin approve {request['id']} --refuse` withdraws it",
    )


@click.command("approvals")
@click.option("--all", "ended", is_flag=True, help="Also those that wait no more.")
@click.option("--require", "count", type=click.IntRange(1, COUNT_MAX), help="Let so many others approve from now on (it is 2 until then).")
@reason_option
@json_option
def approvals(ended: bool, count: int | None, reason: str, as_json: bool) -> None:
    """List what waits for another operator's approval: who asked for what, why, and until when.

    \b
    Examples:
      enjin approvals
      enjin approvals --require 1 --reason "we are three, and one is always away"
    """
    if count is not None:
        from ring0.approvals import RequireApprovals

        told_count = settled(want(RequireApprovals(approvals=count), reason))
        done(told_count, as_json, f"{told_count['approvals']} others must approve from now on, where there are so many")
        return

    async def work(session: Session) -> tuple[list[dict[str, Any]], list[str]]:
        return await requests(session, ended)

    rows, missing = run(work)
    if as_json:
        print_json(told(rows))
    else:
        show_rows([row | {"ends": rfc3339(row["expires"])} for row in rows], COLUMNS, False, empty="nothing waits")
    partial(missing)


@click.command("approve")
@click.argument("identity", metavar="ID")
@click.option("--refuse", is_flag=True, help="Refuse it instead, or withdraw what you asked for yourself.")
@reason_option
@json_option
def approve(identity: str, refuse: bool, reason: str, as_json: bool) -> None:
    """Approve request ID of another operator with your own key; the last approval that it needs carries it out.

    \b
    Examples:
      enjin approve q-0123456789abcdef --reason "agreed by telephone"
      enjin approve q-0123456789abcdef --refuse --reason "he is not who he says"
    """

    async def work(session: Session) -> dict[str, Any]:
        from compartments.approvals import Approve, Refuse

        row = await one(session, identity)
        wish = Refuse(request=row["id"]) if refuse else Approve(request=row["id"], digest=row["digest"])
        found: dict[str, Any] = await session.command(row["ring"], wish, reason=reason)
        return row | {key: found[key] for key in ("state", "approved", "needed", "ended", "by")}

    row = run(work)
    words = {
        "waiting": f"approved by {len(row['approved'])} of {row['needed']}",
        "carried": "approved, and carried out",
        "refused": "refused",
        "withdrawn": "withdrawn",
    }
    done(row, as_json, f"{row['what']} of {row['who']} ({row['wish']}): {words[row['state']]}")


async def requests(session: Session, ended: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the requests of both rings, each with the wish that was signed and people's names, and why a ring is missing."""
    import msgspec

    from compartments.approvals import ListApprovals
    from compartments.approved import open_signed
    from ring0.accounts import ListAccounts

    rows, missing = await both(session, ListApprovals(ended=ended))
    names = {row["id"]: row["name"] for row in await session.query(0, ListAccounts())}
    found = []
    for row in rows:
        people = {"who": names.get(row["who"], row["who"]), "approved": [names.get(one, one) for one in row["approved"]]}
        try:
            statement, frame, _ = open_signed(row.pop("frame"), session.trust)  # what a server says of it counts for nothing
        except EnjinError as error:  # signed by a key that is known here no more, or not what the server says
            found.append(row | people | {"state": UNVERIFIED, "why": error.message})
            continue
        what, wish = statement.kind.partition(".")[2], msgspec.json.decode(statement.body)
        found.append(row | people | {"what": what, "wish": wish, "digest": frame.digest, "why": statement.reason})
    return sorted(found, key=lambda row: (row["created"], row["id"])), missing


async def one(session: Session, identity: str) -> dict[str, Any]:
    """Return the request with id *identity*, of whichever ring. Raises: NothingWaits."""
    rows, missing = await requests(session, ended=True)
    found = [row for row in rows if row["id"] == identity]
    if not found:
        raise NothingWaits(f"there is no request {identity[:80]!r}{''.join(f' ({why})' for why in missing)}")
    if found[0]["state"] == UNVERIFIED:
        raise NothingWaits(f"request {identity[:80]!r} cannot be verified here: {found[0]['why']}")
    return found[0]
