"""m of n: what one operator must not do alone waits for others, who sign that they agree.

Owns the wishes and the question about approvals, and ``gated``, which makes a rule that asks for them (``Rule(..., approvals=always)``)
wait: the same in every ring. A wish that waits is a fact with an end; the last approval that was needed carries it out in its own
entry, decided anew on the world as it is then. Who counts is ``compartments.operators``'s matter; whoever acts checks the signed
messages again (``compartments.approved``). Pure.

INV-APR-1: an approval is signed by another operator's own key over the hash of the very message that asked; no token approves.
INV-APR-2: whoever asked never counts, one person counts once, and a key that is revoked meanwhile does not count.
INV-APR-3: no daemon is exempt: whoever has its key asks operators like everybody else.
INV-APR-4: what was refused, withdrawn, carried out or has expired is never carried out (again).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from bus.envelope import read_statement
from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule, Table
from compartments import accounts, graph, operators
from compartments.facts.approvals import ApprovalAsked, ApprovalCarried, ApprovalGiven, ApprovalRefused
from compartments.rows import Grant, RevokedKey
from compartments.rows_approvals import ApprovalRequest
from compartments.waiting import counted, find, line, waiting
from compartments.world import World
from enjin.canonical import from_text, parse, to_text
from enjin.errors import Conflict, Forbidden, InvariantError, Refused
from keys.frame import open_frame

PREFIX: Final = "q"
LIFE_US: Final = 3_600_000_000
WAITING_MAX: Final = 64


class OwnRequest(Forbidden):
    """Nobody approves what they asked for themselves."""

    code = "E-APR-003"
    remedy = "another operator approves it: `enjin approve`"


class AnotherRequest(Conflict):
    """The approval is for another request than the one that waits."""

    code = "E-APR-004"
    remedy = "look at it again: `enjin approvals`"


class NotAnApprover(Forbidden):
    """The key does not count for this request."""

    code = "E-APR-005"
    remedy = "approve with an operator's own key that is older than the request (a day older where two operators have such)"


class AskerGone(Refused):
    """Whoever asked may not do so any more."""

    code = "E-APR-006"
    remedy = "another operator asks anew"


class TooManyWaiting(Refused):
    """As many requests wait for approval as may."""

    code = "E-APR-007"
    http_status = 409
    remedy = "approve or refuse some: `enjin approvals`"


class Approve(Command, kind="trust.approve"):
    """Approve a wish that waits: *request* is its id, *digest* the hash of the signed message that asked for it."""

    request: str
    digest: str


class Refuse(Command, kind="trust.refuse"):
    """Refuse a wish that waits, or withdraw one's own."""

    request: str


class ListApprovals(Query, kind="trust.approvals"):
    """The wishes that wait for approval: who asked for what, why, and until when; with *ended* also those that wait no more."""

    ended: bool = False


def gated(rule: Rule, path: str) -> Rule:
    """Return *rule* so that it waits for approvals where it says that it needs them; *path* is the whole domain's compartment."""
    needs = rule.approvals
    if needs is None:
        return rule

    def decide(wish: Any, world: World, at: Moment) -> Iterator[Fact]:
        if not needs(wish, world):
            yield from rule.decide(wish, world, at)
            return
        facts = list(rule.decide(wish, world, at))  # what would be refused now asks nobody
        place = rule.compartment(wish, world) if rule.compartment is not None else ""
        touched = graph.locate(world, place) if place else path
        count = operators.needed(world, touched, at.asker.id, at.time)
        yield from [_asked(world, at, rule.command.KIND, touched, count)] if facts and count else facts

    def result(wish: Any, world: World, at: Moment) -> object:
        row = world.get(ApprovalRequest, at.id(0, PREFIX))
        if row is not None:
            return {"approval": line(world, row, at.time)}
        return rule.result(wish, world, at) if rule.result is not None else None

    return msgspec.structs.replace(rule, decide=decide, result=result)


def _asked(world: World, at: Moment, kind: str, path: str, count: int) -> ApprovalAsked:
    if not at.frame:
        raise InvariantError("a wish that needs approvals came without its signed message")
    others = [row for row in world.find(ApprovalRequest, state="waiting") if at.time < row.expires]
    if len(others) >= WAITING_MAX:
        raise TooManyWaiting(f"{len(others)} requests wait for approval")
    frame = open_frame(at.frame)
    return ApprovalAsked(
        id=at.id(0, PREFIX),
        wish=kind,
        digest=frame.digest,
        asker=at.asker.id,
        grant=read_statement(frame).grant,
        path=path,
        needed=count,
        time=at.time,
        expires=at.time + LIFE_US,
        frame=to_text(at.frame),
        token=at.asker.token,
        door=at.asker.door,
        reason=at.asker.reason,
    )


