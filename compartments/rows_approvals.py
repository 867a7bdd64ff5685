"""Rows about wishes that wait for other operators' approval, and the approvals that they have.

Owns the shapes only, and that of the policy. What was asked and what was said to it stand here as the very bytes that were signed.
"""

from __future__ import annotations

from typing import Final, Literal

from compartments.row import Row

RequestState = Literal["waiting", "carried", "refused", "withdrawn"]


class ApprovalRequest(Row):
    """A wish that waits, or waited: who asked by which grant, what, where, why, and until when it can be approved.

    ``digest`` is the hash of ``frame``, the signed wish as base64url; ``path`` the compartment that it touches, as names.
    ``needed`` is how many others must approve; ``ended`` and ``by`` say when and through whom it stopped waiting.
    """

    INDEX = ("state", "digest")

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
    state: RequestState = "waiting"
    ended: int = 0
    by: str = ""


class Approval(Row):
    """What one operator said to one request; ``frame`` is the signed approval as base64url."""

    KEY = ("request", "account")
    INDEX = ("request",)

    request: str
    account: str
    key: str
    grant: str
    time: int
    frame: str


class ApprovalPolicy(Row):
    """How many others must approve at most, since when (microseconds of cloud time), and how many before that; one row or none."""

    id: str
    count: int
    since: int
    before: int


ROWS: Final = (ApprovalRequest, Approval, ApprovalPolicy)
