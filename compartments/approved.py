"""Whether what was done had its approvals: checked by whoever acts on it, from the signed messages alone.

Owns the check that a receiver makes before it destroys anything. It believes neither the decider nor its counting: it looks for the
messages in the entry, verifies each signature with what it trusts itself, and counts who signed.

INV-APD-1: a decider that writes down what others never signed moves nobody who acts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bus.envelope import Statement, read_statement
from bus.messages import Role
from compartments import operators
from compartments.approvals import Approve
from compartments.destroying import DestroyCompartment
from compartments.rows import RevokedKey
from compartments.rows_approvals import Approval, ApprovalRequest
from compartments.rows_endings import Ending
from compartments.world import World
from enjin.canonical import from_text, parse
from enjin.errors import EnjinError, Refused
from keys.frame import Frame, open_frame
from keys.grants import Grant, within_path
from keys.signing import verify
from keys.trust import TrustSet

APPROVAL: Final = f"command.{Approve.KIND}"
DESTROY: Final = f"command.{DestroyCompartment.KIND}"


class NotApproved(Refused):
    """Something was decided that needed approvals, and has none that hold."""

    code = "E-APR-008"
    remedy = "nothing was destroyed; see in the journal who decided it: `enjin audit log`"


def signers(asked: str, given: Iterable[str], request: str, path: str, trust: TrustSet) -> set[str]:
    """Return the operators of *path* who approved the message *asked* by signing one of *given* (frames as base64url).

    Who asked is never one.

    Raises:
        NotApproved: A message is not what it says, or its signature does not hold.
    """
    try:
        wanted, first, _ = open_signed(asked, trust)
        found = set()
        for text in given:
            statement, _, grant = open_signed(text, trust)
            body = parse(statement.body, Approve)
            if statement.kind != APPROVAL or body.digest != first.digest or body.request != request:
                raise NotApproved(f"an approval of request {request} was signed for something else")
            if statement.aud != wanted.aud or statement.channel != wanted.channel or statement.behalf is not None:
                raise NotApproved(f"an approval of request {request} was signed for another receiver, or by a door")
            if grant.role != Role.OPERATOR or not within_path(path, grant.compartment):
                raise NotApproved(f"an approval of request {request} was signed by somebody who does not operate {path}")
            found.add(statement.iss)
    except NotApproved:
        raise
    except EnjinError as error:
        raise NotApproved(f"the messages of request {request} do not hold: {error.message}") from error
    return found - {wanted.behalf.account if wanted.behalf is not None else wanted.iss}


def open_signed(text: str, trust: TrustSet) -> tuple[Statement, Frame, Grant]:
    """Return the statement in a frame whose signature, and whose signer's name, hold by what we trust, and the signer's grant."""
    frame = open_frame(from_text(text))
    known = trust.key(frame.key_id)
    verify(known.public, frame.type, frame.payload, frame.signature)
    statement = read_statement(frame)
    grant = trust.grant(known.grant)
    if grant.subject != statement.iss or statement.cloud != trust.cloud:
        raise NotApproved("a message was signed by another than it says")
    return statement, frame, grant


def check(world: World, trust: TrustSet, kind: str, path: str, time: int) -> None:
    """Check that wish *kind* on the compartment at *path*, which came true at *time*, had the approvals that it needed.

    Raises:
        NotApproved: It needed some, and has not as many that hold.
    """
    rows = [row for row in world.find(ApprovalRequest, state="carried") if (row.wish, row.path, row.ended) == (kind, path, time)]
    if not rows:
        if len({one.account for one in operators.held(world, path, time)}) > 1:
            raise NotApproved(f"{kind} on {path} needed approvals, and there are none")
        return
    for row in rows:
        frame = open_frame(from_text(row.frame))
        if frame.digest != row.digest or read_statement(frame).kind != f"command.{kind}":
            raise NotApproved(f"request {row.id} is not what was asked for")
        agreed = signers(row.frame, [one.frame for one in world.find(Approval, request=row.id)], row.id, path, trust)
        needed = operators.needed(world, path, row.asker, row.time)
        if len(agreed) < needed:
            raise NotApproved(f"request {row.id} has {len(agreed)} approvals that hold, and needs {needed}")


def check_order(world: World, trust: TrustSet, ending: Ending, path: str) -> None:
    """Check that the compartment at *path* was asked to be destroyed, and with the approvals that it needs, which another ring counted.

    An order counts for a day from its signing: so many operators as there were then, by what we know ourselves, must have agreed. A key
    that was revoked before we heard of the order does not count; one that is revoked later did.

    Raises:
        NotApproved: The messages in *ending* do not hold, are about another compartment, too old, or too few.
    """
    try:
        statement, frame, grant = open_signed(ending.asked, trust)
        opened = {text: open_signed(text, trust) for text in ending.given}
        wish = parse(statement.body, DestroyCompartment) if statement.kind == DESTROY else None
    except NotApproved:
        raise
    except EnjinError as error:
        raise NotApproved(f"the order to destroy {path} does not hold: {error.message}") from error
    if wish is None or wish.confirm != ending.compartment:
        raise NotApproved(f"the order to destroy {path} was signed for something else")
    if abs(ending.since - statement.time) > operators.DAY_US:
        raise NotApproved(f"the order to destroy {path} is older than a day")
    if grant.role < Role.OPERATOR or not within_path(path, grant.compartment):
        raise NotApproved(f"the order to destroy {path} was signed by somebody who does not operate it")
    if _revoked(world, frame, statement, ending.since):
        raise NotApproved(f"the order to destroy {path} was signed with a key that is revoked")
    asker = statement.behalf.account if statement.behalf is not None else statement.iss
    given = [text for text, (said, signed, _) in opened.items() if not _revoked(world, signed, said, ending.since)]
    agreed = signers(ending.asked, given, ending.request, path, trust)
    needed = operators.needed(world, path, asker, statement.time)
    if len(agreed) < needed:
        raise NotApproved(f"destroying {path} has {len(agreed)} approvals that hold, and needs {needed}")


def _revoked(world: World, frame: Frame, statement: Statement, time: int) -> bool:
    """Whether the key that signed *frame*, or the grant that it spoke by, was revoked at *time*."""
    rows = (world.get(RevokedKey, str(frame.key_id)), world.get(RevokedKey, statement.grant))
    return any(row is not None and row.time <= time for row in rows)
