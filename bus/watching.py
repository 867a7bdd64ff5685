"""Watching a channel: what passes by, verified and taken apart, for somebody who acts on none of it.

Owns the checks of a bystander. They are the receiver's own but for one: a bystander is nobody's audience. Neither
permission nor replay is looked at, because nothing is done. What does not verify is shown as such, never believed.

INV-WAT-1: whatever a watcher says of a message's signer, kind or body was signed by a key whose grant is in force now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from bus.batches import SUBJECT as BATCH
from bus.batches import unpack
from bus.envelope import Statement
from bus.messages import Observation, Reply
from bus.opening import Opened, Opening
from bus.replay import ReplayGuard
from bus.stages import StageRefused, WrongAudience
from enjin.canonical import parse
from enjin.errors import EnjinError
from keys.trust import TrustSet

ALL_WORDS = frozenset({"command", "query", "reply", "seen"})


class MessageRefused(Observation, kind="daemon.refused", kw_only=True):
    """A daemon did not take a message: at which stage, why, and how large it was; who claims to have signed it where that is known."""

    stage: str
    code: str
    why: str
    subject: str
    frame_bytes: int
    signer: str = ""
    request: str = ""


class Passing(NamedTuple):
    """One message as a watcher saw it; ``refusal`` says why it is not to be believed, and then ``opened`` is None."""

    subject: str
    frame_bytes: int
    opened: Opened | None
    refusal: str = ""


class _Listening(Opening):
    """The receiver's stages for one who is no receiver."""

    def _check_binding(self, statement: Statement, channel: str, subject: str) -> None:
        try:
            super()._check_binding(statement, channel, subject)
        except WrongAudience:
            # The order of the checks is cloud, channel, audience, subject, word: look at those behind the one that is not ours.
            super()._check_binding(msgspec.structs.replace(statement, aud=next(iter(self._audiences))), channel, subject)


class Watcher:
    """A bystander on one channel.

    Args:
        trust: What it believes.
        channel: The channel.
        clock: Its cloud time in microseconds.
    """

    def __init__(self, trust: TrustSet, channel: str, clock: Callable[[], int]) -> None:
        self._channel = channel
        self._opening = _Listening(
            trust=trust, channel=channel, audiences=frozenset({"nobody"}), words=ALL_WORDS, clock=clock, guard=ReplayGuard(0),
            home=channel.rpartition(".")[2],
        )  # fmt: skip

    def look(self, subject: str, frame: bytes) -> Passing:
        """Return what *frame*, which passed under *subject*, is."""
        try:
            return Passing(subject, len(frame), self._opening.verify(frame, channel=self._channel, subject=subject, connection=subject))
        except StageRefused as error:
            return Passing(subject, len(frame), None, f"{error.stage}: {error.message}")


def told(passing: Passing) -> dict[str, Any]:
    """Return a message as a line of JSON tells it: verified, or why not."""
    line: dict[str, Any] = {"subject": passing.subject, "bytes": passing.frame_bytes, "verified": passing.opened is not None}
    if passing.opened is None:
        return line | {"why": passing.refusal}
    statement = passing.opened.statement
    line |= {"time": statement.time, "from": statement.iss, "for": statement.aud, "request": statement.rid, "reason": statement.reason}
    if passing.opened.word == "reply":
        line |= _reply(statement)
    elif statement.kind == f"seen.{MessageRefused.KIND}":
        line |= {"refused": msgspec.json.decode(statement.body)}
    elif statement.kind == BATCH:
        line |= _batch(statement)
    return line


def _batch(statement: Statement) -> dict[str, Any]:
    try:
        return {"records": {run.kind: len(run.records) for run in unpack(statement.body)}}
    except EnjinError as error:
        return {"records": None, "why": error.message}


def _reply(statement: Statement) -> dict[str, Any]:
    try:
        reply = parse(statement.body, Reply)
    except EnjinError:
        return {"ok": None}
    return {"ok": reply.ok} | ({} if reply.ok else {"code": reply.code, "why": reply.message})
