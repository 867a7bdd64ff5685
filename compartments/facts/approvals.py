"""Facts about wishes that wait for other operators' approval: asked, approved, carried out, refused.

Owns how these rows change. Decides nothing. The signed messages themselves stand in the facts: whoever reads the entry by which
a wish was carried out has all that is needed to check that it was approved (``compartments.approved``).
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from bus.messages import Fact
from compartments.rows_approvals import Approval, ApprovalPolicy, ApprovalRequest
from compartments.world import World

POLICY: Final = "approvals"


class ApprovalAsked(Fact, kind="approval.asked", kw_only=True):
    """A wish waits for *needed* others until *expires*; *frame* is the signed wish, *digest* its hash."""

    id: str
    wish: str
    digest: str
    asker: str
    grant: str
    path: str
    needed: int
    time: int
    expires: int
    frame: str
    token: str = ""
    door: str = "bus"
    reason: str = ""

    def apply(self, world: World) -> None:
        """Let it wait."""
        world.put(
            ApprovalRequest(
                id=self.id, wish=self.wish, digest=self.digest, asker=self.asker, grant=self.grant, path=self.path, needed=self.needed,
                time=self.time, expires=self.expires, frame=self.frame, token=self.token, door=self.door, reason=self.reason,
            )
        )  # fmt: skip


class ApprovalGiven(Fact, kind="approval.given", kw_only=True):
    """An operator approves a waiting wish; *frame* is the signed approval."""

    request: str
    account: str
    key: str
    grant: str
    time: int
    frame: str

    def apply(self, world: World) -> None:
        """Add the approval."""
        world.put(Approval(request=self.request, account=self.account, key=self.key, grant=self.grant, time=self.time, frame=self.frame))


class ApprovalCarried(Fact, kind="approval.carried", kw_only=True):
    """A wish has its approvals, and what it makes true stands in the same entry; *asked* and *given* are the signed messages."""

    request: str
    asked: str
    given: tuple[str, ...]
    by: str
    time: int

    def apply(self, world: World) -> None:
        """End the request."""
        world.put(replace(world.need(ApprovalRequest, self.request), state="carried", ended=self.time, by=self.by))


class ApprovalRefused(Fact, kind="approval.refused", kw_only=True):
    """A waiting wish is refused by another operator, or withdrawn by whoever asked."""

    request: str
    by: str
    withdrawn: bool = False
    time: int

    def apply(self, world: World) -> None:
        """End the request."""
        state = "withdrawn" if self.withdrawn else "refused"
        world.put(replace(world.need(ApprovalRequest, self.request), state=state, ended=self.time, by=self.by))


class ApprovalsRequired(Fact, kind="approval.required", kw_only=True):
    """From now on *count* others must approve, as far as there are so many; *before* it were as many as that."""

    count: int
    before: int
    time: int

    def apply(self, world: World) -> None:
        """Replace the policy."""
        world.put(ApprovalPolicy(id=POLICY, count=self.count, since=self.time, before=self.before))


FACTS: Final = (ApprovalAsked, ApprovalGiven, ApprovalCarried, ApprovalRefused, ApprovalsRequired)