def approve(wish: Approve, world: World, at: Moment, rules: Callable[[str], Rule]) -> Iterator[Fact]:
    """Approve a waiting wish, and carry it out when this was the last approval it needed; once more by the same person is no news.

    Raises:
        NoSuchRequest, RequestEnded, AnotherRequest, OwnRequest, NotAnApprover, AskerGone; what the wish itself is refused with now.
    """
    row = waiting(world, wish.request, at.time)
    if wish.digest != row.digest:
        raise AnotherRequest(f"request {row.id} is not the one that was approved")
    if at.asker.id == row.asker:
        raise OwnRequest(f"you asked for {row.wish} yourself")
    if at.asker.token or not at.frame:
        raise NotAnApprover("an approval is signed with a key of your own, not by a door for a token")
    frame = open_frame(at.frame)
    key = str(frame.key_id)
    if operators.approvers(world, row.path, row.asker, row.time, at.time).get(key) != at.asker.id:
        raise NotAnApprover(f"key {key[:16]} does not count for request {row.id}")
    before = counted(world, row, at.time)
    if any(one.account == at.asker.id for one in before):
        return
    grant, text = read_statement(frame).grant, to_text(at.frame)
    yield ApprovalGiven(request=row.id, account=at.asker.id, key=key, grant=grant, time=at.time, frame=text)
    if len(before) + 1 >= row.needed:
        given = (*(one.frame for one in before), text)
        yield ApprovalCarried(request=row.id, asked=row.frame, given=given, by=at.asker.id, time=at.time)
        yield from carry(world, row, at.time, rules)


def carry(world: World, row: ApprovalRequest, time: int, rules: Callable[[str], Rule]) -> Iterator[Fact]:
    """Yield what the wish in *row* makes true, decided for whoever asked on the world as it is now.

    Raises:
        AskerGone: And what the wish is refused with.
    """
    wish, at = read_wish(row, rules(row.wish)), _moment(world, row, time)
    yield from rules(row.wish).decide(wish, world, at)


def read_wish(row: ApprovalRequest, rule: Rule) -> Any:
    """Return the wish in the message that asked, as it was signed."""
    return parse(read_statement(open_frame(from_text(row.frame))).body, rule.command)


def _moment(world: World, row: ApprovalRequest, time: int) -> Moment:
    data = from_text(row.frame)
    statement = read_statement(open_frame(data))
    if row.token:
        asker = accounts.account_of(world, row.asker, row.token, time)
        if asker is None:
            raise AskerGone(f"the token by which {row.wish} was asked for stands for nobody any more")
    else:
        grant = world.get(Grant, row.grant)
        if grant is None or world.get(RevokedKey, grant.key) is not None or not grant.not_before <= time < grant.expiry:
            raise AskerGone(f"the key by which {row.wish} was asked for is not in force any more")
        asker = Asker(id=grant.subject, role=Role(grant.role), compartment=grant.compartment)
    asker = msgspec.structs.replace(asker, token=row.token, door=row.door, reason=row.reason)
    return Moment(time=time, request=statement.rid, asker=asker, frame=data)


def refuse(wish: Refuse, world: World, at: Moment) -> Iterator[Fact]:
    """Refuse a waiting wish, or withdraw one's own. Raises: NoSuchRequest, RequestEnded, NotAnApprover."""
    row = waiting(world, wish.request, at.time)
    own = at.asker.id == row.asker
    if not own and at.asker.id not in operators.approvers(world, row.path, row.asker, row.time, at.time).values():
        raise NotAnApprover(f"{at.asker.id} has no say in request {row.id}")
    yield ApprovalRefused(request=row.id, by=at.asker.id, withdrawn=own, time=at.time)


def where_request(wish: Approve | Refuse, world: World) -> str:
    """Return the compartment that the request touches, for the permission check; "" when there is no such request."""
    row = world.get(ApprovalRequest, wish.request)
    return row.path if row is not None else ""


def service(
    rows: Iterable[Iterable[Rule | Question]], *, path: str, domain: str, ring: int, clock: Callable[[], int]
) -> list[Rule | Question]:
    """Return the rows of a daemon's table with those that need approvals made to wait, and the rows about approvals.

    Args:
        rows: The services' tables.
        path: The compartment of the whole domain, as names.
        domain, ring: Told with each request.
        clock: Cloud time, by which a listing says what has expired.
    """
    given = [row for table in rows for row in table]
    rules = Table(given).rule

    def decide(wish: Approve, world: World, at: Moment) -> Iterator[Fact]:
        yield from approve(wish, world, at, rules)

    def told(wish: Approve | Refuse, world: World, at: Moment) -> object:
        return {"ring": ring, "domain": domain} | line(world, find(world, wish.request), at.time)

    def listed(query: ListApprovals, world: World, asker: Asker) -> list[dict[str, Any]]:
        now = clock()
        lines = [line(world, row, now) for row in sorted(world.all(ApprovalRequest), key=lambda row: (row.time, row.id))]
        return [{"ring": ring, "domain": domain} | one for one in lines if query.ended or one["state"] == "waiting"]

    return [
        *(gated(row, path) if isinstance(row, Rule) else row for row in given),
        Rule(Approve, decide, allow=Role.OPERATOR, compartment=where_request, result=told, urgent=True),
        Rule(Refuse, refuse, allow=Role.OPERATOR, compartment=where_request, result=told, urgent=True),
        Question(ListApprovals, listed, allow=Role.OPERATOR),
    ]
